"""A unit of a step in a process of its own: what crashes or hangs there takes nothing else with it.

Rows travel through a file, a JSON object a line, each written when it is known; the last line is the outcome.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from claprt_bench.gpu_task import FAILED, PASSED, Row, Settings, Task, outcome_of

_POLL = 0.1
_SAID = 2000  # characters of a crashed process's last words
_PR_SET_PDEATHSIG = 1


def run_unit(step: str, unit: str, settings: Settings, timeout: float, on_row: Callable[[Row], None]) -> Row:
    """Run a unit to its end, or until its time is up, or until it crashes.

    Args:
        step: name of the step.
        unit: of the step; "" if it has none.
        settings: for it.
        timeout: in seconds. It is killed then, with all that it started.
        on_row: called with each row as it comes.

    Returns:
        `status`, `reason` if it did not pass, `result` if it has one, `seconds`.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, said = Path(folder) / "rows", Path(folder) / "said"
        command = [sys.executable, "-m", "claprt_bench.gpu_child", step, unit, settings.to_json(), str(rows)]
        with said.open("wb") as log, _group(command, log) as process:
            outcome: Row | None = None
            reader = _Lines(rows)
            while True:
                ended = process.poll() is not None  # asked before the last lines are read
                for line in reader.new():
                    if "row" in line:
                        on_row(line["row"])
                    else:
                        outcome = line["outcome"]
                if ended or time.monotonic() - start > timeout:
                    break
                time.sleep(_POLL)
        words = said.read_text(encoding="utf-8", errors="replace").strip()[-_SAID:]
    if not ended:
        outcome = {"status": FAILED, "reason": f"not done after {timeout:g} s: {words}"}
    elif outcome is None:
        outcome = {"status": FAILED, "reason": f"it crashed: {_ending(process.returncode)}: {words}"}
    return {**outcome, "seconds": round(time.monotonic() - start, 1)}


@contextlib.contextmanager
def _group(command: list[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; whatever is left of the group is killed at the end."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Lines:
    """Lines of a file that grows; half a line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def new(self) -> list[Any]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            found = file.read()
        whole = found[: found.rfind(b"\n") + 1]
        self._at += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _ending(code: int) -> str:
    try:
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"ended by signal {-code}"


def main(arguments: list[str]) -> int:
    """The child: `STEP UNIT SETTINGS ROWS`."""
    with contextlib.suppress(OSError, AttributeError):  # it must not outlive who waits for it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from claprt_bench.gpu_steps import STEPS

    name, unit, settings, path = arguments
    with Path(path).open("a", encoding="utf-8") as file:

        def tell(line: Row) -> None:
            file.write(json.dumps(line, default=float) + "\n")
            file.flush()

        try:
            result = STEPS[name].run(Task(Settings.from_json(settings), unit, lambda row: tell({"row": row})))
            outcome: Row = {"status": PASSED} | ({} if result is None else {"result": result})
        except Exception as error:  # its last words are the result
            outcome = outcome_of(error)
        tell({"outcome": outcome})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
