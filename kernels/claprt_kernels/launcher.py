"""What the kernels need of a CUDA library, and PyCUDA as one.

Addresses are integers. Streams are the library's own objects; None is the default stream.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from claprt_kernels.errors import KernelLaunchError, KernelUnavailableError


class Launcher(Protocol):
    """One GPU: memory, copies, streams, kernels. Safe to use from several threads."""

    def alloc(self, size: int) -> int:
        """Address of `size` bytes of device memory, until `free`. KernelLaunchError when there are not so many."""

    def free(self, address: int) -> None:
        """Give device memory back."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Page-locked host memory, uint8 (size,), which `copy` reads without waiting."""

    def copy(self, address: int, source: NDArray[np.uint8], stream: Any) -> None:
        """Copy host memory to `address`, on a stream; from pinned memory without waiting."""

    def function(self, image: bytes, name: str) -> Any:
        """A kernel of a fatbin; each image is loaded once."""

    def launch(self, function: Any, grid: tuple[int, int], block: int, argument: NDArray[np.void], stream: Any) -> None:
        """Launch a kernel that takes one struct by value. Does not wait."""

    def event(self) -> Any:
        """An event that `record` and `wait` take."""

    def record(self, event: Any, stream: Any) -> None:
        """Mark this place on a stream."""

    def wait(self, event: Any) -> None:
        """Block until the stream has come to the mark; at once if there is none."""


class PyCudaLauncher:
    """PyCUDA, in the device's primary context, which TensorRT and ONNX Runtime use too."""

    def __init__(self, device: int = 0) -> None:
        """Start CUDA.

        Raises:
            KernelUnavailableError: PyCUDA, the driver or the device is missing; the message says which.
        """
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise KernelUnavailableError(
                f"PyCUDA cannot be imported: {str(error).splitlines()[0]}; pip install 'claprt[gpu]', which compiles "
                "it (with nvcc; to run it takes the NVIDIA driver)"
            ) from error
        self._cuda: Any = cuda
        with self._explained("starting CUDA", KernelUnavailableError):
            cuda.init()
            count = cuda.Device.count()
        if not 0 <= device < count:
            raise KernelUnavailableError(f"there is no CUDA device {device}: the driver shows {count}")
        with self._explained("taking the primary context", KernelUnavailableError):
            self.compute_capability: tuple[int, int] = cuda.Device(device).compute_capability()
            self.name: str = cuda.Device(device).name()
            self._context = cuda.Device(device).retain_primary_context()
        # PyCUDA's own destructor would not release it as a primary context is.
        self._release = weakref.finalize(self, self._context.detach)
        self._modules: dict[int, Any] = {}
        self._allocations: dict[int, Any] = {}

    def alloc(self, size: int) -> int:
        """Device memory; PyCUDA collects garbage and tries again before it gives up."""
        with self._current(f"allocating {size} bytes of device memory"):
            allocation = self._cuda.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See `Launcher`."""
        with self._current("freeing device memory"):
            self._allocations.pop(address).free()

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Launcher`."""
        with self._current(f"allocating {size} bytes of pinned memory"):
            memory: NDArray[np.uint8] = self._cuda.pagelocked_empty(size, np.uint8)
        return memory

    def copy(self, address: int, source: NDArray[np.uint8], stream: Any) -> None:
        """See `Launcher`."""
        with self._current(f"copying {source.nbytes} bytes to the device"):
            self._cuda.memcpy_htod_async(address, source, stream)

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

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The primary context, current in this thread: for what a caller does with PyCUDA itself."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

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
