"""Starts what takes minutes, PyCUDA's compilation, while other tests run; fixtures of the tests of launchers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kernels.fake_cuda.build import CannotBuildError
from tests.kernels.fake_cuda.pycuda_env import default_cache, pycuda_site
from tests.kernels.launchers import LIBRARIES, runner

from claprt_kernels import compile as kernel_files
from claprt_kernels import why_unavailable


def pytest_collection_finish(session: pytest.Session) -> None:
    needed = any(item.path.name in ("test_fake_cuda.py", "test_launcher.py") for item in session.items)
    if needed and not session.config.option.collectonly:
        threading.Thread(target=_build, daemon=True).start()


def _build() -> None:
    # Whoever needs it asks for it again, waits for this to be done, and says what is wrong.
    with contextlib.suppress(CannotBuildError):
        pycuda_site(default_cache())


@pytest.fixture(scope="session")
def gpu() -> None:
    """Skips where the kernels cannot be launched through Python."""
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(f"no GPU to run the kernels on: {reason}")


@pytest.fixture(scope="session")
def gpu_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libclaprt_log_mel.so for the GPU of this machine. The tests' device memory is PyTorch's."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU to run the C library on: PyTorch, which gives it memory, sees none")
    try:
        return kernel_files.compile_library(tmp_path_factory.mktemp("gpu_library"), "native")
    except kernel_files.CompileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=LIBRARIES)
def run(request: pytest.FixtureRequest, emulated_kernels: Path) -> Callable[..., None]:
    """Run a function of a test module in a process that has the fake driver, once with each CUDA library."""
    return runner(request.param, emulated_kernels)


@pytest.fixture(scope="session")
def run_bindings(emulated_kernels: Path) -> Callable[..., None]:
    """The same with cuda-bindings only: for graphs, and for what does not depend on the library."""
    return runner("cuda-bindings", emulated_kernels)


@pytest.fixture(scope="session")
def run_pycuda(emulated_kernels: Path) -> Callable[..., None]:
    return runner("pycuda", emulated_kernels)
