"""Device memory with an owner."""

from __future__ import annotations

import contextlib
import weakref

from claprt_kernels.errors import KernelLaunchError
from claprt_kernels.launcher import Launcher


class DeviceMemory:
    """Device memory that is given back with the last reference to it, or by `free`."""

    def __init__(self, launcher: Launcher, size: int) -> None:
        """Allocate `size` bytes, at `address`.

        Raises:
            DeviceMemoryError: there are not so many.
        """
        self.address = launcher.alloc(size)
        self.nbytes = size
        self._free = weakref.finalize(self, _free, launcher, self.address)
        self._free.atexit = False  # the driver takes everything back when the process ends

    def free(self) -> None:
        """Give it back; nothing if that was done before. CUDA waits for what still uses it."""
        self._free()


def _free(launcher: Launcher, address: int) -> None:
    # CUDA also reports here that earlier work failed, which whoever waits for that work is told.
    with contextlib.suppress(KernelLaunchError):
        launcher.free(address)
