"""What every `Launcher` does, which one is opened, and why one cannot be: on the fake driver, and without a driver."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.kernels.fake_cuda.pycuda_env import FakeCuda
from tests.kernels.launchers import Sample, launcher, synchronize, to_device, to_host
from tests.specs import UNFUSED

import claprt_kernels
from claprt_kernels import (
    CudaBindingsLauncher,
    DeviceMemory,
    DeviceMemoryError,
    KernelInputError,
    KernelLaunchError,
    KernelUnavailableError,
    LogMel,
    PyCudaLauncher,
    Resampler,
    open_launcher,
)

Run = Callable[..., None]
MIB = 1 << 20


def tells_about_the_device() -> None:
    gpu = launcher()
    version = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    assert (gpu.name, gpu.compute_capability, gpu.device) == ("Fake CUDA device (CPU)", (8, 6), 0)
    assert gpu.driver_version == version.value >= 12_000
    assert gpu.free_memory() == (MIB, MIB)
    address = gpu.alloc(1000)
    assert gpu.free_memory() == (MIB - 1000, MIB)
    gpu.free(address)
    assert gpu.free_memory() == (MIB, MIB)
    for wrong in (address, 0x123):
        with pytest.raises(KernelLaunchError, match="freeing device memory"):
            gpu.free(wrong)


def test_the_device(run: Run) -> None:
    run(tells_about_the_device, FAKE_CUDA_CC="8.6", FAKE_CUDA_MEMORY=str(MIB))


def copies() -> None:
    gpu, fake = launcher(), FakeCuda()
    source, target = gpu.pinned(1000), gpu.pinned(1000)
    source[:], target[:] = np.arange(1000) % 251, 0
    address = gpu.alloc(1000)
    stream = gpu.stream()
    gpu.copy(address, source, stream)
    gpu.copy_back(target[100:], address, stream)
    assert not target.any()  # the driver puts work off, and no call has waited for it
    synchronize(gpu, stream)
    np.testing.assert_array_equal(target[100:], source[:900])
    assert not target[:100].any()
    assert fake.count("pageable_async_copy") == 0
    np.testing.assert_array_equal(to_host(gpu, address, np.zeros(1000, np.uint8)), source)
    read_only = np.zeros(8, np.uint8)
    read_only.flags.writeable = False
    for wrong in (target[::2], read_only):
        with pytest.raises((KernelLaunchError, ValueError, TypeError)):
            gpu.copy_back(wrong, address, stream)
    with pytest.raises(KernelLaunchError, match=r"copying 1000 bytes from the device: .*invalid value"):
        gpu.copy_back(target, address + 1, stream)


def test_copies(run: Run) -> None:
    run(copies, FAKE_CUDA_DEFER="1")


def has_streams() -> None:
    gpu, driver = launcher(), ctypes.CDLL("libcuda.so.1")
    stream, source = gpu.stream(), gpu.pinned(8)
    first, second = gpu.alloc(8), gpu.alloc(8)
    assert gpu.handle(None) == 0
    source[:] = 1
    gpu.copy(first, source, stream)
    gpu.copy(second, source, None)
    synchronize(gpu)
    with gpu.current():
        done = [driver.cuStreamQuery(ctypes.c_void_p(handle)) for handle in (0, gpu.handle(stream))]
    assert done == [0, 600]  # neither waits for the other
    synchronize(gpu, stream)
    assert gpu.capturing(stream) is False
    event = gpu.event()
    gpu.wait(event)  # never recorded: at once
    if isinstance(gpu, CudaBindingsLauncher):
        gpu.copy(first, source, gpu.handle(stream))  # other libraries' streams come as numbers
    count = FakeCuda().count
    del stream, event
    assert (count("cuStreamDestroy_v2"), count("cuEventDestroy_v2")) == (1, 3)


def test_streams(run: Run) -> None:
    run(has_streams, FAKE_CUDA_DEFER="1")


def takes_its_own_streams() -> None:
    """PyCUDA cannot wrap others: what to do is said at once, by whatever takes a stream."""
    gpu = launcher()
    cuda = importlib.import_module("pycuda.driver")
    stream, event, memory = gpu.stream(), gpu.event(), gpu.pinned(8)
    address = gpu.alloc(8)
    with gpu.current():
        own = cuda.Stream()
        for given in (None, stream, own):
            gpu.copy(address, memory, given)
            gpu.record(event, given)
            assert gpu.handle(given) == (0 if given is None else int(getattr(given, "thing", given).handle))
        del own, given
    zeros = np.zeros((), claprt_kernels.resample.ARGUMENTS)
    function = gpu.function(claprt_kernels.fatbin.fatbin(), "resample_int16")
    sample = Sample()
    foreign = gpu.handle(stream)
    for wrong in (foreign, "stream", object()):
        calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
            (gpu.copy, (address, memory)),
            (gpu.copy_back, (memory, address)),
            (gpu.launch, (function, (1, 1), 256, zeros)),
            (gpu.record, (event,)),
            (gpu.handle, ()),
            (lambda stream: sample(stream=stream), ()),
        ]
        for call, arguments in calls:
            with pytest.raises(
                KernelInputError, match=rf"stream is {type(wrong).__name__} .*pass None, .*cuda-bindings"
            ):
                call(*arguments, wrong)
    for _ in range(20):  # the tables of what was refused are free
        sample()
    sample.check()


def test_pycuda_takes_its_own_streams(run_pycuda: Run) -> None:
    run_pycuda(takes_its_own_streams)


def runs_out_of_memory() -> None:
    gpu = launcher()
    kept = gpu.alloc(1000)
    message = rf"out of device memory: {MIB} bytes wanted, {MIB - 1000} of {MIB} are free; "
    for kind in (DeviceMemoryError, MemoryError, KernelLaunchError):
        with pytest.raises(kind, match=message):
            gpu.alloc(MIB)
    with pytest.raises(DeviceMemoryError, match="out of device memory"):
        LogMel(UNFUSED, max_batch=65_535, launcher=gpu)
    with pytest.raises(DeviceMemoryError, match="out of device memory"):
        Resampler(44_100, max_batch=65_535, launcher=gpu)
    gpu.free(kept)
    gpu.free(gpu.alloc(MIB))  # nothing was left behind
    os.environ["FAKE_CUDA_FAIL"] = f"cuMemHostAlloc:{FakeCuda().count('cuMemHostAlloc') + 1}:2"
    with pytest.raises(DeviceMemoryError, match="out of page-locked host memory: 123 bytes wanted"):
        gpu.pinned(123)
    del os.environ["FAKE_CUDA_FAIL"]
    # What nobody refers to any more, but for itself, is collected before memory is said to be short.
    cycle: list[object] = [DeviceMemory(gpu, MIB)]
    cycle.append(cycle)
    del cycle
    gpu.free(gpu.alloc(MIB))


def test_too_little_memory(run: Run) -> None:
    run(runs_out_of_memory, FAKE_CUDA_MEMORY=str(MIB))


def cleans_up() -> None:
    """Whatever order things go in; the primary context goes last."""
    count = FakeCuda().count
    gpu, other = launcher(), launcher()
    memory, stream = gpu.pinned(100), gpu.stream()
    address = to_device(other, np.arange(100, dtype=np.uint8))  # they share the context
    view = memory[10:20].view(np.uint16)
    gpu.copy_back(memory, address, stream)
    synchronize(gpu, stream)
    function = gpu.function(claprt_kernels.fatbin.fatbin(), "log_mel_int16_fp32_narrow")
    assert gpu.function(claprt_kernels.fatbin.fatbin(), "log_mel_int16_fp16_narrow")
    other.free(address)
    del gpu, other, memory
    gc.collect()
    assert view.tobytes() == bytes(range(10, 20))
    assert (count("cuMemFreeHost"), count("cuModuleUnload")) == (0, 0)
    del view, stream, function
    gc.collect()
    assert (count("cuMemFreeHost"), count("cuModuleUnload")) == (1, 1)
    assert count("cuDevicePrimaryCtxRelease_v2") == count("cuDevicePrimaryCtxRetain") == 2


def test_what_is_no_longer_used_is_given_back(run: Run) -> None:
    run(cleans_up)


def fails_everywhere() -> None:
    """An error of earlier work comes with the next call, whichever it is, and the message says what it was about."""
    gpu, fake = launcher(), FakeCuda()
    stream, event, memory = gpu.stream(), gpu.event(), gpu.pinned(8)
    address = gpu.alloc(8)
    function = gpu.function(claprt_kernels.fatbin.fatbin(), "resample_int16")
    zeros = np.zeros((), claprt_kernels.resample.ARGUMENTS)
    calls: dict[str, Callable[[], Any]] = {
        "waiting for an event": lambda: gpu.wait(event),
        "recording an event": lambda: gpu.record(event, stream),
        "creating a stream": gpu.stream,
        "creating an event": gpu.event,
        "asking how much memory is free": gpu.free_memory,
        "allocating 8 bytes of device memory": lambda: gpu.alloc(8),
        "allocating 8 bytes of pinned memory": lambda: gpu.pinned(8),
        "copying 8 bytes to the device": lambda: gpu.copy(address, memory, stream),
        "copying 8 bytes from the device": lambda: gpu.copy_back(memory, address, stream),
        "launching on 1 x 1 blocks of 256": lambda: gpu.launch(function, (1, 1), 256, zeros, stream),
    }
    with pytest.raises(KernelLaunchError, match="illegal address"):
        calls["launching on 1 x 1 blocks of 256"]()  # its addresses are null
    for what, call in calls.items():
        with pytest.raises(KernelLaunchError, match=f"CUDA refused or lost something: {what}.*: illegal address"):
            call()
    with gpu.current():
        fake.reset()
    synchronize(gpu, stream)


def test_late_errors(run: Run) -> None:
    run(fails_everywhere)


def opens_one_of_both() -> None:
    assert isinstance(open_launcher(), CudaBindingsLauncher)
    assert isinstance(open_launcher(library="cuda-bindings"), CudaBindingsLauncher)
    assert isinstance(open_launcher(library="pycuda"), PyCudaLauncher)
    with pytest.raises(KernelInputError, match='library is \'cupy\'; it must be "auto", "cuda-bindings" or "pycuda"'):
        open_launcher(library="cupy")
    for library in ("auto", "cuda-bindings", "pycuda"):
        for device in (1, -1):
            with pytest.raises(KernelUnavailableError, match=f"there is no CUDA device {device}: the driver shows 1"):
                open_launcher(device, library)
    # A name in sys.modules without a module is one that cannot be imported.
    hidden: dict[str, Any] = sys.modules
    libraries = [name for name in hidden if name.split(".")[0] == "cuda"]
    hidden.update(dict.fromkeys([*libraries, "cuda"]))
    assert isinstance(open_launcher(), PyCudaLauncher)
    with pytest.raises(
        KernelUnavailableError, match=r"cuda-bindings cannot be imported: .*pip install 'claprt\[gpu\]'"
    ):
        open_launcher(library="cuda-bindings")
    hidden["pycuda"] = hidden["pycuda.driver"] = None
    with pytest.raises(KernelUnavailableError, match=r"neither .*'claprt\[gpu\]'.*'claprt\[pycuda\]'"):
        open_launcher()
    with pytest.raises(KernelUnavailableError, match=r"PyCUDA cannot be imported: .*pip install 'claprt\[pycuda\]'"):
        open_launcher(library="pycuda")


def test_which_library_it_is(run_pycuda: Run, run_bindings: Run) -> None:
    run_pycuda(opens_one_of_both)


def is_available() -> None:
    assert claprt_kernels.why_unavailable() is None
    assert claprt_kernels.is_available()
    assert "there is no CUDA device 1: the driver shows 1" in str(claprt_kernels.why_unavailable(1))


def test_availability(run_bindings: Run) -> None:
    run_bindings(is_available)


def does_not_load() -> None:
    """The device is there, and a library; the kernels are not for it."""
    library = os.environ["CLAPRT_TEST_LAUNCHER"]
    if "FAKE_CUDA_CC" not in os.environ:
        os.environ["FAKE_CUDA_FAIL"] = f"cuModuleLoadData{'Ex' if library == 'pycuda' else ''}:1:222"
    reason = str(claprt_kernels.why_unavailable(library=library))
    assert re.fullmatch(os.environ["REASON"], reason), reason
    again = claprt_kernels.is_available(library=library)
    assert again is (os.environ.get("FAKE_CUDA_CC") is None)  # a call that fails once does not fail again


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"FAKE_CUDA_CC": "7.0"}, r"capability 7\.0, .*no binary for gpu; they are for 7\.5 and newer: .*compile.*"),
        ({}, r"capability 9\.0, .*unsupported ptx version; .*update the driver.*"),
    ],
    ids=["too old a GPU", "too old a driver"],
)
def test_a_device_that_the_kernels_are_not_for(run: Run, settings: dict[str, str], reason: str) -> None:
    begin = r"the kernels of this package do not load on Fake CUDA device \(CPU\) \(compute "
    run(does_not_load, REASON=begin + reason, **settings)


def loads() -> None:
    assert claprt_kernels.why_unavailable(library=os.environ["CLAPRT_TEST_LAUNCHER"]) is None


@pytest.mark.parametrize("capability", ["7.5", "8.9", "9.0", "12.1", "19.0"])
def test_devices_that_the_kernels_are_for(run_bindings: Run, capability: str) -> None:
    """With machine code, and, newer than any, through PTX."""
    run_bindings(loads, FAKE_CUDA_CC=capability)


def cannot_start() -> None:
    """A library that is there and fails is an error; the other, which would work, is not taken."""
    library = os.environ["CLAPRT_TEST_LAUNCHER"]
    with pytest.raises(KernelUnavailableError, match=r"starting CUDA: cuInit failed: no device$"):
        open_launcher(library="auto" if library == "cuda-bindings" else library)


def test_a_driver_that_does_not_start(run: Run) -> None:
    run(cannot_start, FAKE_CUDA_FAIL="cuInit:1:100")


def cannot_retain() -> None:
    with pytest.raises(KernelUnavailableError, match=r"taking the primary context: .*out of memory"):
        launcher()
    launcher()


def test_a_device_that_cannot_be_used(run: Run) -> None:
    run(cannot_retain, FAKE_CUDA_FAIL="cuDevicePrimaryCtxRetain:1:2")


def without_driver(code: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"} | {
        "CUDA_VISIBLE_DEVICES": ""
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_gpu() -> None:
    """Importing works and starts nothing; asking says why not, in one line. Most machines of the tests are so."""
    said = without_driver(
        "import sys, claprt_kernels as kernels\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('cuda', 'pycuda')]\n"
        "assert not kernels.is_available(); print(kernels.why_unavailable())\n"
    )
    assert re.fullmatch(r"(CUDA kernels are missing|cuda-bindings cannot|neither|PyCUDA|CUDA refused).*; .*\n", said)


def test_cuda_bindings_without_a_gpu() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    said = without_driver(
        "import claprt_kernels as kernels\n"
        "try: kernels.open_launcher(library='cuda-bindings')\n"
        "except kernels.KernelUnavailableError as error: print(error)\n"
    )
    assert re.fullmatch(r"(cuda-bindings cannot call the NVIDIA driver|CUDA refused or lost something): .*\n", said)
    assert "starting CUDA" in said


def from_threads() -> None:
    """Each thread has streams of its own and allocates as it goes."""
    gpu = launcher()
    failures: list[BaseException] = []

    def work(value: int) -> None:
        try:
            for _ in range(50):
                stream, source, target = gpu.stream(), gpu.pinned(256), gpu.pinned(256)
                source[:], target[:] = value, 0
                address = gpu.alloc(256)
                gpu.copy(address, source, stream)
                gpu.copy_back(target, address, stream)
                synchronize(gpu, stream)
                assert (target == value).all()
                gpu.free(address)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [], failures


def test_several_threads(run: Run) -> None:
    run(from_threads)
