"""Stream capture, graphs and host functions of the fake CUDA driver, with cuda-bindings as released."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.kernels.fake_cuda.build import CannotBuildError, build_kernels
from tests.kernels.fake_cuda.pycuda_env import FakeCuda, bindings_environment, default_cache
from tests.kernels.launchers import run_program
from tests.kernels.test_fake_cuda import FATBIN, KERNELS

Run = Callable[..., None]
SCALE = np.dtype([("data", np.uint64), ("count", np.int32), ("factor", np.float32)])
GLOBAL, THREAD_LOCAL, RELAXED = range(3)
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a function of this module in a process that has cuda-bindings and the fake driver."""
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(KERNELS)
    try:
        env = bindings_environment(default_cache(), build_kernels(folder / "kernels.cpp", folder / "kernels.so"))
    except CannotBuildError as error:
        pytest.skip(str(error))

    def run(program: Callable[[], None], **settings: str) -> None:
        run_program(program, env | settings)

    return run


class Refused(Exception):  # noqa: N818
    """What a function of the driver returned."""


class Driver:
    """cuda.bindings.driver, with codes as exceptions; and what the programs need."""

    def __init__(self) -> None:
        self.module: Any = importlib.import_module("cuda.bindings.driver")
        self.fake = FakeCuda()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            code, *values = getattr(self.module, name)(*arguments)
            if code:
                raise Refused(code.name.removeprefix("CUDA_ERROR_"))
            return values[0] if values else None

        return call

    def stream(self, *, blocking: bool = False) -> Any:
        return self.cuStreamCreate(0 if blocking else 1)

    def begin(self, stream: Any, mode: int = THREAD_LOCAL) -> None:
        self.cuStreamBeginCapture(stream, self.module.CUstreamCaptureMode(mode))

    def status(self, stream: Any) -> int:
        return int(self.cuStreamIsCapturing(stream))

    def end(self, stream: Any) -> Any:
        """The graph, ready to launch."""
        graph = self.cuStreamEndCapture(stream)
        try:
            return self.cuGraphInstantiate(graph, 0)
        finally:
            self.cuGraphDestroy(graph)

    def pinned(self, *values: float) -> Any:
        """float32 (n,) in pinned memory."""
        address = self.cuMemHostAlloc(4 * len(values), 0)
        array = np.ctypeslib.as_array((ctypes.c_float * len(values)).from_address(int(address)))
        array[:] = values
        return array

    def upload(self, memory: Any, source: Any, stream: Any) -> None:
        self.cuMemcpyHtoDAsync(memory, source.ctypes.data, source.nbytes, stream)

    def scale(self, memory: Any, count: int, factor: float, stream: Any) -> None:
        function = self.cuModuleGetFunction(self.loaded(), b"scale")
        argument = np.array((int(memory), count, factor), SCALE)
        parameters = (ctypes.c_void_p * 1)(argument.ctypes.data)
        self.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, ctypes.addressof(parameters), 0)

    def host_function(self, function: Any, data: int, stream: Any) -> None:
        # Not with cuda-bindings: what 12.9 hands to the driver lives until its first call, and a graph has several.
        code = ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc(
            ctypes.c_void_p(int(stream)), function, ctypes.c_void_p(data)
        )
        assert code == 0

    def loaded(self) -> Any:
        if "_module" not in self.__dict__:
            self._module = self.cuModuleLoadData(FATBIN)
        return self._module

    def read(self, memory: Any, count: int) -> list[float]:
        result = np.zeros(count, np.float32)
        self.cuMemcpyDtoH(result.ctypes.data, memory, result.nbytes)
        return [float(value) for value in result]


@contextlib.contextmanager
def primary_context() -> Iterator[Driver]:
    driver = Driver()
    driver.cuInit(0)
    driver.cuCtxPushCurrent(driver.cuDevicePrimaryCtxRetain(driver.cuDeviceGet(0)))
    driver.loaded()
    yield driver
    driver.cuCtxPopCurrent()
    driver.cuDevicePrimaryCtxRelease(0)


