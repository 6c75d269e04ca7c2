"""A side of a comparison from outside: its process is started, asked, and ended with all that it started itself."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_bench.errors import BenchError

SIDES = Path(__file__).with_name("workers")
_LONGEST_ANSWER = 256 << 20
_SHOWN = 300  # characters of what a process said


class WorkerError(BenchError):
    """A side's process failed.

    Attributes:
        reason: why, without the side's name.
        missing: the package that it lacks, if that is why.
    """

    def __init__(self, name: str, reason: str, missing: str | None = None) -> None:
        super().__init__(f"{name} failed: {reason}")
        self.reason, self.missing = reason, missing


@dataclass(frozen=True)
class Limits:
    """Seconds that a process may take to load (exporting and compiling included), and for one run."""

    load: float = 1800.0
    run: float = 600.0


class Worker:
    """One side in a process of its own: `workers/serve.py` with a side's file. Close it, or use it in a `with`."""

    def __init__(
        self,
        name: str,
        side: Path,
        python: str | Path,
        directory: Path,
        environment: Mapping[str, str],
        limits: Limits | None = None,
    ) -> None:
        """Start the process.

        Args:
            name: of the side, for errors.
            side: its file in `SIDES`, or another with a function `load`.
            python: the interpreter that runs it.
            directory: it works there; what it says goes to a file there.
            environment: all of its environment.
            limits: None takes the defaults.

        Raises:
            WorkerError: it cannot be started.
        """
        self.name, self._limits = name, limits or Limits()
        self._said = directory / "stderr.txt"
        directory.mkdir(parents=True, exist_ok=True)
        command = [str(python), str(SIDES / "serve.py"), str(side)]
        try:
            with self._said.open("wb") as said:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    cwd=directory,
                    env=dict(environment),
                    start_new_session=True,  # a group of its own: it ends with its children, and Ctrl-C is ours
                )
        except OSError as error:
            raise WorkerError(name, f"it cannot be started: {python}: {error.strerror}; check the path") from error
        self._rest, self._closed = b"", False

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def load(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Load the side; returns its facts.

        Raises:
            WorkerError: it failed, or took too long.
        """
        return self._ask({"do": "load", "job": dict(job)}, self._limits.load)

    def seconds(self, step: str, indices: Sequence[int]) -> float:
        """Run a step once on the inputs of these numbers; what it took by the side's own clock.

        Raises:
            WorkerError: it failed, or took too long.
        """
        answer = self._ask({"do": "run", "step": step, "indices": list(indices), "vectors": False}, self._limits.run)
        seconds = answer.get("seconds")
        if not isinstance(seconds, float) or not 0 < seconds < self._limits.run:
            raise WorkerError(self.name, f"it says that a run took {seconds!r} s")
        return seconds

    def vectors(self, step: str, indices: Sequence[int]) -> NDArray[np.float32]:
        """Run a step once; its vectors (n, dim) float32.

        Raises:
            WorkerError: it failed, took too long, or what it returned is no such array.
        """
        answer = self._ask({"do": "run", "step": step, "indices": list(indices), "vectors": True}, self._limits.run)
        try:
            data = base64.b64decode(answer["vectors"], validate=True)
            found: NDArray[np.float32] = np.frombuffer(data, dtype="<f4").reshape(answer["shape"]).astype(np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise WorkerError(self.name, f"its vectors cannot be read: {error}") from error
        return found

    def close(self) -> None:
        """End the process and every process that it started. Again is nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone; macOS says the latter of a group of dead processes
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                pipe.close()

    def _ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        line = self._line(limit)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            shown = line.decode(errors="replace").strip()[:80]
            reason = f"it wrote {shown!r} to its standard output, which is no answer{self._last()}"
            raise WorkerError(self.name, reason)
        if "error" in answer:
            kind = "" if answer["kind"] in ("RuntimeError", "CheckpointError") else f"{answer['kind']}: "
            raise WorkerError(self.name, f"{kind}{answer['error'][:_SHOWN]}", answer.get("missing"))
        return answer

    def _line(self, limit: float) -> bytes:
        """The next line of the process's output."""
        assert self._process.stdout is not None
        output, end = self._process.stdout.fileno(), time.monotonic() + limit
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                raise WorkerError(self.name, f"no answer within {limit:g} s{self._last()}")
            chunk = os.read(output, 1 << 20)
            if not chunk:
                raise self._died()
            self._rest += chunk
            if len(self._rest) > _LONGEST_ANSWER:
                raise WorkerError(self.name, f"its answer has no end{self._last()}")
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _died(self) -> WorkerError:
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return WorkerError(self.name, f"its process closed its standard output{self._last()}")
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return WorkerError(self.name, f"its process ended with {how}{self._last()}")

    def _last(self) -> str:
        """The last line that the process wrote to stderr, to end a message."""
        lines = [line.strip() for line in self._said.read_bytes()[-65536:].decode(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "it said nothing")
        return f"; last line: {last[:_SHOWN]}"
