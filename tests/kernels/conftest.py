"""Starts what takes minutes, PyCUDA's compilation, while other tests run."""

from __future__ import annotations

import contextlib
import threading

import pytest
from tests.kernels.fake_cuda.build import CannotBuildError
from tests.kernels.fake_cuda.pycuda_env import default_cache, pycuda_site


def pytest_collection_finish(session: pytest.Session) -> None:
    needed = any(item.path.name in ("test_fake_cuda.py", "test_launcher.py") for item in session.items)
    if needed and not session.config.option.collectonly:
        threading.Thread(target=_build, daemon=True).start()


def _build() -> None:
    # Whoever needs it asks for it again, waits for this to be done, and says what is wrong.
    with contextlib.suppress(CannotBuildError):
        pycuda_site(default_cache())
