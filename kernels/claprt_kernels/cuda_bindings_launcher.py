"""NVIDIA's cuda-bindings as a `Launcher`."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_kernels.errors import DeviceMemoryError, KernelLaunchError, KernelUnavailableError


class CudaBindingsLauncher:
    """cuda-bindings, in the device's primary context: wheels without a compiler, and CUDA graphs.

    As a stream it also takes a `cuda.bindings.driver.CUstream`, or its number.
    """

    can_capture = True

    def __init__(self, device: int = 0) -> None:
        """Start CUDA.

        Raises:
            KernelUnavailableError: cuda-bindings, the driver or the device is missing; the message says which.
        """
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise KernelUnavailableError(
                f"cuda-bindings cannot be imported: {_first_line(error)}; pip install 'claprt[gpu]'"
            ) from error
        self._driver: Any = driver
        try:
            _call(driver, "starting CUDA", driver.cuInit, 0)
            count = _call(driver, "counting devices", driver.cuDeviceGetCount)
            if not 0 <= device < count:
                raise KernelUnavailableError(f"there is no CUDA device {device}: the driver shows {count}")
            self.device = device
            self.driver_version: int = _call(driver, "asking the driver's version", driver.cuDriverGetVersion)
            self._context = _PrimaryContext(driver, device)
            with self.current():
                number = self._context.device
                attribute = driver.CUdevice_attribute
                kinds = (
                    attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                    attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                )
                major, minor = (_call(driver, "asking", driver.cuDeviceGetAttribute, kind, number) for kind in kinds)
                name = _call(driver, "asking the device's name", driver.cuDeviceGetName, 256, number)
        except KernelLaunchError as error:
            raise KernelUnavailableError(str(error)) from error
        self.compute_capability: tuple[int, int] = (int(major), int(minor))
        self.name: str = name.split(b"\0")[0].decode()
        self._modules: dict[int, Any] = {}

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See `Launcher`."""
        with self._context.current():
            yield

    def free_memory(self) -> tuple[int, int]:
        """See `Launcher`."""
        free, total = self._do("asking how much memory is free", self._driver.cuMemGetInfo)
        return int(free), int(total)

    def alloc(self, size: int) -> int:
        """See `Launcher`. Where there is too little it collects garbage, which may own some, and tries again."""
        what = f"allocating {size} bytes of device memory"
        with contextlib.suppress(_OutOfMemoryError):
            return int(self._do(what, self._driver.cuMemAlloc, size))
        gc.collect()
        try:
            return int(self._do(what, self._driver.cuMemAlloc, size))
        except _OutOfMemoryError as error:
            raise DeviceMemoryError.wanted(size, *self.free_memory()) from error

    def free(self, address: int) -> None:
        """See `Launcher`."""
        self._do("freeing device memory", self._driver.cuMemFree, address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Launcher`. The memory is freed with the last array that shows it."""
        what = f"allocating {size} bytes of pinned memory"
        try:
            address = int(self._do(what, self._driver.cuMemHostAlloc, size, self._driver.CU_MEMHOSTALLOC_PORTABLE))
        except _OutOfMemoryError as error:
            raise DeviceMemoryError.locked(size) from error
        return np.asarray(_Pinned(address, size, self._context, self._driver.cuMemFreeHost))

    def copy(self, address: int, source: NDArray[np.uint8], stream: Any) -> None:
        """See `Launcher`."""
        what = f"copying {source.nbytes} bytes to the device"
        host = _host_address(source, what)
        self._do(what, self._driver.cuMemcpyHtoDAsync, address, host, source.nbytes, self.handle(stream))

    def copy_back(self, target: NDArray[np.uint8], address: int, stream: Any) -> None:
        """See `Launcher`."""
        what = f"copying {target.nbytes} bytes from the device"
        host = _host_address(target, what)
        if not target.flags.writeable:
            raise KernelLaunchError(f"{what}: the array is read-only; pass one that can be written")
        self._do(what, self._driver.cuMemcpyDtoHAsync, host, address, target.nbytes, self.handle(stream))

    def stream(self) -> Any:
        """See `Launcher`; `int` of it is the CUstream."""
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self._do("creating a stream", self._driver.cuStreamCreate, flags)
        return _Owned(stream, self._context, self._driver.cuStreamDestroy)

    def handle(self, stream: Any) -> int:
        """See `Launcher`."""
        return 0 if stream is None else int(stream)

    def function(self, image: bytes, name: str) -> Any:
        """See `Launcher`."""
        what = f"loading {name}"
        if id(image) not in self._modules:
            module = self._do(what, self._driver.cuModuleLoadData, image)
            self._modules[id(image)] = _Owned(module, self._context, self._driver.cuModuleUnload), image
        module, _ = self._modules[id(image)]
        return self._do(what, self._driver.cuModuleGetFunction, module.handle, name.encode()), module

    def launch(self, function: Any, grid: tuple[int, int], block: int, argument: NDArray[np.void], stream: Any) -> None:
        """See `Launcher`."""
        kernel, _ = function
        pointers = (ctypes.c_void_p * 1)(argument.ctypes.data)
        what = f"launching on {grid[0]} x {grid[1]} blocks of {block} threads"
        sizes = (*grid, 1, block, 1, 1, 0)
        self._do(what, self._driver.cuLaunchKernel, kernel, *sizes, self.handle(stream), ctypes.addressof(pointers), 0)

    def event(self) -> Any:
        """See `Launcher`."""
        event = self._do(
            "creating an event", self._driver.cuEventCreate, self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        )
        return _Owned(event, self._context, self._driver.cuEventDestroy)

    def record(self, event: Any, stream: Any) -> None:
        """See `Launcher`."""
        self._do("recording an event", self._driver.cuEventRecord, event.handle, self.handle(stream))

    def wait(self, event: Any) -> None:
        """See `Launcher`."""
        self._do("waiting for an event", self._driver.cuEventSynchronize, event.handle)

    def capturing(self, stream: Any) -> bool:
        """See `Launcher`."""
        status = self._do("asking whether a stream is captured", self._driver.cuStreamIsCapturing, self.handle(stream))
        return bool(status != self._driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """See `Launcher`."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        handle = self.handle(stream)
        self._do("capturing a stream", self._driver.cuStreamBeginCapture, handle, mode)
        try:
            with self.current():
                work()
        except BaseException:
            # What went wrong there is the error; the end of the capture will say so again.
            with contextlib.suppress(KernelLaunchError):
                self._end_capture(handle)
            raise
        graph = self._end_capture(handle)
        executable = self._do("instantiating a graph", self._driver.cuGraphInstantiate, graph.handle, 0)
        return _Owned(executable, self._context, self._driver.cuGraphExecDestroy)

    def replay(self, graph: Any, stream: Any) -> None:
        """See `Launcher`."""
        self._do("replaying a graph", self._driver.cuGraphLaunch, graph.handle, self.handle(stream))

    def _end_capture(self, handle: int) -> _Owned:
        graph = self._do("ending a capture", self._driver.cuStreamEndCapture, handle)
        return _Owned(graph, self._context, self._driver.cuGraphDestroy)

    def _do(self, what: str, function: Any, *arguments: Any) -> Any:
        with self._context.current():
            return _call(self._driver, what, function, *arguments)


class _PrimaryContext:
    """A device's primary context; released when neither a launcher nor anything that is in it is left."""

    def __init__(self, driver: Any, device: int) -> None:
        self._driver = driver
        self.device = _call(driver, "opening the device", driver.cuDeviceGet, device)
        self._handle = _call(driver, "taking the primary context", driver.cuDevicePrimaryCtxRetain, self.device)
        _finally(self, driver.cuDevicePrimaryCtxRelease, self.device)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        _call(self._driver, "making the context current", self._driver.cuCtxPushCurrent, self._handle)
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()


class _Owned:
    """A stream, event, module or graph, destroyed with the last reference."""

    def __init__(self, handle: Any, context: _PrimaryContext, destroy: Callable[[Any], Any]) -> None:
        self.handle = handle
        _finally(self, _destroy, context, destroy, handle)

    def __int__(self) -> int:
        return int(self.handle)


class _Pinned:
    """Page-locked memory, freed with the last reference; NumPy's arrays hold one."""

    def __init__(self, address: int, size: int, context: _PrimaryContext, free: Callable[[Any], Any]) -> None:
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}
        _finally(self, _destroy, context, free, address)


def _finally(thing: object, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function when a thing is gone, but not when the process ends.

    The driver takes everything back then, and the destructors of TensorRT and ONNX Runtime still need the context.
    """
    weakref.finalize(thing, function, *arguments).atexit = False


def _destroy(context: _PrimaryContext, destroy: Callable[[Any], Any], handle: Any) -> None:
    # CUDA also reports here that earlier work failed, which whoever waits for that work is told.
    with contextlib.suppress(KernelLaunchError), context.current():
        destroy(handle)


class _OutOfMemoryError(KernelLaunchError):
    pass


def _call(driver: Any, what: str, function: Any, *arguments: Any) -> Any:
    """What a function of the driver gives: nothing, a value, or a list of values."""
    try:
        code, *values = function(*arguments)
    except RuntimeError as error:  # there is no driver, or it is older than the function
        raise KernelLaunchError(
            f"cuda-bindings cannot call the NVIDIA driver: {what}: {_first_line(error)}; install it, or a newer one"
        ) from error
    if code:
        kind = _OutOfMemoryError if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY else KernelLaunchError
        text = driver.cuGetErrorString(code)[1]
        meaning = text.decode() if text else f"error {int(code)}"
        raise kind(f"CUDA refused or lost something: {what}: {function.__name__} failed: {meaning}")
    return values[0] if len(values) == 1 else values


def _host_address(array: NDArray[np.uint8], what: str) -> int:
    if not array.flags.c_contiguous:
        raise KernelLaunchError(f"{what}: the array has strides {array.strides}; pass a C-contiguous one")
    return array.ctypes.data


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].removesuffix(".") if str(error) else type(error).__name__
