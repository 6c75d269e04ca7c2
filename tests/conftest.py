"""Fixtures that several test folders share: real recordings, built bundles, the command line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.once import WORKER, made_once
from tests.runtime.cli_helpers import Cli, Result

# Workers of pytest-xdist take a core each: two with all cores' threads would wait for each other most of the time.
if WORKER:
    _CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_CORES[int(WORKER.removeprefix("gw")) % len(_CORES)]})

# The files that take longest, longest first: so two workers are done at about the same time. The first one builds the
# demo bundles meanwhile; the second one needs none.
LONGEST = (
    "gpu/test_pipeline.py",
    "kernels/test_emulated_faults.py",
    "export/test_tensorrt_parse.py",
    "bench/test_peers.py",
    "bench/test_speed.py",
    "export/test_build.py",
    "export/test_laion.py",
    "runtime/test_parallel.py",
    "kernels/test_log_mel_kernel.py",
    "export/test_towers.py",
    "export/precision/test_int8.py",
    "bench/test_cpu.py",
    "kernels/test_c_interface.py",
    "kernels/test_programs.py",
    "export/precision/test_search.py",
    "bench/test_gpu.py",
    "kernels/test_launcher.py",
    "export/test_laion_files.py",
    "runtime/test_cli_engine.py",
    "packaging/test_packaging.py",
)
SHARED = Path(os.environ.get("CLAPRT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of `LONGEST` come first; with --no-loadscope-reorder pytest-xdist keeps that order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    gone = [str(path) for path in places if not path.is_file()]
    if gone:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are not there: {', '.join(gone)}")
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Programs started in the background by a script ignore Ctrl-C, and so would the ones that these tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """A folder of real recordings (speech, bird, trumpet, orchestra, celesta)."""
    folder = SHARED / "audio"
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}; set CLAPRT_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def shared_fsdd() -> Path:
    """A folder with the Free Spoken Digit Dataset."""
    folder = SHARED / "fsdd"
    if not folder.is_dir():
        pytest.skip(f"no spoken digits in {folder}; set CLAPRT_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the unfused demo checkpoint in all variants, built once. Read only: copy it to change it."""
    return _built("demo", tmp_path_factory)


@pytest.fixture(scope="session")
def demo_fused_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the fused demo checkpoint in all variants, built once. Read only."""
    return _built("demo-fused", tmp_path_factory)


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels' unmodified source, compiled for this CPU, once for all workers."""
    from tests.kernels.emulated import compile_emulated

    def make(directory: Path) -> None:
        directory.mkdir()
        compile_emulated(directory / "kernels.so")

    return made_once(tmp_path_factory, "emulation", make) / "kernels.so"


@pytest.fixture(scope="session")
def emulated_kernels(emulation: Path) -> Path:
    """The kernels for the fake driver; and a fatbin, which launchers load first."""
    from claprt_kernels import compile as kernel_files

    try:
        kernel_files.compile_fatbin()
    except kernel_files.CompileError as error:
        pytest.skip(str(error))
    return emulation


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process."""

    from claprt.cli.main import main

    def run(*args: object) -> Result:
        capfd.readouterr()
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else -1
        return Result(code, *capfd.readouterr())

    return run


def _built(source: str, factory: pytest.TempPathFactory) -> Path:
    from claprt_export import report
    from claprt_export.build import build

    def make(directory: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            # A quarter of the labelled sounds: they take longer than all the rest. `test_full_demo` takes all.
            patch.setattr(report, "_PER_KIND", 2)
            build(source, directory, precisions=("fp32", "fp16", "int8"))

    return made_once(factory, f"{source}-bundle", make)
