"""Sounds to vectors on a GPU, without one: the pipeline on the fake CUDA driver, a stand-in in TensorRT's place.

What is real: PCM staging, uploads, the log-Mel kernel (emulated), slots, streams, batches, profiles, CUDA graphs, the
engine cache and what `claprt engine` verifies. What comes out is compared with the CPU path.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.gpu import pipeline

Run = Callable[..., None]


def start(program: Callable[[], None], bundle: Path, environment: dict[str, str]) -> None:
    """Run a program of pipeline.py, which may write to the bundle."""
    command = [sys.executable, "-c", f"from tests.gpu.pipeline import {program.__name__} as program; program()"]
    env = environment | {"TEST_BUNDLE": str(bundle)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run a program of pipeline.py on a copy of a bundle."""

    def run(program: Callable[[], None], bundle: Path, **settings: str) -> None:
        start(program, shutil.copytree(bundle, tmp_path / "bundle"), environment | settings)

    return run


@pytest.fixture(scope="module")
def with_engines(
    environment: dict[str, str], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`with_engines(name)`: the bundle of a fixture with the usual engines, verified. Read only."""

    @cache
    def make(name: str) -> Path:
        bundle = shutil.copytree(request.getfixturevalue(name), tmp_path_factory.mktemp("engines") / "bundle")
        start(pipeline.the_usual_engines, bundle, environment)
        return bundle

    return make


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("bundle", ["demo_bundle", "demo_fused_bundle"])
def test_it_is_the_cpus(with_engines: Callable[[str], Path], run: Run, bundle: str, deferred: bool) -> None:
    settings = {"FAKE_CUDA_DEFER": "1"} if deferred else {}
    run(pipeline.is_the_cpus, with_engines(bundle), **settings)


def test_fusion_of_long_sounds(run: Run, demo_fused_bundle: Path) -> None:
    run(pipeline.fusion_of_long_sounds, demo_fused_bundle, FAKE_CUDA_DEFER="1")


@pytest.mark.parametrize(
    "program",
    [
        pipeline.int16_stays_int16,
        pipeline.from_many_threads,
        pipeline.calls_within_calls,
        pipeline.who_waits_for_sounds_keeps_nobody_waiting,
        pipeline.memory_ends_with_its_owner,
        pipeline.however_little_memory_there_is,
        pipeline.auto_says_what_it_chose,
        pipeline.the_next_batch_goes_up_while_one_runs,
        pipeline.a_warm_call_allocates_nothing,
        pipeline.shapes_that_come_again_are_captured,
        pipeline.a_lost_gpu_is_an_error,
        pipeline.a_bad_sound_in_between,
    ],
)
def test_pipeline(with_engines: Callable[[str], Path], run: Run, program: Callable[[], None]) -> None:
    run(program, with_engines("demo_bundle"), FAKE_CUDA_DEFER="1")


def test_the_second_gpu(with_engines: Callable[[str], Path], run: Run) -> None:
    run(pipeline.the_second_gpu, with_engines("demo_bundle"), FAKE_CUDA_DEFER="1", FAKE_CUDA_DEVICES="2")


@pytest.mark.parametrize(
    "program",
    [
        pipeline.engines_from_elsewhere_are_verified_here,
        pipeline.onnxruntime_on_cuda,
        pipeline.no_memory_is_an_error,
        pipeline.an_engine_that_misses_is_not_kept,
        pipeline.is_measured_with_tensorrt,
        pipeline.is_measured_with_onnxruntime,
        pytest.param(pipeline.what_misses_is_not_timed, marks=pytest.mark.full),
    ],
)
def test_engines_of_their_own(run: Run, demo_bundle: Path, program: Callable[[], None]) -> None:
    """Programs that build engines as they need them, or none."""
    run(program, demo_bundle, FAKE_CUDA_DEFER="1")


def test_little_memory_means_smaller_batches(run: Run, demo_bundle: Path) -> None:
    """A run needs 1 MB a row, and there are 40 MB."""
    settings = {"STAND_IN_WORKSPACE": "6000000", "FAKE_CUDA_MEMORY": "90000000"}
    run(pipeline.little_memory_means_smaller_batches, demo_bundle, FAKE_CUDA_DEFER="1", **settings)


def test_it_is_benchmarked(run: Run, demo_bundle: Path) -> None:
    run(pipeline.is_benchmarked, demo_bundle)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_does_not_wait_for_the_library(
    environment: dict[str, str], demo_bundle: Path, tmp_path: Path, second: signal.Signals
) -> None:
    """The first waits for the library's next step, which is a minute away. Nothing half-written stays, nor the lock."""
    bundle = shutil.copytree(demo_bundle, tmp_path / "bundle")
    begun = tmp_path / "begun"
    command = [sys.executable, "-m", "claprt", "engine", str(bundle), "--precision", "fp32", "--tower", "text"]
    env = environment | {"STAND_IN_STEP": str(begun)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not begun.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(second)
    out, err = process.communicate(timeout=20)
    said = b"claprt: error: interrupted\n" if second is signal.SIGINT else b""
    assert (process.returncode, out, err) == (128 + second, b"", said)
    assert [path.name for path in (bundle / "engines").iterdir()] == [".lock"]
    with (bundle / "engines" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
