"""PyCUDA as a `Launcher`."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_kernels.errors import DeviceMemoryError, KernelInputError, KernelLaunchError, KernelUnavailableError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


class PyCudaLauncher:
    """PyCUDA, in the device's primary context. It has no graphs.

    As a stream it also takes a `pycuda.driver.Stream`.
    """

    can_capture = False

    def __init__(self, device: int = 0) -> None:
        """Start CUDA.

        Raises:
            KernelUnavailableError: PyCUDA, the driver or the device is missing; the message says which.
        """
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise KernelUnavailableError(
                f"PyCUDA cannot be imported: {str(error).splitlines()[0]}; pip install 'claprt[pycuda]', which "
                "compiles it (with nvcc; to run it takes the NVIDIA driver)"
            ) from error
        self._cuda: Any = cuda
        with self._explained("starting CUDA", KernelUnavailableError):
            cuda.init()
            count = cuda.Device.count()
        if not 0 <= device < count:
            raise KernelUnavailableError(f"there is no CUDA device {device}: the driver shows {count}")
        self.device = device
        with self._explained("taking the primary context", KernelUnavailableError):
            self.driver_version: int = cuda.get_driver_version()
            self.compute_capability: tuple[int, int] = cuda.Device(device).compute_capability()
            self.name: str = cuda.Device(device).name()
            self._context = _PrimaryContext(cuda, device)
        self._modules: dict[int, tuple[_Owned, bytes]] = {}
        self._allocations: dict[int, _Owned] = {}

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See `Launcher`."""
        with self._context.current():
            yield

    def free_memory(self) -> tuple[int, int]:
        """See `Launcher`."""
        with self._current("asking how much memory is free"):
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def alloc(self, size: int) -> int:
        """See `Launcher`. PyCUDA collects garbage and tries again before it gives up."""
        with self._current(f"allocating {size} bytes of device memory"):
            try:
                allocation = self._cuda.mem_alloc(size)
            except self._cuda.MemoryError as error:
                raise DeviceMemoryError.wanted(size, *self._cuda.mem_get_info()) from error
        self._allocations[int(allocation)] = _Owned(allocation, self._context)
        return int(allocation)

    def free(self, address: int) -> None:
        """See `Launcher`."""
        allocation = self._allocations.pop(address, None)
        if allocation is None:
            raise KernelLaunchError(f"freeing device memory: {address:#x} is not an address that alloc gave")
        with self._current("freeing device memory"):
            allocation.thing.free()

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Launcher`."""
        with self._current(f"allocating {size} bytes of pinned memory"):
            try:
                memory = self._cuda.pagelocked_empty(size, np.uint8)
            except self._cuda.MemoryError as error:
                raise DeviceMemoryError.locked(size) from error
        return np.asarray(_Pinned(memory, self._context))

    def copy(self, address: int, source: NDArray[np.uint8], stream: Any) -> None:
        """See `Launcher`."""
        with self._current(f"copying {source.nbytes} bytes to the device"):
            self._cuda.memcpy_htod_async(address, source, _pycuda_stream(stream))

    def copy_back(self, target: NDArray[np.uint8], address: int, stream: Any) -> None:
        """See `Launcher`."""
        with self._current(f"copying {target.nbytes} bytes from the device"):
            self._cuda.memcpy_dtoh_async(target, address, _pycuda_stream(stream))

    def stream(self) -> Any:
        """See `Launcher`."""
        with self._current("creating a stream"):
            return _Owned(self._cuda.Stream(_NON_BLOCKING), self._context)

    def handle(self, stream: Any) -> int:
        """See `Launcher`."""
        return 0 if stream is None else int(_pycuda_stream(stream).handle)

    def function(self, image: bytes, name: str) -> Any:
        """See `Launcher`."""
        with self._current(f"loading {name}"):
            if id(image) not in self._modules:
                self._modules[id(image)] = _Owned(self._cuda.module_from_buffer(image), self._context), image
            module, _ = self._modules[id(image)]
            return _Owned((module.thing.get_function(name), module), self._context)

    def launch(self, function: Any, grid: tuple[int, int], block: int, argument: NDArray[np.void], stream: Any) -> None:
        """See `Launcher`."""
        with self._current(f"launching on {grid[0]} x {grid[1]} blocks of {block} threads"):
            kernel, _ = function.thing
            kernel(argument, grid=grid, block=(block, 1, 1), stream=_pycuda_stream(stream))

    def event(self) -> Any:
        """See `Launcher`."""
        with self._current("creating an event"):
            return _Owned(self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING), self._context)

    def record(self, event: Any, stream: Any) -> None:
        """See `Launcher`."""
        with self._current("recording an event"):
            event.thing.record(_pycuda_stream(stream))

    def wait(self, event: Any) -> None:
        """See `Launcher`."""
        with self._current("waiting for an event"):
            event.thing.synchronize()

    def capturing(self, stream: Any) -> bool:
        """False: PyCUDA cannot ask."""
        return False

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Not with PyCUDA: raises KernelLaunchError."""
        raise KernelLaunchError("PyCUDA has no CUDA graphs; cuda-bindings has: pip install 'claprt[gpu]'")

    def replay(self, graph: Any, stream: Any) -> None:
        """Not with PyCUDA: raises KernelLaunchError."""
        raise KernelLaunchError("PyCUDA has no CUDA graphs; cuda-bindings has: pip install 'claprt[gpu]'")

    @contextlib.contextmanager
    def _current(self, what: str) -> Iterator[None]:
        with self._explained(what, KernelLaunchError), self.current():
            yield

    @contextlib.contextmanager
    def _explained(self, what: str, kind: type[Exception]) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            said = str(error).splitlines()[0].removesuffix(" - ")  # an empty log of the driver's compiler
            raise kind(f"CUDA refused or lost something: {what}: {said}") from error


class _PrimaryContext:
    """A device's primary context; released when neither a launcher nor anything that is in it is left."""

    def __init__(self, cuda: Any, device: int) -> None:
        self._pop = cuda.Context.pop
        self._context = cuda.Device(device).retain_primary_context()
        # PyCUDA's own destructor would not release it as a primary context is.
        weakref.finalize(self, self._context.detach)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._pop()


class _Owned:
    """A thing of PyCUDA's, destroyed with the last reference.

    PyCUDA alone leaks it, with a warning, if that is in another thread than the one that made it.
    """

    def __init__(self, thing: Any, context: _PrimaryContext) -> None:
        self._things = [thing]
        weakref.finalize(self, _destroy, context, self._things)

    @property
    def thing(self) -> Any:
        return self._things[0]


class _Pinned(_Owned):
    """Page-locked memory; NumPy's arrays hold a reference."""

    def __init__(self, memory: NDArray[np.uint8], context: _PrimaryContext) -> None:
        super().__init__(memory, context)
        self.__array_interface__ = memory.__array_interface__


def _destroy(context: _PrimaryContext, things: list[Any]) -> None:
    with context.current():
        things.clear()


def _pycuda_stream(stream: Any) -> Any:
    found = stream.thing if isinstance(stream, _Owned) else stream
    # `handle` of anything but its own is not asked for: PyCUDA's functions take no number, and nothing that holds one.
    if found is None or type(found).__module__.startswith("pycuda."):
        return found
    raise KernelInputError(
        f"stream is {type(stream).__name__} {stream!r}, and PyCUDA cannot wrap a stream that is not its own: pass "
        "None, what PyCudaLauncher.stream() gives or a pycuda.driver.Stream; or use cuda-bindings, which takes any "
        "stream's number: pip install 'claprt[gpu]'"
    )