def captures_and_launches() -> None:
    with primary_context() as driver:
        stream, source, memory = driver.stream(), driver.pinned(1, 2), driver.cuMemAlloc(8)
        driver.cuMemsetD32(memory, 0, 2)
        assert driver.status(stream) == 0
        driver.begin(stream)
        assert driver.status(stream) == 1
        driver.upload(memory, source, stream)
        driver.scale(memory, 2, 3, stream)
        graph = driver.end(stream)
        assert driver.status(stream) == 0
        driver.cuStreamSynchronize(stream)
        assert driver.read(memory, 2) == [0, 0]  # captured is not done
        for value in (1, 10):
            source[:] = value  # read by each launch
            driver.cuGraphLaunch(graph, stream)
            driver.scale(memory, 1, 5, stream)  # after the graph
            driver.cuStreamSynchronize(stream)
            assert driver.read(memory, 2) == [15 * value, 3 * value]
        assert driver.fake.count("cuLaunchKernel") == 3
        driver.cuGraphExecDestroy(graph)
        with pytest.raises(Refused, match="INVALID_HANDLE"):
            driver.cuGraphLaunch(graph, stream)


def forks_and_joins() -> None:
    """An event takes other streams into the capture, and all have to come back."""
    with primary_context() as driver:
        first, second, memory = driver.stream(), driver.stream(), driver.cuMemAlloc(8)
        fork, join = driver.cuEventCreate(0), driver.cuEventCreate(0)

        def work(*, joined: bool) -> None:
            driver.cuMemsetD32Async(memory, 0x3F800000, 2, first)
            driver.cuEventRecord(fork, first)
            driver.cuStreamWaitEvent(second, fork, 0)
            assert driver.status(second) == 1
            driver.scale(memory, 1, 2, first)
            driver.scale(int(memory) + 4, 1, 7, second)
            if joined:
                driver.cuEventRecord(join, second)
                driver.cuStreamWaitEvent(first, join, 0)
            driver.scale(memory, 1, 3, first)

        driver.begin(first)
        work(joined=True)
        graph = driver.end(first)
        driver.cuGraphLaunch(graph, second)
        driver.cuStreamSynchronize(second)
        assert driver.read(memory, 2) == [6, 7]

        driver.begin(first)
        work(joined=False)
        with pytest.raises(Refused, match="UNMATCHED"):
            driver.end(second)
        with pytest.raises(Refused, match="INVALIDATED"):
            driver.end(first)
        driver.begin(first)
        work(joined=False)
        with pytest.raises(Refused, match="UNJOINED"):
            driver.end(first)
        assert (driver.status(first), driver.status(second)) == (0, 0)
        with pytest.raises(Refused, match="CAPTURED_EVENT"):
            driver.cuStreamWaitEvent(first, fork, 0)


