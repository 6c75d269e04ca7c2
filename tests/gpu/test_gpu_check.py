"""`make gpu-check` as it is called, each step in its own process, on the fake CUDA driver. Its figures mean nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SMI = "#!/bin/sh\necho 'Claimed GPU, 9.0, 580.0, 1 MiB, 1 MHz, 1 MHz, 1 W'\n"


class Check:
    """The command, with a machine that claims a GPU."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        smi = folder / "bin" / "nvidia-smi"
        smi.parent.mkdir()
        smi.write_text(SMI)
        smi.chmod(0o755)
        self.env = env | {"PATH": f"{smi.parent}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
        self.output = folder / "result.json"
        self.command = [sys.executable, "-m", "claprt_bench.gpu", "--work", str(folder / "work")]
        self.command += ["-o", str(self.output), "--seconds", "0.01", "--clips", "1"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments], env=self.env, capture_output=True, text=True, check=False, timeout=600
        )

    @property
    def steps(self) -> Any:
        return json.loads(self.output.read_text(encoding="utf-8"))["steps"]


@pytest.fixture
def check(tmp_path: Path, environment: dict[str, str]) -> Check:
    return Check(tmp_path, environment)


@pytest.mark.full
def test_parity_runs_the_fatbin(check: Check) -> None:
    """Through cuda-bindings; the C library's tests cannot run here, and say so."""
    done = check.run("--only", "parity,parity_library")
    assert done.returncode == 0, done.stdout + done.stderr
    parity, library = check.steps["parity"], check.steps["parity_library"]
    assert parity["status"] == "passed"
    assert parity["result"]["launcher"].startswith("cuda-bindings ")
    assert parity["result"]["passed"] > 50
    assert parity["result"]["skipped"] == 0
    assert library["status"] == "not run"
    assert library["reason"].endswith("sees no GPU")


@pytest.mark.full
def test_towers_are_measured_and_measured_again(
    check: Check, demo_bundle: Path, demo_fused_bundle: Path, tmp_path: Path
) -> None:
    """What cannot run is not run; a second time, one batch is added, and what was there stays with its date."""
    full, fused = (shutil.copytree(one, tmp_path / one.name) for one in (demo_bundle, demo_fused_bundle))
    options = ["--only", "towers", "--backend", "ort-cuda,tensorrt", "--precision", "fp32"]
    options += ["--bundle", str(full), "--fused-bundle", str(fused)]
    done = check.run(*options, "--batch", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    first = check.steps["towers"]
    assert first["status"] == "passed"
    units = first["units"]
    assert {name: unit["status"] for name, unit in units.items()} == {
        "ort-cuda/fp32": "not run",
        "tensorrt/fp32": "passed",
        "ort-cuda/fp32/fused": "not run",
        "tensorrt/fp32/fused": "passed",
    }
    assert "onnxruntime" in units["ort-cuda/fp32"]["reason"]
    recipes = [row["recipe"] for row in units["tensorrt/fp32/fused"]["rows"] if row.get("recipe")]
    assert set(recipes) == {"head", "windows", "fusion"}
    assert {row["part"] for row in units["tensorrt/fp32/fused"]["rows"]} == {"engine", "parity"}
    assert units["tensorrt/fp32"]["versions"]["cuda-bindings"]

    # The second one is killed when its first row is there: what it had not measured yet stays as it was.
    process = subprocess.Popen([*check.command, *options, "--batch", "2"], env=check.env, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while "interrupted" not in check.steps["towers"].get("reason", "") and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    after = check.steps["towers"]
    assert after["status"] == "failed"
    assert "tensorrt/fp32: it was interrupted" in after["reason"]
    assert after["units"]["tensorrt/fp32/fused"] == units["tensorrt/fp32/fused"]
    kept, known = after["units"]["tensorrt/fp32"]["rows"], units["tensorrt/fp32"]["rows"]
    assert len(kept) == len(known)
    assert [row for row in known if row["part"] == "tower"] == [row for row in kept if row["part"] == "tower"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".result")]
