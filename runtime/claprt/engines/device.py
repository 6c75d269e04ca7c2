"""A tower on a GPU: buffers, streams and batches, the same for every library that computes there.

What a library must bring is small (`DeviceTower`, `DeviceContext`): run on these addresses, with these shapes, on this
stream. All else is here. A slot is all that runs need on the device: a stream, input and output, a context of the
library. Whoever has a slot has it alone, for as long as it takes to put a run on its stream: runs queue up there.
Staging is what a run needs on the host, pinned memory, until its result is there. So several threads run side by side,
and one caller fills the next batch while the last one computes. Both are made when they are first needed, each buffer
once: a warm run allocates nothing and waits for nothing but its own result.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from claprt.errors import BackendError, ClaprtWarning

if TYPE_CHECKING:
    from claprt_kernels import DeviceMemory

Shape = tuple[int, ...]
SLOTS = 2


class DeviceContext(Protocol):
    """What runs a tower on one stream. Used by one thread at a time; what it has on the device ends with it."""

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


class _Run:
    """A run on a slot's stream."""

    waited_for = False


class Staging:
    """Pinned memory of one run at a time: what goes up, what comes down, and whether it is done."""

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher
        self._pinned: dict[str, NDArray[np.uint8]] = {}
        self._done = launcher.event()
        self._run = _Run()

    def memory(self, name: str, size: int) -> NDArray[np.uint8]:
        """Memory by name, uint8, at least `size` bytes; what was in a smaller one is lost."""
        if name not in self._pinned or self._pinned[name].nbytes < size:
            self._pinned[name] = self._launcher.pinned(max(size, 1))
        return self._pinned[name]

    def record(self, stream: Any) -> _Run:
        """A run ends here, and is the one that is waited for from now on."""
        self._run = _Run()
        self._launcher.record(self._done, stream)
        return self._run

    def vectors(self, rows: int, dim: int) -> NDArray[np.float32]:
        """Wait for the run; its vectors, (rows, dim) float32, a new array."""
        self._wait()
        vectors: NDArray[np.float32] = self._pinned["output"][: 4 * rows * dim].view(np.float32)
        return np.array(vectors.reshape(rows, dim), dtype=np.float32)

    def settle(self) -> None:
        """Wait for the run, if there is one, however it ends: the memory can be used again."""
        from claprt_kernels import KernelError

        with suppress(KernelError):  # told to whoever wants the vectors
            self._wait()

    def _wait(self) -> None:
        try:
            self._launcher.wait(self._done)
        finally:
            self._run.waited_for = True


