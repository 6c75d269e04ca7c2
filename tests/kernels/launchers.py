"""For tests of launchers: programs in processes of their own, as a driver's errors last; and one clip on the device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kernels.fake_cuda.build import CannotBuildError
from tests.kernels.fake_cuda.pycuda_env import bindings_environment, default_cache, pycuda_environment
from tests.kernels.log_mel_cases import CLIP, assert_near, reference, sound, tolerance
from tests.specs import UNFUSED

from claprt_kernels import Launcher, LogMel, open_launcher

LIBRARIES = ("cuda-bindings", "pycuda")


def run_program(program: Callable[[], None], env: dict[str, str]) -> None:
    """Call a function of a test module in a process of its own, which must succeed and say nothing."""
    command = [sys.executable, "-c", f"from {program.__module__} import {program.__name__} as program; program()"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout + done.stderr
    assert (done.returncode, said) == (0, ""), f"exit code {done.returncode}: {said}"


def runner(library: str, kernels: Path) -> Callable[..., None]:
    """Calls functions of test modules in a process that has this library and the fake driver."""
    try:
        environment = {"cuda-bindings": bindings_environment, "pycuda": pycuda_environment}[library]
        env = environment(default_cache(), kernels) | {"CLAPRT_TEST_LAUNCHER": library}
    except CannotBuildError as error:
        pytest.skip(str(error))

    def run(program: Callable[[], None], **settings: str) -> None:
        run_program(program, env | settings)

    return run


def launcher() -> Launcher:
    """The one that this program is run for."""
    return open_launcher(library=os.environ["CLAPRT_TEST_LAUNCHER"])


def synchronize(launcher: Launcher, stream: Any = None) -> None:
    done = launcher.event()
    launcher.record(done, stream)
    launcher.wait(done)


def to_device(launcher: Launcher, values: NDArray[Any]) -> int:
    address = launcher.alloc(values.nbytes)
    launcher.copy(address, np.ascontiguousarray(values).reshape(-1).view(np.uint8), None)
    return address


def to_host(launcher: Launcher, address: int, like: NDArray[Any]) -> NDArray[Any]:
    result = np.empty_like(like)
    launcher.copy_back(result.reshape(-1).view(np.uint8), address, None)
    synchronize(launcher)
    return result


class Sample:
    """One clip on the device, and room for its log-Mel."""

    def __init__(self, batch: int = 1, **options: Any) -> None:
        self.launcher = launcher()
        self.log_mel = LogMel(UNFUSED, launcher=self.launcher, max_batch=batch, **options)
        self.pcm = sound("noise", CLIP)
        self.out = np.zeros(self.log_mel.shape(batch), dtype=np.float32)
        self.on_device = to_device(self.launcher, self.pcm)
        self.target = to_device(self.launcher, self.out)
        self.clips = [(0, CLIP)] * batch
        self.types = {"pcm_samples": CLIP, "pcm_dtype": np.int16, "out_dtype": np.float32}

    def __call__(self, **changes: Any) -> None:
        arguments = {"clips": self.clips, "out": self.target, **self.types, **changes}
        self.log_mel(arguments.pop("pcm", self.on_device), arguments.pop("clips"), **arguments)

    def clear(self) -> None:
        self.launcher.copy(self.target, np.zeros(self.out.nbytes, np.uint8), None)

    def result(self) -> NDArray[np.float32]:
        return to_host(self.launcher, self.target, self.out)

    def check(self, kind: str = "noise") -> None:
        expected = reference(kind, CLIP, UNFUSED)[None]
        assert_near(self.result()[:1], expected, tolerance(expected))
