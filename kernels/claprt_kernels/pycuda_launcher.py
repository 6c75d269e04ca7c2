"""PyCUDA as a `Launcher`."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_kernels.errors import DeviceMemoryError, KernelLaunchError, KernelUnavailableError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


class PyCudaLauncher:
    """PyCUDA, in the device's primary context. It has no graphs."""

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
            self._context = cuda.Device(device).retain_primary_context()
        # PyCUDA's own destructor would not release it as a primary context is.
        self._release = weakref.finalize(self, self._context.detach)
        self._modules: dict[int, Any] = {}
        self._allocations: dict[int, Any] = {}

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """See `Launcher`."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

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
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See `Launcher`."""
        allocation = self._allocations.pop(address, None)
        if allocation is None:
            raise KernelLaunchError(f"freeing device memory: {address:#x} is not an address that alloc gave")
        with self._current("freeing device memory"):
            allocation.free()

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Launcher`."""
        with self._current(f"allocating {size} bytes of pinned memory"):
            memory: NDArray[np.uint8] = self._cuda.pagelocked_empty(size, np.uint8)
        return memory

    def copy(self, address: int, source: NDArray[np.uint8], stream: Any) -> None:
        """See `Launcher`."""
        with self._current(f"copying {source.nbytes} bytes to the device"):
            self._cuda.memcpy_htod_async(address, source, stream)

    def copy_back(self, target: NDArray[np.uint8], address: int, stream: Any) -> None:
        """See `Launcher`."""
        with self._current(f"copying {target.nbytes} bytes from the device"):
            self._cuda.memcpy_dtoh_async(target, address, stream)

    def stream(self) -> Any:
        """See `Launcher`; a `pycuda.driver.Stream`."""
        with self._current("creating a stream"):
            return self._cuda.Stream(_NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        """See `Launcher`."""
        return 0 if stream is None else int(stream.handle)

    def function(self, image: bytes, name: str) -> Any:
        """See `Launcher`."""
        with self._current(f"loading {name}"):
            if id(image) not in self._modules:
                self._modules[id(image)] = self._cuda.module_from_buffer(image), image
            return self._modules[id(image)][0].get_function(name)

    def launch(self, function: Any, grid: tuple[int, int], block: int, argument: NDArray[np.void], stream: Any) -> None:
        """See `Launcher`."""
        with self._current(f"launching on {grid[0]} x {grid[1]} blocks of {block} threads"):
            function(argument, grid=grid, block=(block, 1, 1), stream=stream)

    def event(self) -> Any:
        """See `Launcher`."""
        with self._current("creating an event"):
            return self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)

    def record(self, event: Any, stream: Any) -> None:
        """See `Launcher`."""
        with self._current("recording an event"):
            event.record(stream)

    def wait(self, event: Any) -> None:
        """See `Launcher`."""
        with self._current("waiting for an event"):
            event.synchronize()

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
            raise kind(f"CUDA refused or lost something: {what}: {str(error).splitlines()[0]}") from error
