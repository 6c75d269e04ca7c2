"""What launches need on the device: constants, and small tables that get there without allocating or waiting."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_kernels.errors import KernelInputError
from claprt_kernels.launcher import Launcher

LARGEST_BATCH = 65_535  # blocks of a grid in y
_RUNS = 16  # how many launches may be under way before one has to wait


def check_batch(max_batch: int) -> None:
    """Refuse a batch that no grid has room for.

    Raises:
        KernelInputError: it is not 1 … 65535.
    """
    if not 1 <= max_batch <= LARGEST_BATCH:
        raise KernelInputError(f"max_batch is {max_batch!r}; it must be 1 … {LARGEST_BATCH}")


def upload(launcher: Launcher, constants: NDArray[Any]) -> int:
    """Constants in device memory of their own; returns when they are there."""
    address = launcher.alloc(constants.nbytes)
    done = launcher.event()
    launcher.copy(address, np.ascontiguousarray(constants).reshape(-1).view(np.uint8), None)
    launcher.record(done, None)
    launcher.wait(done)
    return address


class TableRing:
    """Room for the tables of 16 launches, in pinned memory and on the device. Safe to share between threads."""

    def __init__(self, launcher: Launcher, dtype: np.dtype[np.void], rows: int) -> None:
        self._launcher = launcher
        self._size = dtype.itemsize * rows
        self._device = launcher.alloc(_RUNS * self._size)
        self._host = launcher.pinned(_RUNS * self._size).view(dtype).reshape(_RUNS, rows)
        self._done = [launcher.event() for _ in range(_RUNS)]
        self._next = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def on_device(self, table: NDArray[np.void], stream: Any) -> Iterator[int]:
        """Copy a table on a stream, for launches on that stream inside the context.

        Raises:
            KernelInputError: the ring is closed.
        """
        with self._lock:
            if not self._done:
                raise KernelInputError("this object is closed; make another one")
            slot = self._next
            self._next = (slot + 1) % _RUNS
            self._launcher.wait(self._done[slot])
            staged = self._host[slot, : len(table)]
            staged[:] = table
            address = self._device + slot * self._size
            self._launcher.copy(address, staged.view(np.uint8), stream)
            yield address
            self._launcher.record(self._done[slot], stream)

    def close(self) -> bool:
        """Wait for what is under way and give the memory back; False if that was done before."""
        with self._lock:
            if not self._done:
                return False
            for event in self._done:
                self._launcher.wait(event)
            self._launcher.free(self._device)
            self._done = []
            return True
