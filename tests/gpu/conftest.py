"""The environment of programs that run on the fake CUDA driver, with a stand-in in TensorRT's place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernels.fake_cuda.build import CannotBuildError
from tests.kernels.fake_cuda.pycuda_env import bindings_environment, default_cache

_STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture(scope="module")
def environment(emulated_kernels: Path) -> dict[str, str]:
    try:
        env = bindings_environment(default_cache(), emulated_kernels)
    except CannotBuildError as error:
        pytest.skip(str(error))
    env["PYTHONPATH"] = os.pathsep.join([str(_STAND_IN), env["PYTHONPATH"]])
    return env | {"OMP_NUM_THREADS": "1"}
