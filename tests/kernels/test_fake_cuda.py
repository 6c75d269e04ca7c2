"""PyCUDA as released, on the fake CUDA driver that the tests of the CUDA launcher use: what works, what is refused.

The programs run in processes of their own: a process has one driver from its start, and its errors last.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.kernels.fake_cuda.build import CannotBuildError, build_kernels, cached, toolkit
from tests.kernels.fake_cuda.pycuda_env import FakeCuda, default_cache, pycuda_environment

Run = Callable[..., None]

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for
FATBIN = b"\x50\xed\x55\xba" + bytes(60)
KERNELS = """
#include "emulated_kernel.h"

struct Scale { float* data; int count; float factor; };

static const char* check(const unsigned*, const unsigned*, const void* parameters, int (*on_device)(unsigned long long,
                                                                                                  unsigned long long)) {
    const Scale& scale = *static_cast<const Scale*>(parameters);
    return on_device((unsigned long long)scale.data, sizeof(float) * scale.count) ? nullptr : "data is out of range";
}
static void launch(const unsigned*, const unsigned*, size_t, const void* parameters) {
    const Scale& scale = *static_cast<const Scale*>(parameters);
    for (int i = 0; i < scale.count; i++) scale.data[i] *= scale.factor;
}
const EmulatedKernel emulated_kernels[] = {{"scale", 16, launch, check}, {"scale_unchecked", 16, launch, nullptr}};
const int emulated_kernel_count = 2;
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a function of this module in a process that has PyCUDA and the fake driver."""
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(KERNELS)
    try:
        kernels = build_kernels(folder / "kernels.cpp", folder / "kernels.so")
        env = pycuda_environment(default_cache(), kernels)
    except CannotBuildError as error:
        pytest.skip(str(error))

    def run(program: Callable[[], None], killed_by: int = 0, **settings: str) -> None:
        command = [sys.executable, "-c", f"from {__name__} import {program.__name__} as program; program()"]
        done = subprocess.run(command, env=env | settings, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (-killed_by, "")

    return run


def pycuda_driver() -> Any:
    return importlib.import_module("pycuda.driver")


@contextlib.contextmanager
def primary_context() -> Iterator[tuple[Any, FakeCuda]]:
    """pycuda.driver with the primary context current.

    PyCUDA aborts a process that ends with a context on its stack, and does not release a primary one by itself.
    """
    cuda = pycuda_driver()
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        yield cuda, FakeCuda()
    finally:
        context.pop()
        context.detach()


def to_host(cuda: Any, memory: Any, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    result = np.zeros(count, np.float32)
    cuda.memcpy_dtoh(result, memory)
    return result


def device_and_contexts() -> None:
    cuda = pycuda_driver()
    with pytest.raises(cuda.Error, match="cuDeviceGetCount failed: not initialized"):
        cuda.Device.count()
    cuda.init()
    device = cuda.Device(0)
    assert (cuda.Device.count(), device.name()) == (1, "Fake CUDA device (CPU)")
    assert device.compute_capability() == (8, 6)
    assert device.get_attribute(cuda.device_attribute.MAX_THREADS_PER_BLOCK) == device.max_threads_per_block == 1024
    assert device.get_attributes()[cuda.device_attribute.COMPUTE_CAPABILITY_MINOR] == 6
    assert device.total_memory() == 4 << 30
    assert cuda.get_driver_version() >= 12_000
    with pytest.raises(cuda.LogicError, match="invalid device"):
        cuda.Device(1)

    with pytest.raises(cuda.LogicError, match="invalid context"):
        cuda.mem_alloc(16)
    first, second = device.retain_primary_context(), device.retain_primary_context()
    assert first.handle == second.handle
    second.detach()
    first.push()
    memory = cuda.mem_alloc(16)
    own = device.make_context()
    with pytest.raises(cuda.LogicError, match="invalid value"):
        cuda.memcpy_htod(memory, bytes(16))
    assert "is of another context" in FakeCuda().last_error
    own.pop()
    own.detach()
    cuda.memcpy_htod(memory, bytes(16))
    cuda.Context.pop()
    first.detach()


def memory() -> None:
    with primary_context() as (cuda, fake):
        free_before, total = cuda.mem_get_info()
        assert free_before == total == 1 << 20
        values = np.arange(100, dtype=np.float32)
        memory = cuda.mem_alloc(values.nbytes)
        assert np.isnan(to_host(cuda, memory, 100)).all()
        cuda.memcpy_htod(memory, values)
        cuda.memcpy_htod(int(memory) + 8, values[:1])
        np.testing.assert_array_equal(to_host(cuda, memory, 3), [0, 1, 0])
        other = cuda.mem_alloc(values.nbytes)
        cuda.memcpy_dtod(other, memory, values.nbytes)
        cuda.memset_d32(memory, 0, 50)
        np.testing.assert_array_equal(to_host(cuda, memory, 100)[[49, 50]], [0, 50])
        np.testing.assert_array_equal(to_host(cuda, other, 100)[[49, 50]], [49, 50])

        def refused(message: str, function: Callable[..., None], *args: object) -> None:
            with pytest.raises(cuda.LogicError, match="failed: invalid value"):
                function(*args)
            assert message in fake.last_error

        refused("404 bytes at", cuda.memcpy_htod, memory, np.zeros(101, np.float32))
        refused("400 bytes at", cuda.memcpy_dtoh, values, int(memory) + 4)
        refused("is not device memory", cuda.memcpy_htod, values.ctypes.data, values)
        on_device = memory.as_buffer(400)
        refused("where host memory belongs", cuda.memcpy_htod, other, on_device)
        address = int(memory)
        memory.free()
        refused("was freed", cuda.memcpy_dtoh, values, address)
        refused("was freed", cuda.memset_d8, address + 100, 0, 1)
        assert int(cuda.mem_alloc(400)) != address

        with pytest.raises(cuda.MemoryError, match="out of memory"):
            cuda.mem_alloc(1 << 20)
        other.free()
        assert cuda.mem_get_info() == (free_before, total)
        cuda.mem_alloc(1 << 20).free()


def streams() -> None:
    with primary_context() as (cuda, fake):
        stream, start, end = cuda.Stream(), cuda.Event(), cuda.Event()
        source, result = cuda.pagelocked_empty(1000, np.float32), cuda.pagelocked_zeros(1000, np.float32)
        source[:] = np.arange(1000)
        memory = cuda.mem_alloc(source.nbytes)
        start.record(stream)
        cuda.memcpy_htod_async(memory, source, stream)
        cuda.memcpy_dtoh_async(result, memory, stream)
        end.record(stream)
        stream.synchronize()
        np.testing.assert_array_equal(result, source)
        assert stream.is_done()
        assert end.query()
        assert end.time_since(start) >= 0
        assert fake.count("pageable_async_copy") == 0
        cuda.memcpy_htod_async(memory, np.zeros(1000, np.float32), stream)
        assert fake.count("pageable_async_copy") == 1
        assert fake.count("cuStreamSynchronize") == 1


def modules_and_launches() -> None:
    with primary_context() as (cuda, fake):
        with pytest.raises(cuda.LogicError, match="invalid image"):
            cuda.module_from_buffer(b"not a fatbin")
        for image in (FATBIN, b"\x7fELF" + bytes(60), b".version 8.0\n\0", b"// PTX\n\0"):
            module = cuda.module_from_buffer(image)
        with pytest.raises(cuda.LogicError, match="not found"):
            module.get_function("missing")
        scale = module.get_function("scale")
        assert scale.num_regs == 32

        stream = cuda.Stream()
        memory = cuda.mem_alloc(400)
        cuda.memcpy_htod(memory, np.ones(100, np.float32))
        struct = np.zeros((), np.dtype([("data", np.uint64), ("count", np.int32), ("factor", np.float32)], align=True))
        struct["data"], struct["count"], struct["factor"] = int(memory), 100, 2
        launch = {"block": (32, 1, 1), "grid": (4, 1), "stream": stream}
        scale(memory, np.int32(100), np.float32(2), **launch)
        scale(np.uintp(int(memory)), np.int32(100), np.float32(2), **launch)
        scale(struct, **launch)
        scale(struct[()], **launch)
        scale(np.frombuffer(struct.tobytes(), np.uint8), **launch)
        scale.prepare([struct.dtype])
        scale.prepared_async_call((4, 1), (32, 1, 1), stream, struct)
        stream.synchronize()
        np.testing.assert_array_equal(to_host(cuda, memory, 100), np.full(100, 2.0**6, np.float32))
        assert fake.count("cuLaunchKernel") == 6

        def refused(message: str, *args: object, **changed: object) -> None:
            with pytest.raises(cuda.LogicError, match="failed: invalid value"):
                scale(*args, **launch | changed)
            assert message in fake.last_error

        refused("scale takes 16 bytes of parameters, got 20", memory, np.int64(100), np.float32(2))
        refused("scale takes 16 bytes of parameters, got 0")
        refused("a block of 1024 x 2 x 1 threads", struct, block=(1024, 2, 1))
        refused("a grid of 0 x 1 x 1", struct, grid=(0, 1))
        refused("65536 bytes of shared memory, at most 49152", struct, shared=65536)
        scale.set_attribute(cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536)
        scale(struct, shared=65536, **launch)


def illegal_addresses() -> None:
    with primary_context() as (cuda, fake):
        module = cuda.module_from_buffer(FATBIN)
        memory = cuda.mem_alloc(400)
        launch = {"block": (32, 1, 1), "grid": (4, 1)}
        messages = {"scale": "data is out of range", "scale_unchecked": "wrote behind the end of the 400 bytes"}
        for name, message in messages.items():
            with pytest.raises(cuda.LogicError, match="cuLaunchKernel failed: illegal address"):
                module.get_function(name)(memory, np.int32(101), np.float32(2), **launch)
            assert f"cuLaunchKernel: {name}" in fake.last_error
            assert message in fake.last_error
            with pytest.raises(cuda.LogicError, match="cuMemGetInfo failed: illegal address"):
                cuda.mem_get_info()
            fake.reset()


def far_outside() -> None:
    with primary_context() as (cuda, _):
        scale = cuda.module_from_buffer(FATBIN).get_function("scale_unchecked")
        scale(cuda.mem_alloc(400), np.int32(5000), np.float32(2), block=(32, 1, 1), grid=(4, 1))


def deferred_work() -> None:
    with primary_context() as (cuda, _):
        scale = cuda.module_from_buffer(FATBIN).get_function("scale")
        ordinary, independent = cuda.Stream(), cuda.Stream(NON_BLOCKING)
        source, result = cuda.pagelocked_zeros(10, np.float32), cuda.pagelocked_zeros(10, np.float32)
        memory = cuda.mem_alloc(40)
        arguments = np.zeros((), np.dtype([("data", np.uint64), ("count", np.int32), ("factor", np.float32)]))

        def work(stream: Any) -> None:
            result[:] = -1
            arguments["data"], arguments["count"], arguments["factor"] = int(memory), 10, 2
            cuda.memcpy_htod_async(memory, source, stream)
            scale(arguments, block=(32, 1, 1), grid=(1, 1), stream=stream)
            cuda.memcpy_dtoh_async(result, memory, stream)
            source[:] += 1  # too early: on a GPU the copy may not have happened yet
            arguments["factor"] = 100  # allowed: arguments are copied by the launch

        for factor, synchronize in enumerate([ordinary.synchronize, cuda.Context.synchronize], start=1):
            work(ordinary)
            assert (result == -1).all()
            assert not (np.asarray(result) == 2 * factor).any()
            synchronize()
            assert (result == 2 * factor).all()

        work(ordinary)
        np.testing.assert_array_equal(to_host(cuda, memory, 10), np.full(10, 6))  # the default stream waits for others
        work(independent)
        to_host(cuda, memory, 10)  # but not for this one
        assert (result == -1).all()
        event = cuda.Event().record(independent)
        ordinary.wait_for_event(event)
        ordinary.synchronize()
        assert (result == 8).all()

        work(independent)
        event.record(independent)
        asked = 0
        while not event.query():
            asked += 1
        assert asked > 1
        assert (result == 10).all()

        # Memory of which no copy needs to be kept: pageable memory is read and written before the call returns.
        pageable = np.full(10, 3, np.float32)
        cuda.memcpy_htod_async(memory, pageable, ordinary)
        pageable[:] = 0
        cuda.memcpy_dtoh_async(pageable, memory, ordinary)
        assert (pageable == 3).all()


def deferred_errors() -> None:
    with primary_context() as (cuda, fake):
        scale = cuda.module_from_buffer(FATBIN).get_function("scale")
        stream, memory = cuda.Stream(), cuda.mem_alloc(40)
        scale(memory, np.int32(11), np.float32(2), block=(32, 1, 1), grid=(1, 1), stream=stream)
        with pytest.raises(cuda.LogicError, match="cuStreamSynchronize failed: illegal address"):
            stream.synchronize()
        assert "scale: data is out of range" in fake.last_error
        fake.reset()


def failures_and_counts() -> None:
    with primary_context() as (cuda, fake):
        kept = [cuda.mem_alloc(16), cuda.mem_alloc(16)]
        # PyCUDA tries once more after a garbage collection, and that call is the fourth.
        kept.append(cuda.mem_alloc(16))
        assert fake.count("cuMemAlloc_v2") == 4
        assert "call 3 fails" in fake.last_error
        os.environ["FAKE_CUDA_FAIL"] = "cuMemcpyHtoD_v2:2:719"
        cuda.memcpy_htod(kept[0], bytes(16))
        with pytest.raises(cuda.Error, match="cuMemcpyHtoD failed: launch failed"):
            cuda.memcpy_htod(kept[0], bytes(16))
        cuda.memcpy_htod(kept[0], bytes(16))
        with pytest.raises(cuda.Error, match="cuMemAllocManaged failed: not supported"):
            cuda.managed_empty(16, np.float32, mem_flags=cuda.mem_attach_flags.GLOBAL)
        assert fake.count("cuMemAllocManaged") == 1
        assert "not implemented" in fake.last_error


def other_callers() -> None:
    """Not all libraries link symbols and pass parameters as PyCUDA does."""
    with primary_context() as (cuda, fake):
        driver = ctypes.CDLL("libcuda.so.1")
        found = ctypes.c_void_p()
        assert driver.cuGetProcAddress_v2(b"cuMemAlloc", ctypes.byref(found), 12000, ctypes.c_uint64(0), None) == 0
        assert found.value == ctypes.cast(driver.cuMemAlloc_v2, ctypes.c_void_p).value
        assert driver.cuGraphCreate(None, 0) == 801
        assert fake.last_error == "cuGraphCreate: not implemented by this fake driver"

        memory = cuda.mem_alloc(40)
        cuda.memset_d32(memory, 0x40000000, 10)
        arguments = np.array([(int(memory), 10, 2)], np.dtype([("data", "u8"), ("count", "i4"), ("factor", "f4")]))
        parameters = (ctypes.c_void_p * 1)(arguments.ctypes.data)
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        assert driver.cuModuleLoadData(ctypes.byref(module), FATBIN) == 0
        assert driver.cuModuleGetFunction(ctypes.byref(function), module, b"scale") == 0
        assert driver.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, parameters, None) == 0
        assert (to_host(cuda, memory, 10) == 4).all()
        assert driver.cuModuleUnload(module) == 0
        assert driver.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, parameters, None) == 400
        assert "no live function" in fake.last_error


def test_device_and_contexts(run: Run) -> None:
    run(device_and_contexts, FAKE_CUDA_CC="8.6")


def test_memory(run: Run) -> None:
    run(memory, FAKE_CUDA_MEMORY=str(1 << 20))


def test_streams_and_events(run: Run) -> None:
    run(streams)


def test_modules_and_launches(run: Run) -> None:
    run(modules_and_launches)


def test_illegal_addresses_end_the_context(run: Run) -> None:
    run(illegal_addresses)


def test_kernel_that_leaves_its_memory_ends_the_process(run: Run) -> None:
    run(far_outside, killed_by=signal.SIGSEGV)


def test_deferred_work_waits_for_synchronisation(run: Run) -> None:
    run(deferred_work, FAKE_CUDA_DEFER="1")


def test_deferred_errors_come_with_synchronisation(run: Run) -> None:
    run(deferred_errors, FAKE_CUDA_DEFER="1")


def test_failures_on_demand_and_counts(run: Run) -> None:
    run(failures_and_counts, FAKE_CUDA_FAIL="cuMemAlloc_v2:3:2")


def test_callers_that_are_not_pycuda(run: Run) -> None:
    run(other_callers)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuildError, match="no nvcc on PATH"):
        toolkit()


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(directory: Path) -> None:
        directory.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "built", interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["built.lock"]
    assert cached(tmp_path / "built", Path.mkdir).is_dir()
