"""Tests of the kernels on a machine that has NumPy, pytest and little else: all are found, and say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
HIDDEN = ("onnx", "onnxruntime", "onnxscript", "scipy", "soundfile", "soxr", "tiktoken", "tokenizers", "transformers")
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def pytest_without(hidden: tuple[str, ...], *arguments: str) -> str:
    """What pytest says in a process where these modules cannot be imported; it must succeed."""
    command = [sys.executable, "-c", HIDE, ",".join(hidden), *arguments]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=FOLDER.parents[1], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_tests_are_found() -> None:
    said = pytest_without((*HIDDEN, "torch", "cuda", "pycuda"), "--collect-only", str(FOLDER))
    for name in ("test_log_mel_kernel.py::test_fusion[cuda_c-float16]", "test_resample_kernel.py::test_noise"):
        assert name in said


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Parity with NumPy alone; all others are skipped, each for its own reason."""
    files = [str(FOLDER / name) for name in ("test_log_mel_kernel.py", "test_resample_kernel.py")]
    options = [f"--basetemp={tmp_path / 'inner'}", "-k", "cuda or (numpy and silence)"]
    said = pytest_without((*HIDDEN, "torch", "cuda", "pycuda"), *files, *options)
    assert "no PyTorch, which gives the C library its device memory" in said
    assert "no GPU to run the kernels on through cuda-bindings: " in said
    assert "no GPU to run the kernels on through pycuda: " in said
    assert "2 passed, " in said
