"""Running commands, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

RATE = 48_000
NOT_UTF8 = os.fsdecode(b"caf\xe9.wav")

Cli = Callable[..., "Result"]


class Result:
    """What a command did: exit code, text on stdout and stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a command that did nothing; fails if it did anything else."""
        assert self.code == 2, self.err
        assert self.out == ""
        assert self.err.startswith("claprt: error: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        return self.err


def spawn(*args: object, **options: Any) -> Result:
    """Run a command as a process of its own."""
    command = [sys.executable, "-m", "claprt", *map(os.fspath, map(str, args))]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())
