"""The errors of the kernels. Each is also the builtin that it specialises.

Beside the runtime, as the wheel installs them, they are of its family; the kernels work without it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from claprt.errors import ClaprtError
else:
    try:
        from claprt.errors import ClaprtError
    except ImportError:
        ClaprtError = Exception


class KernelError(ClaprtError):
    """Base class of every error that claprt_kernels raises on purpose."""


class KernelSpecError(KernelError, ValueError):
    """The kernel does not compute this log-Mel specification."""


class KernelInputError(KernelError, ValueError):
    """A clip, pointer, shape or dtype that the kernel cannot take; found before anything is launched."""


class KernelUnavailableError(KernelError, RuntimeError):
    """The kernel cannot run here: no GPU, no driver, no CUDA library, or a wheel that was built without nvcc."""


class KernelLaunchError(KernelError, RuntimeError):
    """CUDA refused or lost a launch; the message has the kernel's name and sizes."""


class DeviceMemoryError(KernelLaunchError, MemoryError):
    """There is not as much device memory, or page-locked memory, as was wanted; the message says how much was."""

    @classmethod
    def wanted(cls, size: int, free: int, total: int) -> DeviceMemoryError:
        """The error for `size` bytes, where `free` of `total` are."""
        return cls(
            f"out of device memory: {size} bytes wanted, {free} of {total} are free; use a smaller batch, or end what "
            "else uses this GPU"
        )

    @classmethod
    def locked(cls, size: int) -> DeviceMemoryError:
        """The error for `size` bytes of page-locked host memory."""
        return cls(f"out of page-locked host memory: {size} bytes wanted; use a smaller batch, or free some memory")
