"""All processes of one comparison, what they load, and the vectors of each: made before anything is timed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.errors import MissingExtraError
from claprt_bench.errors import BenchError
from claprt_bench.inputs import TEXTS
from claprt_bench.peers.worker import SIDES, Limits, Worker, WorkerError
from claprt_export.source import DEMO_SOURCES

Step = tuple[str, int]
"""What is timed: "waveform" or "text", and how many of them at once."""

_CHECKPOINT = "with_checkpoint.py"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Side:
    """A side that is loaded: its process, what it says of itself, its vectors by step."""

    worker: Worker
    versions: dict[str, str]
    notes: dict[str, list[str]]
    vectors: dict[Step, NDArray[np.float32]] = field(default_factory=dict)

    def notes_of(self, step: Step) -> list[str]:
        """What a reader of this step's figures must know."""
        return [*self.notes.get(step[0], ()), *self.notes.get(f"{step[0]}/b{step[1]}", ())]


class Sides:
    """Starts sides on the same inputs with the same threads, and ends them all."""

    def __init__(
        self,
        directory: Path,
        waveforms: Sequence[NDArray[np.float32]],
        sampling_rate: int,
        batches: Sequence[int],
        threads: int,
        limits: Limits,
        stack: contextlib.ExitStack,
    ) -> None:
        """Keep the inputs where sides find them.

        Args:
            directory: empty; everything that a side writes goes there.
            waveforms: clips, all of the same length.
            sampling_rate: of them, Hz.
            batches: clips of one call.
            threads: of every side.
            limits: how long a side may take.
            stack: ends the processes.
        """
        self.directory, self._threads, self._limits, self._stack = directory, threads, limits, stack
        self._count = len(waveforms)
        stacked = np.stack(waveforms).astype(np.float32)
        np.save(directory / "clips.npy", stacked)
        np.save(directory / "rounded.npy", through_int16(stacked))
        self._job = {
            "clips": {"waveform": str(directory / "clips.npy"), "rounded": str(directory / "rounded.npy")},
            "texts": list(TEXTS),
            "threads": threads,
            "sampling_rate": sampling_rate,
            "batches": sorted(set(batches)),
        }
        self.steps: list[Step] = [("waveform", batch) for batch in sorted(set(batches))] + [("text", len(TEXTS))]

    def picked(self, step: Step, index: int) -> list[int]:
        """Numbers of a round's inputs: others in each round, the same for all sides."""
        return [(index + i) % self._count for i in range(step[1])] if step[0] != "text" else list(range(step[1]))

    def load(self, name: str, file: Path, python: Path | None, place: str, job: Mapping[str, Any]) -> Side:
        """Start a side and take its vectors of every step, in the batches that will be timed.

        Args:
            name: for errors.
            file: that runs it.
            python: that runs the file; None is this one, which then finds what is found here.
            place: the directory it works in, below `directory`.
            job: its own fields.

        Raises:
            WorkerError: its process failed; it has ended.
        """
        worker = self._start(name, file, python, self.directory / place)
        try:
            facts = worker.load({**self._job, **job})
            side = Side(worker, facts["versions"], facts["notes"])
            for step in self.steps:
                side.vectors[step] = self._vectors(worker, step)
        except BaseException:
            worker.close()
            raise
        return side

    def rounded(self, side: Side, batch: int) -> NDArray[np.float32]:
        """The vectors of a side for the same clips after `through_int16`."""
        return self._vectors(side.worker, ("rounded", batch))

    def _vectors(self, worker: Worker, step: Step) -> NDArray[np.float32]:
        if step[0] == "text":
            return worker.vectors(step[0], self.picked(step, 0))
        firsts = range(0, self._count, step[1])
        parts = [worker.vectors(step[0], self.picked(step, first)) for first in firsts]
        return np.concatenate(parts)[: self._count]

    def checkpoint(
        self, source: str, revision: str | None, tokenizer: str | None, weights_sha256: str, wants: Sequence[str]
    ) -> dict[str, Any]:
        """What `workers/with_checkpoint.py` makes for the peers, in a process that ends before anything is timed.

        Args:
            source, revision, tokenizer: as `claprt_export.checkpoint.load_checkpoint` takes them.
            weights_sha256: what its weights must have.
            wants: what is made beside the directory, of "stock" and "laion".

        Raises:
            BenchError: there is no such checkpoint, or its weights are others.
            MissingExtraError: claprt[export] is not installed.
        """
        work = self.directory / "checkpoint"
        job = {
            "source": source if source in DEMO_SOURCES else _absolute(source),
            "revision": revision,
            "tokenizer": tokenizer and _absolute(tokenizer),
            "weights_sha256": weights_sha256,
            "wants": list(wants),
            "work": str(work),
        }
        with self._start("the checkpoint", SIDES / _CHECKPOINT, None, work) as worker:
            try:
                return worker.load(job)
            except WorkerError as error:
                if error.missing:
                    raise MissingExtraError(
                        f"peers load the checkpoint, which takes {error.missing}; pip install 'claprt[export]'"
                    ) from error
                raise BenchError(f"nothing for the peers to load: {error.reason}") from error

    def _start(self, name: str, file: Path, python: Path | None, work: Path) -> Worker:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
        environment |= dict.fromkeys(_THREADS, str(self._threads))
        # What a side compiles goes with the directory, and is not there already when it starts.
        environment |= {"TMPDIR": str(work), "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
        if file.name != _CHECKPOINT:
            environment["HF_HUB_OFFLINE"] = "1"  # all that a side loads is here; none must wait for a network
        if python is None:
            environment["PYTHONPATH"] = os.pathsep.join(str(Path(path).resolve()) for path in sys.path)
        # A program on the PATH, or a path from here: the process starts elsewhere. A link stays one, as in a venv.
        program = Path(shutil.which(python) or python).absolute() if python else sys.executable
        worker = Worker(name, file, program, work, environment, self._limits)
        self._stack.callback(worker.close)
        return worker


def through_int16(waveforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples as LAION's code rounds them: clipped to ±1, times 32767, truncated, divided by 32767."""
    integers = (np.clip(waveforms, -1.0, 1.0) * np.float32(32767)).astype(np.int16)
    return np.asarray(integers.astype(np.float32) / np.float32(32767), dtype=np.float32)


def _absolute(path: str) -> str:
    """A path that holds in another working directory; what is no path is left as it is."""
    return str(Path(path).resolve()) if os.path.exists(path) else path  # noqa: PTH110 (a hub id may be no legal path)
