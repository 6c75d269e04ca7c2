"""Sounds to vectors on a GPU, without one: the pipeline on the fake CUDA driver, a stand-in in TensorRT's place.

What is real: PCM staging, uploads, the log-Mel kernel (emulated), slots, streams, batches, profiles, CUDA graphs, the
engine cache and what `claprt engine` verifies. What comes out is compared with the CPU path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gpu import pipeline
from tests.kernels.fake_cuda.build import CannotBuildError
from tests.kernels.fake_cuda.pycuda_env import bindings_environment, default_cache

Run = Callable[..., None]
_STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture
def run(emulated_kernels: Path, tmp_path: Path) -> Run:
    """Run a program of pipeline.py on a copy of a bundle."""
    try:
        env = bindings_environment(default_cache(), emulated_kernels)
    except CannotBuildError as error:
        pytest.skip(str(error))
    env["PYTHONPATH"] = os.pathsep.join([str(_STAND_IN), env["PYTHONPATH"]])

    def run(program: Callable[[], None], bundle: Path, **settings: str) -> None:
        copy = tmp_path / "bundle"
        shutil.copytree(bundle, copy)
        command = [sys.executable, "-c", f"from tests.gpu.pipeline import {program.__name__} as program; program()"]
        settings = {"TEST_BUNDLE": str(copy), "OMP_NUM_THREADS": "1", **settings}
        done = subprocess.run(command, env=env | settings, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("bundle", ["demo_bundle", "demo_fused_bundle"])
def test_it_is_the_cpus(request: pytest.FixtureRequest, run: Run, bundle: str, deferred: bool) -> None:
    settings = {"FAKE_CUDA_DEFER": "1"} if deferred else {}
    run(pipeline.is_the_cpus, request.getfixturevalue(bundle), **settings)


def test_fusion_of_long_sounds(run: Run, demo_fused_bundle: Path) -> None:
    run(pipeline.fusion_of_long_sounds, demo_fused_bundle, FAKE_CUDA_DEFER="1")


@pytest.mark.parametrize(
    "program",
    [
        pipeline.int16_stays_int16,
        pipeline.engines_from_elsewhere_are_verified_here,
        pipeline.onnxruntime_on_cuda,
        pipeline.from_many_threads,
        pipeline.a_warm_call_allocates_nothing,
        pipeline.shapes_that_come_again_are_captured,
        pipeline.no_memory_is_an_error,
        pipeline.an_engine_that_misses_is_not_kept,
        pipeline.a_lost_gpu_is_an_error,
        pipeline.a_bad_sound_in_between,
        pipeline.is_measured,
    ],
)
def test_pipeline(run: Run, demo_bundle: Path, program: Callable[[], None]) -> None:
    run(program, demo_bundle, FAKE_CUDA_DEFER="1")


def test_little_memory_means_smaller_batches(run: Run, demo_bundle: Path) -> None:
    """A run needs 1 MB a row, and there are 40 MB."""
    settings = {"STAND_IN_WORKSPACE": "6000000", "FAKE_CUDA_MEMORY": "90000000"}
    run(pipeline.little_memory_means_smaller_batches, demo_bundle, FAKE_CUDA_DEFER="1", **settings)


def test_it_is_benchmarked(run: Run, demo_bundle: Path) -> None:
    run(pipeline.is_benchmarked, demo_bundle)
