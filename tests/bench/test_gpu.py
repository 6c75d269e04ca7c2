"""`make gpu-check` where it cannot do its work: what it says, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from claprt_kernels import compile as kernel_files


@pytest.fixture(autouse=True)
def _nvcc() -> None:
    try:
        kernel_files.find_nvcc()
    except kernel_files.CompileError as error:
        pytest.skip(str(error))


def run(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "claprt_bench.gpu", "--quick", *arguments]
    env = os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_without_a_gpu(tmp_path: Path) -> None:
    """One line, and no file."""
    nvcc = kernel_files.find_nvcc()
    (tmp_path / "nvcc").symlink_to(nvcc)
    done = run(f"{tmp_path}:/usr/bin:/bin", "-o", str(tmp_path / "result.json"))
    assert done.returncode == 2
    assert done.stderr == "error: there is no NVIDIA GPU here: nvidia-smi was not found\n"
    assert not (tmp_path / "result.json").exists()


def test_a_step_that_fails_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """A machine that claims a GPU: the kernel's resources can be had, its results cannot, and the JSON says which."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Claimed GPU, 8.9, 580.0, 1 MiB, 1 MHz, 1 MHz, 1 W'\n")
    smi.chmod(0o755)
    done = run(f"{tmp_path}:{os.environ['PATH']}", "-o", str(tmp_path / "result.json"))
    assert done.returncode == 1, done.stderr
    document = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert document["device"]["name"] == "Claimed GPU"
    steps = document["steps"]
    assert steps["resources"]["status"] == "passed"
    assert {row["target"] for row in steps["resources"]["result"]} == {"sm_89"}
    assert steps["ladder_check"]["status"] == "failed"
    assert steps["parity"]["status"] == "not run"
    assert "no GPU" in steps["parity"]["reason"]
    assert "ladder_times" not in steps
