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
def on_gpu() -> Callable[[str], str]:
    """The name of a CUDA library, handed through where it can launch the kernels; skips where it cannot."""
    reasons = {library: why_unavailable(library=library) for library in LIBRARIES}

    def usable(library: str) -> str:
        if reasons[library] is not None:
            pytest.skip(f"no GPU to run the kernels on through {library}: {reasons[library]}")
        return library

    return usable


@pytest.fixture(scope="session")
def gpu_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libclaprt_log_mel.so for the GPU that PyTorch, which gives the tests device memory, uses."""
    torch = pytest.importorskip("torch", reason="no PyTorch, which gives the C library its device memory")
    if not torch.cuda.is_available():
        pytest.skip("no GPU to run the C library on: PyTorch, which gives it memory, sees none")
    major, minor = torch.cuda.get_device_capability()
    try:
        return kernel_files.compile_library(tmp_path_factory.mktemp("gpu_library"), f"sm_{major}{minor}")
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
