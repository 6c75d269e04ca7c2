"""What launches need on the device: constants, and small tables that get there without allocating or waiting."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_kernels.errors import KernelInputError, KernelLaunchError
from claprt_kernels.launcher import Launcher
from claprt_kernels.memory import DeviceMemory

LARGEST_BATCH = 65_535  # blocks of a grid in y
_ALIGNMENT = 256
_RUNS = 16  # how many launches may be under way before one has to wait, and how many may be captured


def check_batch(max_batch: int) -> None:
    """Refuse a batch that no grid has room for.

    Raises:
        KernelInputError: it is not 1 … 65535.
    """
    if not 1 <= max_batch <= LARGEST_BATCH:
        raise KernelInputError(f"max_batch is {max_batch!r}; it must be 1 … {LARGEST_BATCH}")


class TableRing:
    """Constants on the device, and room for the tables of 16 launches, there and in pinned memory. For several threads.

    A launch that is captured keeps its table for as long as the ring lives: its graph reads it at each replay. There is
    room for 16 of those too.
    """

    def __init__(self, launcher: Launcher, constants: NDArray[Any], dtype: np.dtype[np.void], rows: int) -> None:
        """Tables have `rows` of `dtype` at the most. Returns when the constants are on the device, at `constants`."""
        self._launcher = launcher
        self._size = dtype.itemsize * rows
        self._host = launcher.pinned(2 * _RUNS * self._size).view(dtype).reshape(2 * _RUNS, rows)
        self._done = [launcher.event() for _ in range(_RUNS)]
        room = -(-constants.nbytes // _ALIGNMENT) * _ALIGNMENT
        self._memory = DeviceMemory(launcher, room + 2 * _RUNS * self._size)
        self.constants = self._memory.address
        self._device = self.constants + room
        launcher.copy(self.constants, np.ascontiguousarray(constants).reshape(-1).view(np.uint8), None)
        launcher.record(self._done[0], None)
        launcher.wait(self._done[0])
        self._next = 0
        self._captured = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def on_device(self, table: NDArray[np.void], stream: Any) -> Iterator[int]:
        """Copy a table on a stream, for launches on that stream inside the context.

        Raises:
            KernelInputError: the ring is closed.
            KernelLaunchError: CUDA refused, or 16 launches have been captured before.
        """
        with self._lock:
            if not self._done:
                raise KernelInputError("this object is closed; make another one")
            if self._launcher.capturing(stream):
                if self._captured == _RUNS:
                    raise KernelLaunchError(f"{_RUNS} launches of this object are in graphs already; make another one")
                slot, done = _RUNS + self._captured, None
                self._captured += 1
            else:
                slot, done = self._next, self._done[self._next]
                self._next = (slot + 1) % _RUNS
                self._launcher.wait(done)
            staged = self._host[slot, : len(table)]
            staged[:] = table
            address = self._device + slot * self._size
            self._launcher.copy(address, staged.view(np.uint8), stream)
            yield address
            if done is not None:
                self._launcher.record(done, stream)

    def close(self) -> None:
        """Wait for what is under way, but for graphs, and give the memory back; nothing if that was done before."""
        with self._lock:
            if not self._done:
                return
            for event in self._done:
                self._launcher.wait(event)
            self._memory.free()
            self._done = []
