"""The command line and its streams: pipes, terminals, full disks, signals."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from claprt import load_embeddings
from tests.runtime.cli_helpers import spawn


def test_a_reader_that_goes_away_is_no_error(demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """`claprt ... | head -1`: no traceback, no message, a code of its own; what goes to a file is there.

    The pipe's other end is closed before anything is written.
    """
    for args in (
        ["embed", demo_bundle, sounds / "two.wav", "-o", tmp_path / "v.npz"],
        ["--help"],
        ["doctor"],
        ["info", demo_bundle, "--json"],
        ["classify", demo_bundle, sounds / "two.wav", "--labels", "a,b", "--json"],
    ):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "claprt", *map(str, args)]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(writer)
        assert done.stderr == b""
        assert done.returncode == 141 or args == ["--help"]  # argparse lets that pass
    assert len(load_embeddings(tmp_path / "v.npz").names) == 1


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "claprt", "doctor"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["claprt: error: No space left on device"]


def test_closed_streams() -> None:
    """`claprt ... >&- 2>&-`: Python then has no stdout and no stderr at all."""
    command = f"{sys.executable} -m claprt doctor >&-; echo $?; {sys.executable} -m claprt info missing 2>&-; echo $?"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.stdout.decode().split() == ["0", "2"]
    assert done.stderr == b""


def test_no_progress_bar_in_a_pipe(demo_bundle: Path, sounds: Path) -> None:
    result = spawn("classify", demo_bundle, sounds / "one.wav", sounds / "long.wav", "--labels", "a,b")
    assert (result.code, result.err) == (0, "")
    assert "\r" not in result.out


def test_a_progress_bar_on_a_terminal(demo_bundle: Path, sounds: Path) -> None:
    """On stderr only; it is gone at the end, and stdout is clean."""
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "claprt", "classify", str(demo_bundle), str(sounds / "long.wav"), "--labels", "a"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while select.select([terminal], [], [], 30)[0]:
            shown += os.read(terminal, 4096)
    out = process.communicate(timeout=30)[0]
    os.close(terminal)
    assert process.returncode == 0
    assert b"sounds:" in shown
    assert b"0/1" in shown
    assert shown.endswith(b"\r")
    assert b"\r" not in out
    assert b"long.wav" in out


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_a_destructor_is_not_lost(name: str, code: int) -> None:
    """Python only reports what is raised in `__del__` and goes on: the build would not have stopped."""
    script = f"""
import signal, sys, time
from claprt.cli import doctor, main

class Loud:
    def __del__(self):
        signal.raise_signal(signal.{name})

def run(args):
    Loud()
    time.sleep(20)

doctor.run_doctor = run
sys.exit(main.main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=15, check=False)
    assert done.returncode == code
    assert b"ignored" not in done.stderr
