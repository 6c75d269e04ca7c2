"""What the kernels need of a CUDA library, and which library that is.

Addresses are integers. Streams, events, functions and graphs are the library's own objects; stream None is the legacy
default stream.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from claprt_kernels.cuda_bindings_launcher import CudaBindingsLauncher
from claprt_kernels.errors import KernelInputError, KernelUnavailableError
from claprt_kernels.pycuda_launcher import PyCudaLauncher


class Launcher(Protocol):
    """One GPU: memory, copies, streams, kernels, graphs. Safe to use from several threads.

    All of it is in the device's primary context, which TensorRT and ONNX Runtime use too. Every method raises
    KernelLaunchError when CUDA refuses, and for errors of earlier work that CUDA reports late.
    """

    name: str
    """Of the device, as the driver has it."""
    compute_capability: tuple[int, int]
    """Major and minor: (9, 0)."""
    device: int
    """CUDA's number of the device, from 0."""
    driver_version: int
    """The newest CUDA that the driver knows: 1000 · major + 10 · minor, so 13000."""
    can_capture: bool
    """Whether `capture` and `replay` work."""

    def current(self) -> AbstractContextManager[None]:
        """The primary context, current in this thread: for what a caller does with CUDA itself."""

    def free_memory(self) -> tuple[int, int]:
        """Bytes of device memory: free, and in all."""

    def alloc(self, size: int) -> int:
        """Address of `size` bytes of device memory, until `free`.

        Raises:
            DeviceMemoryError: there are not so many.
            KernelLaunchError: CUDA refused otherwise, as it does while this thread captures.
        """

    def free(self, address: int) -> None:
        """Give device memory back."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Page-locked host memory, uint8 (size,), which copies read and write without waiting; its own owner.

        Raises:
            DeviceMemoryError: the host has not so much to lock.
        """

    def copy(self, address: int, source: NDArray[np.uint8], stream: Any) -> None:
        """Copy host memory, C-contiguous, to `address`, on a stream; from pinned memory without waiting."""

    def copy_back(self, target: NDArray[np.uint8], address: int, stream: Any) -> None:
        """Copy device memory to host memory, C-contiguous, on a stream; to pinned memory without waiting.

        `target` has its bytes when the stream has come there.
        """

    def stream(self) -> Any:
        """A stream that neither waits for the legacy default stream nor makes it wait; it ends with the reference."""

    def handle(self, stream: Any) -> int:
        """A stream's CUstream, for other libraries; 0 for None."""

    def function(self, image: bytes, name: str) -> Any:
        """A kernel of a fatbin; each image is loaded once."""

    def launch(self, function: Any, grid: tuple[int, int], block: int, argument: NDArray[np.void], stream: Any) -> None:
        """Launch a kernel that takes one struct by value, the only element of `argument`. Does not wait."""

    def event(self) -> Any:
        """An event that `record` and `wait` take."""

    def record(self, event: Any, stream: Any) -> None:
        """Mark this place on a stream."""

    def wait(self, event: Any) -> None:
        """Block until the stream has come to the mark; at once if there is none."""

    def capturing(self, stream: Any) -> bool:
        """Whether work for this stream goes into a graph now, whoever captures; False where that cannot be asked."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Run `work`, and what it puts on `stream` becomes a graph instead of being done.

        `work` runs in this thread with the context current. It must not allocate or free, nor wait for anything;
        other threads may (CUDA's thread-local mode). The graph has the addresses that it used, of pinned memory too:
        they must live as long. The stream can be used again afterwards, however this ends.

        Returns:
            The graph, for `replay`; it ends with the reference.

        Raises:
            KernelLaunchError: this launcher has no graphs, or the work cannot be captured.
            Exception: what `work` raises passes through.
        """

    def replay(self, graph: Any, stream: Any) -> None:
        """Do a graph's work on a stream. Does not wait."""


def open_launcher(device: int = 0, library: str = "auto") -> Launcher:
    """A launcher on a device. It may be called often: all of a device's launchers share its primary context.

    Args:
        device: CUDA's number of the GPU.
        library: "cuda-bindings", "pycuda", or "auto": cuda-bindings where it is installed (it needs no compiler and has
            graphs), else PyCUDA. One that is installed and fails is an error; the other is not tried then.

    Raises:
        KernelInputError: no such library.
        KernelUnavailableError: the library, the driver or the device is missing; the message says which.
    """
    if library not in ("auto", "cuda-bindings", "pycuda"):
        raise KernelInputError(f'library is {library!r}; it must be "auto", "cuda-bindings" or "pycuda"')
    if library == "cuda-bindings" or (library == "auto" and _installed("cuda.bindings.driver")):
        return CudaBindingsLauncher(device)
    if library == "pycuda" or _installed("pycuda"):
        return PyCudaLauncher(device)
    raise KernelUnavailableError(
        "neither cuda-bindings nor PyCUDA is installed; pip install 'claprt[gpu]' (cuda-bindings, as a wheel), or pip "
        "install 'claprt[pycuda]' (PyCUDA, compiled with nvcc)"
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
