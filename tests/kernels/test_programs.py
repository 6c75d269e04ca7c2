"""The programs for GPUs in kernels/dev, whose numbers a CPU can check too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.kernels.emulated import EMULATION, FLAGS, SOURCES
from tests.kernels.test_emulated_faults import Fault

from claprt_kernels import compile as kernel_files
from claprt_kernels import layout

PROGRAMS = Path(__file__).resolve().parents[2] / "kernels" / "dev"


def build(name: str, folder: Path, sources: Path = SOURCES) -> Path:
    """A program on the emulated CUDA runtime."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip(f"no g++ to compile {name} with")
    flags = (*FLAGS, "-Werror", "-pthread", f"-I{EMULATION}", f"-I{sources}", "-x", "c++")
    subprocess.run([compiler, *flags, str(PROGRAMS / name), "-o", str(folder / "program")], check=True)
    return folder / "program"


def run(program: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("ladder.cu", tmp_path_factory.mktemp("ladder"))


def test_ladder_is_right(ladder: Path) -> None:
    """Every version that is kept for comparison computes the same, or its times would mean nothing."""
    done = run(ladder, "--check", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6
    assert max(line["error_over_bound"] for line in lines) <= 1


def test_ladder_names_what_memory_has_no_room_for(ladder: Path) -> None:
    """A device of 64 MB with 50 MB of L2 cache: no working set is larger than both."""
    done = run(ladder, "--json", CLAPRT_EMULATED_MEMORY="64000000")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()[6:]]
    types = ("int16 to fp16", "fp32 to fp32")
    assert [(row["batch"], row["types"]) for row in rows] == [
        (n, kind) for n in (1, 8, 64, 256, 1024) for kind in types
    ]
    assert all(row["not_run"].endswith("MB of device memory are needed, 61 are free") for row in rows)


def test_ladder_finds_a_row_that_is_not_written(tmp_path: Path) -> None:
    """The last frame, which has no partner."""
    fault = Fault("if (item >= (fused", "if (2 * item + 1 == a.frames) return;\n    if (item >= (fused")
    done = run(build("ladder.cu", tmp_path, fault.plant(tmp_path)), "--check")
    assert done.returncode == 1
    assert "error: version 3 a warp in registers is wrong; nothing is timed" in done.stderr


def test_every_kernel_is_right(tmp_path: Path) -> None:
    done = run(build("every_kernel.cu", tmp_path))
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert max(line["error_over_bound"] for line in lines) <= 1
    types = [
        f"{samples}_{out}_{width}"
        for samples in ("int16", "fp32")
        for out in ("fp16", "fp32")
        for width in ("narrow", "wide")
    ]
    assert {line["kernel"] for line in lines} == {f"log_mel_{name}" for name in types} | {
        "resample_int16",
        "resample_fp32",
    }
    cases = {line["case"] for line in lines}
    for words in (*layout._PADDINGS, "fusion", "through int16", "device memory", "host memory"):
        assert any(words in case for case in cases)


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        (Fault("before + length / 2", "before + length / 2 + 1"), "fusion"),
        (Fault("a.padding == kPad ? length", "a.padding == kPad ? total"), "pad"),
        (Fault("kWide = 17", "kWide = 15", file="log_mel.cu"), "wide"),
        (Fault("resample_int16, short", "resample_int16, unsigned short", file="resample.cu"), "int16"),
    ],
    ids=["fusion", "padding", "width", "type"],
)
def test_every_kernel_finds_faults(fault: Fault, wrong: str, tmp_path: Path) -> None:
    done = run(build("every_kernel.cu", tmp_path, fault.plant(tmp_path)))
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [line for line in lines if line["error_over_bound"] is None or line["error_over_bound"] > 1]
    assert found
    assert all(wrong in str(line) for line in found)
    assert len(found) < len(lines)


@pytest.mark.parametrize("name", ["ladder.cu", "every_kernel.cu"])
def test_nvcc_compiles_them(name: str, tmp_path: Path) -> None:
    try:
        nvcc = kernel_files.find_nvcc()
    except kernel_files.CompileError as error:
        pytest.skip(str(error))
    options = (*kernel_files.FLAGS, "-arch=sm_90", "-lineinfo", f"-I{SOURCES}", "-Xcompiler", "-Wall,-Wextra,-Werror")
    kernel_files.run_nvcc(nvcc, *options, PROGRAMS / name, "-o", tmp_path / "program")
    done = run(tmp_path / "program", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