def misuse() -> None:
    with primary_context() as driver:
        blocking, stream, other = driver.stream(blocking=True), driver.stream(), driver.stream()
        memory, source, event = driver.cuMemAlloc(8), driver.pinned(1, 2), driver.cuEventCreate(0)
        outside, pageable = driver.cuEventCreate(0), np.zeros(2, np.float32)
        driver.cuEventRecord(outside, other)

        def captured_event(ask: Callable[[Any], None]) -> None:
            driver.cuEventRecord(event, stream)
            ask(event)

        def merge() -> None:
            driver.begin(other)
            driver.cuEventRecord(event, other)
            try:
                driver.cuStreamWaitEvent(stream, event, 0)
            finally:
                with contextlib.suppress(Refused):
                    driver.end(other)

        def from_thread(call: Callable[[], None]) -> None:
            found: list[str] = []

            def work() -> None:
                driver.cuCtxPushCurrent(driver.cuDevicePrimaryCtxRetain(0))
                try:
                    call()
                except Refused as error:
                    found.append(str(error))
                driver.cuDevicePrimaryCtxRelease(0)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            if found:
                raise Refused(found[0])

        unsupported = "STREAM_CAPTURE_UNSUPPORTED"
        cases: list[tuple[Callable[[], Any], str]] = [
            (lambda: driver.cuStreamSynchronize(stream), unsupported),
            (lambda: driver.cuStreamSynchronize(other), unsupported),
            (lambda: driver.cuStreamQuery(stream), unsupported),
            (lambda: driver.cuStreamDestroy(stream), unsupported),
            (driver.cuCtxSynchronize, unsupported),
            (lambda: from_thread(driver.cuCtxSynchronize), unsupported),
            (lambda: driver.cuMemAlloc(8), unsupported),
            (lambda: driver.cuMemFree(memory), unsupported),
            (lambda: driver.cuMemHostAlloc(8, 0), unsupported),
            (lambda: driver.cuMemFreeHost(source.ctypes.data), unsupported),
            (lambda: driver.cuModuleLoadData(FATBIN), unsupported),
            (lambda: driver.read(memory, 2), unsupported),
            (lambda: driver.upload(memory, pageable, stream), unsupported),
            (lambda: driver.cuEventSynchronize(outside), unsupported),
            (lambda: driver.cuEventQuery(outside), unsupported),
            (lambda: captured_event(driver.cuEventSynchronize), "CAPTURED_EVENT"),
            (lambda: captured_event(driver.cuEventQuery), "CAPTURED_EVENT"),
            (lambda: driver.cuStreamWaitEvent(stream, outside, 0), "STREAM_CAPTURE_ISOLATION"),
            (lambda: from_thread(lambda: driver.end(stream)), "STREAM_CAPTURE_WRONG_THREAD"),
            (merge, "STREAM_CAPTURE_MERGE"),
        ]
        for i, (call, error) in enumerate(cases):
            driver.begin(stream)
            with pytest.raises(Refused, match=f"^{error}$"):
                call()
            assert driver.status(stream) == 2, i
            with pytest.raises(Refused, match="STREAM_CAPTURE_INVALIDATED"):
                driver.upload(memory, source, stream)
            with pytest.raises(Refused, match="STREAM_CAPTURE_INVALIDATED"):
                driver.end(stream)
            driver.upload(memory, source, stream)
            driver.cuStreamSynchronize(stream)

        # Only streams that the default stream waits for are in its way.
        for call in (lambda: driver.upload(memory, source, None), lambda: driver.cuEventRecord(event, None)):
            driver.begin(blocking)
            with pytest.raises(Refused, match="STREAM_CAPTURE_IMPLICIT"):
                call()
            with pytest.raises(Refused, match="STREAM_CAPTURE_INVALIDATED"):
                driver.end(blocking)
        driver.begin(stream)
        driver.upload(memory, source, None)
        driver.end(stream)

        # Refused, and the capture goes on.
        driver.begin(stream)
        for call, error in (
            (lambda: driver.begin(stream), "ILLEGAL_STATE"),
            (lambda: driver.begin(None), unsupported),
            (lambda: driver.end(other), "ILLEGAL_STATE"),
        ):
            with pytest.raises(Refused, match=error):
                call()
        driver.end(stream)

        # What other threads may do depends on the mode.
        for mode, allowed in ((GLOBAL, False), (THREAD_LOCAL, True), (RELAXED, True)):
            driver.begin(stream, mode)
            with contextlib.nullcontext() if allowed else pytest.raises(Refused, match=unsupported):
                from_thread(lambda: driver.cuMemFree(driver.cuMemAlloc(8)))
            with contextlib.nullcontext() if allowed else pytest.raises(Refused, match="INVALIDATED"):
                driver.end(stream)
        driver.begin(stream, RELAXED)
        driver.cuMemFree(driver.cuMemAlloc(8))
        from_thread(lambda: driver.end(stream))


def outlived() -> None:
    """A graph has addresses; what it was captured with must be there when it is launched."""
    with primary_context() as driver:
        stream = driver.stream()
        for wrong in ("device", "kernel", "host", "fill"):
            memory, source = driver.cuMemAlloc(8), driver.pinned(1, 2)
            driver.begin(stream)
            if wrong == "kernel":
                driver.scale(memory, 2, 2, stream)
            elif wrong == "fill":
                driver.cuMemsetD32Async(memory, 0, 2, stream)
            else:
                driver.upload(memory, source, stream)
            graph = driver.end(stream)
            if wrong == "host":
                driver.cuMemFreeHost(source.ctypes.data)
            else:
                driver.cuMemFree(memory)
            driver.cuGraphLaunch(graph, stream)
            with pytest.raises(Refused, match="ILLEGAL_ADDRESS"):
                driver.cuStreamSynchronize(stream)
            said = {"kernel": "out of range", "host": "no longer pinned"}.get(wrong, "was freed")
            assert said in driver.fake.last_error
            driver.fake.reset()


