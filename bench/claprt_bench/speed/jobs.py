"""Starting workers, one at a time, and getting their results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_bench.errors import BenchError
from claprt_bench.speed.steps import Side, Task


class Workers:
    """Starts a worker for each job. Knows where the inputs lie."""

    def __init__(self, folder: Path, pause: float) -> None:
        """Make one.

        Args:
            folder: with the inputs; workers' arrays are written there.
            pause: seconds before each block of calls.
        """
        self._folder, self._pause = folder, pause
        self.yardsticks: list[float] = []

    def blocks(self, side: Side, tasks: Sequence[Task], seconds: float, least: int = 1) -> list[dict[str, Any]]:
        """A block of at least `seconds` and `least` calls for each task, in one fresh process."""
        tasks_json = [asdict(task) for task in tasks]
        found = self._run(side, {"kind": "blocks", "tasks": tasks_json, "seconds": seconds, "least": least})
        result: list[dict[str, Any]] = found["tasks"]
        return result

    def first(self, side: Side, task: Task) -> dict[str, Any]:
        """`load_ms`, `first_call_ms`, `peak_host_bytes` and `peak_device_bytes` of a fresh process."""
        return self._run(side, {"kind": "first", "task": asdict(task)})

    def vectors(self, side: Side, tasks: Sequence[Task]) -> list[NDArray[np.float32]]:
        """What each task computes on every input, (n, dim)."""
        output = self._folder / "vectors.npz"
        self._run(side, {"kind": "vectors", "tasks": [asdict(task) for task in tasks], "output": str(output)})
        with np.load(output, allow_pickle=False) as arrays:
            return [arrays[str(number)] for number in range(len(tasks))]

    def open_loop(self, side: Side, task: Task, due: Sequence[float], seconds: float) -> dict[str, Any]:
        """Serve requests that are due at these seconds from the start."""
        job = {"kind": "open-loop", "task": asdict(task), "due": list(due), "seconds": seconds}
        return self._run(side, job)

    def _run(self, side: Side, job: dict[str, Any]) -> dict[str, Any]:
        """One job.

        Raises:
            BenchError: the worker reports an error, or dies.
        """
        job |= {"side": asdict(side), "folder": str(self._folder), "pause": self._pause}
        command = [sys.executable, "-m", "claprt_bench.speed.worker"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                said, messages = process.communicate(json.dumps(job))
            except BaseException:
                process.kill()
                raise
        if process.returncode or not said:
            last = (messages.strip().splitlines() or ["it said nothing"])[-1]
            raise BenchError(
                f"a process that measures died: exit code {process.returncode}: {last}; try smaller batches if memory "
                "ran out"
            )
        found: dict[str, Any] = json.loads(said)
        if "error" in found:
            raise BenchError(found["error"])
        self.yardsticks.append(found.pop("yardstick_ms"))
        return found
