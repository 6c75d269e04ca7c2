"""A side's process: it answers whatever its libraries print, and every way to fail is one line that names it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from claprt_bench.peers.worker import Limits, Worker, WorkerError

# A side that adds up its inputs, and prints wherever libraries print. `%s` runs while it loads.
SIDE = """
import os, subprocess, sys, time
import numpy as np
print("printed while imported")
def load(job):
    print("printed"), os.write(1, b"written"), subprocess.run(["echo", "by a child"])
    print("about to load", file=sys.stderr, flush=True)
    %s
    def embed(inputs):
        print("printed in a run", flush=True)
        time.sleep(job.get("sleep", 0))
        return np.stack([[len(text), 1.0] for text in inputs]).astype(np.float32)
    return {"text": embed}, {"versions": {}, "notes": {}, "stdin": sys.stdin.read()}
"""

Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(body)`: a worker whose side runs `body` while it loads."""
    workers = []

    def make(body: str = "pass", limits: Limits | None = None, python: str | Path = sys.executable) -> Worker:
        side = tmp_path / "side.py"
        side.write_text(SIDE % body)
        workers.append(Worker("the peer", side, python, tmp_path / "work", os.environ, limits))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def test_a_side_may_print(start: Start) -> None:
    """Python's print, a write to the file descriptor and a child's output do not meet the answers; stdin is empty."""
    worker = start()
    facts = worker.load({"clips": {}, "texts": ["a", "bcd", "ef"]})
    assert facts["stdin"] == ""
    found = worker.vectors("text", [1, 0, 2])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[3, 1], [1, 1], [2, 1]])


def test_seconds_are_the_side_s_own(start: Start) -> None:
    """What the side's work takes is in them, and no more than the whole request took."""
    worker = start()
    worker.load({"clips": {}, "texts": ["a"], "sleep": 0.05})
    before = time.perf_counter()
    seconds = worker.seconds("text", [0])
    assert 0.05 <= seconds <= time.perf_counter() - before


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("os._exit(3)", "the peer failed: its process ended with exit code 3; last line: about to load"),
        (
            "os.kill(os.getpid(), 11)",
            "the peer failed: its process ended with signal SIGSEGV; last line: about to load",
        ),
        ("raise KeyError('weights')", "the peer failed: KeyError: 'weights'"),
        ("raise RuntimeError('no compiler\\nand more')", "the peer failed: no compiler"),
    ],
)
def test_a_side_that_fails(start: Start, body: str, expected: str) -> None:
    """It dies, or raises: the error says how, with what it said last."""
    with pytest.raises(WorkerError) as caught:
        start(body).load({})
    assert str(caught.value) == expected
    assert caught.value.missing is None


def test_a_missing_package(start: Start) -> None:
    """The package is named, so that the user can be told how to install it."""
    with pytest.raises(WorkerError) as caught:
        start("import surely_not_installed.part").load({})
    assert caught.value.missing == "surely_not_installed"


def test_a_side_that_hangs_is_ended_with_its_children(start: Start, tmp_path: Path) -> None:
    """The time limit ends the wait; closing ends the process and what it started."""
    child = tmp_path / "child"
    body = f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    worker = start(body, limits=Limits(load=3.0))
    with pytest.raises(WorkerError, match=r"^the peer failed: no answer within 3 s; last line: about to load$"):
        worker.load({})
    worker.close()
    assert _ends(int(child.read_text()))


def test_a_run_that_hangs(start: Start) -> None:
    """Runs have a limit of their own."""
    worker = start(limits=Limits(run=1.0))
    worker.load({"clips": {}, "texts": ["a"], "sleep": 600})
    with pytest.raises(WorkerError, match="no answer within 1 s; last line: printed in a run"):
        worker.seconds("text", [0])


def test_rubbish_before_the_protocol(start: Start, tmp_path: Path) -> None:
    """An interpreter that greets on stdout (a wrapper script) is no side."""
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\necho "Welcome to the environment"\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    with pytest.raises(WorkerError, match="the peer failed: it wrote 'Welcome to the environment' to its standard out"):
        start(python=wrapper).load({})


def test_an_interpreter_that_does_not_start(start: Start, tmp_path: Path) -> None:
    """Not there, not executable, not a Python."""
    with pytest.raises(WorkerError, match=r"^the peer failed: it cannot be started: .*/nothing: No such file"):
        start(python=tmp_path / "nothing")
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with pytest.raises(WorkerError, match=r"^the peer failed: it cannot be started: .*/plain: Permission denied"):
        start(python=plain)
    with pytest.raises(WorkerError, match="the peer failed: its process ended with exit code 1"):
        start(python="/bin/false").load({})


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves no time to clean up: the worker sees the end of its stdin."""
    (tmp_path / "side.py").write_text(SIDE % "pass")
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom claprt_bench.peers.worker import Worker\n"
        "place = Path(sys.argv[1])\nworker = Worker('peer', place / 'side.py', sys.executable, place, os.environ)\n"
        "worker.load({})\nprint(worker._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert _ends(int(done.stdout))


def _ends(pid: int) -> bool:
    """Whether a process is gone, or dead and not yet collected, within 10 s."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False
