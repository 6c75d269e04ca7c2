"""A tower on a GPU: buffers, streams and batches, the same for every library that computes there.

What a library must bring is small (`DeviceTower`, `DeviceContext`): run on these addresses, with these shapes, on this
stream. All else is here. A slot is all that one run needs: a stream, input and output on the device, pinned memory
beside them, a context of the library. Whoever has a slot has it alone, so several threads run side by side, each in a
slot, and one caller fills the next slot while the last one computes. Slots are made when they are first needed, each
buffer once: a warm run allocates nothing and waits for nothing but its own result.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from claprt.errors import BackendError, ClaprtWarning

Shape = tuple[int, ...]
SLOTS = 2


class DeviceContext(Protocol):
    """What runs a tower on one stream at a time. Used by one thread at a time."""

    def enqueue(self, shapes: Mapping[str, Shape], inputs: Mapping[str, int], output: int) -> None:
        """Put one run on the slot's stream; does not wait.

        Args:
            shapes: of the inputs, the batch first.
            inputs: device addresses; of one name always the same.
            output: device address of (batch, dim) float32; always the same.

        Raises:
            BackendError: the library refuses, with its reason.
            DeviceMemoryError: there is not enough memory on the GPU for these shapes; nothing was put on the stream.
        """
        ...

    def close(self) -> None:
        """Give back what it has on the device. Nothing of it runs any more."""
        ...


class DeviceTower(Protocol):
    """A tower of some library on a GPU."""

    @property
    def name(self) -> str:
        """Of the library, with version, for messages."""
        ...

    @property
    def inputs(self) -> Mapping[str, np.dtype[Any]]:
        """Names of the inputs, in order, and their types."""
        ...

    @property
    def steps(self) -> tuple[int, ...]:
        """Batches that it is made for, ascending; runs of other sizes up to the last are possible too."""
        ...

    def rows(self, shapes: Mapping[str, Shape], most: int) -> int:
        """How many rows of inputs of such shapes (the batch left out) one run takes, at most `most`, at least 1.

        Raises:
            BackendError: not even one: no profile has room for such a row.
        """
        ...

    def largest(self, most: int) -> Mapping[str, Shape]:
        """Shapes that inputs of up to `most` rows can have at most, the batch included, by number of elements."""
        ...

    def context(self, stream: Any) -> DeviceContext:
        """A context for a slot with this stream.

        Raises:
            BackendError, DeviceMemoryError: as `DeviceContext.enqueue`.
        """
        ...


class Slot:
    """A stream with a tower's buffers and context. Its methods put work on the stream; `wait` waits for it."""

    def __init__(self, launcher: Any, tower: DeviceTower, dim: int, most: int) -> None:
        """Allocate on the device; pinned memory follows when it is needed.

        Args:
            launcher: of `claprt_kernels`.
            tower: what runs.
            dim: length of the vectors.
            most: rows of a run at most.

        Raises:
            DeviceMemoryError: there is not enough memory on the GPU. What was allocated is given back.
        """
        self.launcher, self.tower, self.dim, self.most = launcher, tower, dim, most
        self.stream = launcher.stream()
        self._done = launcher.event()
        self._largest = tower.largest(most)
        self._device: dict[str, tuple[int, int]] = {}  # address and bytes
        self._pinned: dict[str, NDArray[np.uint8]] = {}
        self._context: DeviceContext | None = None
        try:
            self.inputs = {name: self.device(name, self._bytes(name)) for name in tower.inputs}
            self.output = self.device("output", 4 * most * dim)
            self._context = tower.context(self.stream)
        except BaseException:
            self.close()
            raise

    def device(self, name: str, size: int) -> int:
        """Device memory of the slot by name, at least `size` bytes; what was in a smaller one is lost.

        Only between runs: growing frees what was there.
        """
        address, found = self._device.get(name, (0, 0))
        if size > found:
            if address:
                self.settle()
                del self._device[name]
                self.launcher.free(address)
            address = self.launcher.alloc(size)
            self._device[name] = address, size
        return address

    def pinned(self, name: str, size: int) -> NDArray[np.uint8]:
        """Pinned memory of the slot by name, uint8, at least `size` bytes; what was in a smaller one is lost."""
        if name not in self._pinned or self._pinned[name].nbytes < size:
            self._pinned[name] = self.launcher.pinned(max(size, 1))
        return self._pinned[name]

    def upload(self, name: str, rows: NDArray[Any], first: int = 0) -> None:
        """Copy rows of an input into its place on the device, from row `first` on. Does not wait."""
        dtype = self.tower.inputs[name]
        begin = first * (rows.nbytes // max(len(rows), 1))
        staged = self.pinned(name, self._bytes(name))[begin : begin + rows.nbytes]
        staged.view(dtype).reshape(rows.shape)[...] = rows
        self.launcher.copy(self.inputs[name] + begin, staged, self.stream)

    def enqueue(self, shapes: Mapping[str, Shape]) -> None:
        """Run the tower on what is in its inputs, and bring the vectors back. Does not wait."""
        assert self._context is not None
        self._context.enqueue(shapes, self.inputs, self.output)
        size = 4 * self.dim * next(iter(shapes.values()))[0]
        self.launcher.copy_back(self.pinned("output", 4 * self.most * self.dim)[:size], self.output, self.stream)
        self.launcher.record(self._done, self.stream)

    def wait(self, rows: int) -> NDArray[np.float32]:
        """Wait for the last run; its vectors, (rows, dim) float32, a new array."""
        self.launcher.wait(self._done)
        vectors: NDArray[np.float32] = self._pinned["output"][: 4 * rows * self.dim].view(np.float32)
        return np.array(vectors.reshape(rows, self.dim), dtype=np.float32)

    def settle(self) -> None:
        """Wait for all that is under way."""
        self.launcher.record(self._done, self.stream)
        self.launcher.wait(self._done)

    def close(self) -> None:
        """Give the device memory back, after what is under way."""
        self.settle()
        if self._context is not None:
            self._context.close()
            self._context = None
        while self._device:
            self.launcher.free(self._device.popitem()[1][0])

    def _bytes(self, name: str) -> int:
        return int(np.prod(self._largest[name], dtype=np.int64)) * self.tower.inputs[name].itemsize


class DeviceEngine:
    """An `Engine` on a GPU; see the module. Thread-safe."""

    lanes = 1

    def __init__(self, launcher: Any, tower: DeviceTower, dim: int) -> None:
        """Make it; slots follow when they are needed.

        Args:
            launcher: of `claprt_kernels`, on the GPU that the tower is on.
            tower: what runs.
            dim: length of the vectors.
        """
        self.launcher, self.tower, self.dim = launcher, tower, dim
        self._most = tower.steps[-1]
        self._changed = threading.Condition()
        self._free: list[Slot] = []
        self._made = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `Engine.inputs`."""
        return tuple(self.tower.inputs)

    @property
    def most(self) -> int:
        """Rows of a run at most; less than the tower's last step once the GPU's memory was found too small for it."""
        return self._most

    def lane(self) -> DeviceEngine:
        """See `Engine.lane`."""
        return self

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See `Engine.run`. A batch that is larger than a run can be is split."""
        total = len(next(iter(inputs.values())))
        result = np.empty((total, self.dim), dtype=np.float32)
        first = 0
        with self.slot() as slot:
            while first < total:
                rest = {name: value[first:] for name, value in inputs.items()}
                count = min(total - first, self.rows({name: value.shape[1:] for name, value in rest.items()}))
                for name, value in rest.items():
                    slot.upload(name, np.asarray(value[:count]))
                try:
                    slot.enqueue({name: (count, *value.shape[1:]) for name, value in rest.items()})
                except MemoryError as error:
                    self.shrink(count, error)
                    continue
                result[first : first + count] = slot.wait(count)
                first += count
        return result

    def rows(self, shapes: Mapping[str, Shape]) -> int:
        """How many rows of inputs of such shapes (the batch left out) one run takes."""
        return self.tower.rows(shapes, self._most)

    def shrink(self, rows: int, error: MemoryError) -> None:
        """From now on, run fewer rows than these, for which there was no memory, at a time. Says so in a warning.

        Raises:
            MemoryError: `error`, where there is nothing smaller.
        """
        smaller = [step for step in self.tower.steps if step < rows]
        if not smaller:
            raise error
        if smaller[-1] < self._most:
            self._most = smaller[-1]
            warnings.warn(
                f"the GPU's memory does not suffice for batches of {rows}: batches of {self._most} are run instead: "
                f"{error}",
                ClaprtWarning,
                stacklevel=2,
            )

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """A slot, for one user; waits until there is one. Errors of CUDA become `BackendError`."""
        with explained(self.tower.name):
            slot = self.take(wait=True)
            assert slot is not None
            try:
                yield slot
            finally:
                self.give(slot)

    def take(self, wait: bool) -> Slot | None:
        """A slot that nobody has; None if all are taken and `wait` is false. Whoever has one must `give` it back."""
        with self._changed:
            while True:
                if self._free:
                    return self._free.pop()
                if self._made < SLOTS:
                    slot = self._make()
                    self._made += 1
                    return slot
                if not wait:
                    return None
                self._changed.wait()

    def give(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._changed:
            if slot.most > self._most:  # made before memory was found to be short: its buffers are better freed
                slot.close()
                self._made -= 1
            else:
                self._free.append(slot)
            self._changed.notify()

    def _make(self) -> Slot:
        """A new slot, with fewer rows where memory does not suffice for all."""
        from claprt_kernels import DeviceMemoryError

        while True:
            try:
                return Slot(self.launcher, self.tower, self.dim, self._most)
            except DeviceMemoryError as error:  # noqa: PERF203
                self.shrink(self._most, error)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn errors of CUDA into `BackendError`s that say what to do."""
    from claprt_kernels import DeviceMemoryError, KernelError, KernelUnavailableError

    try:
        yield
    except KernelUnavailableError as error:  # it says itself what to do
        raise BackendError(str(error)) from error
    except DeviceMemoryError as error:
        raise BackendError(
            f"the GPU's memory does not suffice: {what}: {error}; free some, or use smaller batches"
        ) from error
    except KernelError as error:
        raise BackendError(
            f"the GPU failed: {what}: {error}; if that goes on, start the process again, and see what nvidia-smi says"
        ) from error