class Slot:
    """A stream with a tower's buffers and context. Its methods put work on the stream, but for `wait` and `settle`.

    `staging` is what it uses where it is given none: for who keeps the slot until the run is done.
    """

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
        self.staging = Staging(launcher)
        self._idle = launcher.event()
        self._largest = tower.largest(most)
        self._device: dict[str, DeviceMemory] = {}
        self.inputs = {name: self.device(name, self._bytes(name)) for name in tower.inputs}
        self.output = self.device("output", 4 * most * dim)
        self._context: DeviceContext | None = tower.context(self.stream)
        self._last: _Run | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that nobody has waited for yet."""
        return self._last is None or self._last.waited_for

    def device(self, name: str, size: int) -> int:
        """Address of device memory of the slot by name, at least `size` bytes; what was in a smaller one is lost.

        To grow it waits for what is under way.
        """
        from claprt_kernels import DeviceMemory

        if name not in self._device or self._device[name].nbytes < size:
            if name in self._device:
                self.settle()
                self._device.pop(name).free()
            self._device[name] = DeviceMemory(self.launcher, size)
        return self._device[name].address

    def upload(self, name: str, rows: NDArray[Any], first: int = 0, staging: Staging | None = None) -> None:
        """Copy rows of an input into its place on the device, from row `first` on. Does not wait."""
        dtype = self.tower.inputs[name]
        begin = first * (rows.nbytes // max(len(rows), 1))
        staged = (staging or self.staging).memory(name, self._bytes(name))[begin : begin + rows.nbytes]
        staged.view(dtype).reshape(rows.shape)[...] = rows
        self.launcher.copy(self.inputs[name] + begin, staged, self.stream)

    def enqueue(self, shapes: Mapping[str, Shape], staging: Staging | None = None) -> None:
        """Run the tower on what is in its inputs, and bring the vectors back. Does not wait."""
        staging = staging or self.staging
        assert self._context is not None
        self._context.enqueue(shapes, self.inputs, self.output)
        size = 4 * self.dim * next(iter(shapes.values()))[0]
        self.launcher.copy_back(staging.memory("output", 4 * self.most * self.dim)[:size], self.output, self.stream)
        self._last = staging.record(self.stream)

    def wait(self, rows: int) -> NDArray[np.float32]:
        """Wait for the last run with the slot's own staging; its vectors, (rows, dim) float32, a new array."""
        return self.staging.vectors(rows, self.dim)

    def settle(self) -> None:
        """Wait for all that is under way."""
        self.launcher.record(self._idle, self.stream)
        self.launcher.wait(self._idle)

    def close(self) -> None:
        """Give back all that it has on the device, after what is under way. It cannot be used any more."""
        from claprt_kernels import KernelError

        with suppress(KernelError):  # told to whoever waits for that
            self.settle()
        self._context = None
        while self._device:
            self._device.popitem()[1].free()

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
        self._free: deque[Slot] = deque()  # the one that was given back last comes last
        self._made, self._limit = 0, SLOTS

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
        with explained(self.tower.name):
            while first < total:
                rest = {name: value[first:] for name, value in inputs.items()}
                count = min(total - first, self.rows({name: value.shape[1:] for name, value in rest.items()}))
                try:
                    with self.slot() as slot:
                        for name, value in rest.items():
                            slot.upload(name, np.asarray(value[:count]))
                        slot.enqueue({name: (count, *value.shape[1:]) for name, value in rest.items()})
                        result[first : first + count] = slot.wait(count)
                except MemoryError as error:
                    self.relieve(error)
                    continue
                first += count
        return result

    def rows(self, shapes: Mapping[str, Shape]) -> int:
        """How many rows of inputs of such shapes (the batch left out) one run takes."""
        return self.tower.rows(shapes, self._most)

    def relieve(self, error: MemoryError) -> None:
        """There was no memory for a run: from now on, do with less. Says so in a warning; the run can be tried again.

        First one run at a time, then fewer and fewer rows. To be called without a slot.

        Raises:
            MemoryError: `error`, where it is one row at a time already.
        """
        with self._changed:
            if self._limit > 1:
                self._limit = 1
                instead = "one run at a time is done"
            else:
                instead = self._shrink(error)
            while self._free:
                self._free.pop().close()
                self._made -= 1
            self._changed.notify()
        _warn(instead, error)

    def _shrink(self, error: MemoryError) -> str:
        smaller = [step for step in self.tower.steps if step < self._most]
        if not smaller:
            raise error
        self._most = smaller[-1]
        return f"batches of {self._most} are run"

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """A slot, for one user; waits until there is one.

        Who has it must not call what may wait for something else: others wait for the slot.

        Raises:
            MemoryError: there is no memory even for a slot with a row.
        """
        slot = self._take()
        try:
            yield slot
        finally:
            self._give(slot)

    def _take(self) -> Slot:
        """An idle slot; else a new one, so that what goes up for it does not wait for the run on another; else any."""
        with self._changed:
            while True:
                idle = next((slot for slot in self._free if slot.idle), None)
                if idle is not None:
                    self._free.remove(idle)
                    return idle
                if self._made < self._limit:
                    slot = self._another()
                    if slot is not None:
                        self._made += 1
                        return slot
                elif self._free:
                    return self._free.popleft()
                else:
                    self._changed.wait()

    def _give(self, slot: Slot) -> None:
        with self._changed:
            if slot.most > self._most or self._made > self._limit:  # made before memory was found to be short
                self._made -= 1
                slot.close()
            else:
                self._free.append(slot)
            self._changed.notify()

    def _another(self) -> Slot | None:
        """A new slot, with fewer rows where memory does not suffice for all. None where it does for no other slot."""
        from claprt_kernels import DeviceMemoryError

        while True:
            try:
                return Slot(self.launcher, self.tower, self.dim, self._most)
            except DeviceMemoryError as error:  # noqa: PERF203
                if self._made:
                    self._limit = self._made
                    _warn("one run at a time is done", error)
                    return None
                _warn(self._shrink(error), error)


def _warn(instead: str, error: MemoryError) -> None:
    warnings.warn(f"the GPU's memory is short: {instead} from now on: {error}", ClaprtWarning, stacklevel=3)


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