def calls_the_host() -> None:
    with primary_context() as driver:
        stream, source, memory = driver.stream(), driver.pinned(1, 2), driver.cuMemAlloc(8)
        result = driver.pinned(0, 0)
        found: list[Any] = []

        def look(data: int | None) -> None:
            found.append((data, result.tolist()))

        def call(_: int | None) -> None:
            found.append(driver.module.cuStreamSynchronize(other)[0].name)
            found.append(driver.module.cuMemAlloc(8)[0].name)

        other = driver.stream()
        on_look, on_call = HOST_FUNCTION(look), HOST_FUNCTION(call)  # they must live as long
        copy_back = (result.ctypes.data, memory, result.nbytes, stream)

        def work() -> None:
            driver.upload(memory, source, stream)
            driver.cuMemcpyDtoHAsync(*copy_back)
            driver.host_function(on_look, 5, stream)
            driver.scale(memory, 2, 2, stream)
            driver.cuMemcpyDtoHAsync(*copy_back)

        work()
        assert found == []
        driver.cuStreamSynchronize(stream)
        assert found == [(5, [1, 2])]
        assert result.tolist() == [2, 4]
        driver.begin(stream)
        work()
        graph = driver.end(stream)
        source[:] = 7
        driver.cuGraphLaunch(graph, stream)
        driver.cuGraphLaunch(graph, stream)
        driver.cuStreamSynchronize(stream)
        assert found[1:] == [(5, [7, 7]), (5, [7, 7])]

        found.clear()
        driver.host_function(on_call, 0, stream)
        driver.cuStreamSynchronize(stream)
        assert found == ["CUDA_ERROR_NOT_PERMITTED"] * 2
        assert driver.status(stream) == 0  # and so is the thread, outside of it


def shares_the_interpreter() -> None:
    """Host functions in Python, waited for by threads that hold the interpreter's lock and by others that do not."""
    with primary_context() as driver:
        stream, other, memory = driver.stream(), driver.stream(), driver.cuMemAlloc(8)
        holding, releasing = ctypes.PyDLL("libcuda.so.1"), ctypes.CDLL("libcuda.so.1")  # the lock, during a call
        handles = [ctypes.c_void_p(int(each)) for each in (stream, other)]
        began, done, failures = threading.Event(), [], []

        def slow(_: int | None) -> None:
            began.set()
            time.sleep(0.05)  # gives the lock to the others
            done.append(threading.get_ident())

        host_function = HOST_FUNCTION(slow)
        context = driver.cuDevicePrimaryCtxRetain(0)

        def thread(library: Any) -> None:
            driver.cuCtxPushCurrent(context)
            began.wait()
            for _ in range(3):
                codes = [
                    library.cuLaunchHostFunc(handles[0], host_function, None),  # behind the one that runs
                    library.cuMemsetD32Async(ctypes.c_uint64(int(memory)), 0, ctypes.c_size_t(2), handles[1]),
                    library.cuStreamQuery(handles[1]),
                    library.cuStreamSynchronize(handles[0]),
                    library.cuCtxSynchronize(),
                ]
                if any(code not in (0, 600) for code in codes):
                    failures.append(codes)

        threads = [threading.Thread(target=thread, args=(library,)) for library in (holding, releasing) * 2]
        for each in threads:
            each.start()
        for library in (holding, releasing):
            assert library.cuLaunchHostFunc(handles[0], host_function, None) == 0
            assert library.cuStreamSynchronize(handles[0]) == 0
        for each in threads:
            each.join()
        assert failures == []
        assert len(done) == 14
        driver.cuDevicePrimaryCtxRelease(0)


@pytest.mark.parametrize("defer", ["0", "1"])
def test_graphs(run: Run, defer: str) -> None:
    run(captures_and_launches, FAKE_CUDA_DEFER=defer)
    run(forks_and_joins, FAKE_CUDA_DEFER=defer)


def test_misuse_of_captures_is_refused(run: Run) -> None:
    run(misuse)


def test_graphs_do_not_outlive_their_memory(run: Run) -> None:
    run(outlived, FAKE_CUDA_DEFER="1")


def test_host_functions(run: Run) -> None:
    run(calls_the_host, FAKE_CUDA_DEFER="1")


@pytest.mark.parametrize("defer", ["0", "1"])
def test_host_functions_and_the_interpreters_lock(run: Run, defer: str) -> None:
    """Without what streams.cpp says of locks, this never ends."""
    run(shares_the_interpreter, FAKE_CUDA_DEFER=defer)
