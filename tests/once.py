"""What takes long is made once in a run: by the worker of pytest-xdist that needs it first, for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernels.fake_cuda.build import cached

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of this run, which `make(directory)` creates. Read only."""
    # Workers' directories are side by side.
    base = factory.getbasetemp().parent if WORKER else factory.getbasetemp()
    return cached(base / name, make)
