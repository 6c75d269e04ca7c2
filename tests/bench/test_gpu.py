"""`make gpu-check` where it cannot do its work: what it says, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claprt_bench import gpu
from claprt_bench.errors import BenchError
from claprt_bench.gpu_record import Record
from claprt_bench.gpu_steps import counted, sanitized
from claprt_bench.gpu_task import NotRunError, Settings, Task, summary
from claprt_kernels import compile as kernel_files

Check = Callable[..., subprocess.CompletedProcess[str]]
SMI = "#!/bin/sh\necho 'Claimed GPU, 8.9, 580.0, 1 MiB, 1 MHz, 1 MHz, 1 W'\n"
DEVICE = {"name": "Claimed GPU", "compute_capability": "8.9", "driver_version": "580.0"}


@pytest.fixture
def nvcc() -> Path:
    try:
        return kernel_files.find_nvcc()
    except kernel_files.CompileError as error:
        pytest.skip(str(error))


def command(tmp_path: Path, *arguments: str) -> list[str]:
    start = [sys.executable, "-m", "claprt_bench.gpu", "-o", str(tmp_path / "result.json")]
    return [*start, "--work", str(tmp_path / "work"), *arguments]


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Run the command on a machine that claims a GPU."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        program(tmp_path / "nvidia-smi", SMI)
        settings = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""} | env
        return subprocess.run(
            command(tmp_path, *arguments), capture_output=True, text=True, check=False, env=settings, timeout=300
        )

    return run


def steps(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["steps"]


def test_without_a_gpu(tmp_path: Path, nvcc: Path) -> None:
    """One line, and no file."""
    (tmp_path / "nvcc").symlink_to(nvcc)
    env = os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 2
    assert done.stderr == "error: there is no NVIDIA GPU here: nvidia-smi was not found\n"
    assert not (tmp_path / "result.json").exists()


def test_a_step_that_fails_takes_nothing_from_the_others(tmp_path: Path, nvcc: Path, check: Check) -> None:
    """The kernel's resources can be had, its results cannot, and the JSON says which."""
    done = check("--only", "resources,parity,ladder_check")
    assert done.returncode == 1, done.stderr
    found = steps(tmp_path)
    assert found["resources"]["status"] == "passed"
    assert {row["target"] for row in found["resources"]["result"]} == {"sm_89"}
    assert found["ladder_check"]["status"] == "failed"
    assert found["parity"]["status"] == "failed"  # the driver claims a GPU, the kernels are there: none may be skipped
    assert "0 passed" in found["parity"]["reason"]
    assert "no GPU" in found["parity"]["reason"]
    assert set(found) == {"resources", "parity", "ladder_check"}


def test_what_this_machine_lacks_is_not_run(tmp_path: Path, nvcc: Path, check: Check) -> None:
    """A PyTorch that sees no GPU, no backend: no step failed, each says why, and nothing was built for them."""
    done = check("--only", "peers,bundle,towers,towers_pytorch", "--precision", "fp32", "--backend", "ort-cuda")
    assert done.returncode == 0, done.stdout + done.stderr
    found = steps(tmp_path)
    assert {step["status"] for step in found.values()} == {"not run"}
    assert "sees no GPU" in found["peers"]["units"]["torch.stft"]["reason"]
    assert found["peers"]["units"]["cupy.fft"]["reason"] == "not installed: cupy"
    assert "sees no GPU" in found["towers_pytorch"]["reason"]
    assert "ort-cuda: there is no NVIDIA driver" in found["bundle"]["reason"]
    assert "ort-cuda/fp32: there is no NVIDIA driver" in found["towers"]["reason"]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("does", "words"),
    [("sleep 1000", "not done after 5 s"), ('kill -SEGV "$PPID"; sleep 1000', "it crashed: ended by SIGSEGV")],
)
def test_what_hangs_or_crashes_is_killed(tmp_path: Path, check: Check, does: str, words: str) -> None:
    """A compiler that does: the step failed, the next one is done, and nothing goes on running."""
    mark = tmp_path / "pid"
    nvcc = tmp_path / "nvcc"
    text = f'#!/bin/sh\n[ "$1" = --version ] && echo V13.0.88 && exit\necho $$ > {mark}\n{does}\n'
    program(nvcc, text)
    done = check("--only", "resources,bundle", "--step-timeout", "5", CUDACXX=str(nvcc))
    assert done.returncode == 1, done.stdout + done.stderr
    found = steps(tmp_path)
    assert found["resources"]["status"] == "failed"
    assert words in found["resources"]["reason"]
    assert found["bundle"]["status"] == "not run"
    end = time.monotonic() + 10
    while Path(f"/proc/{int(mark.read_text())}/cwd").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{int(mark.read_text())}/cwd").exists()


def test_terminated_it_leaves_what_it_has(tmp_path: Path) -> None:
    nvcc, mark = tmp_path / "nvcc", tmp_path / "pid"
    text = f'#!/bin/sh\n[ "$1" = --version ] && echo V13.0.88 && exit\necho $$ > {mark}\nsleep 1000\n'
    program(nvcc, text)
    program(tmp_path / "nvidia-smi", SMI)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDACXX": str(nvcc)}
    process = subprocess.Popen(command(tmp_path, "--only", "parity_pycuda,parity_library,ladder_times"), env=env)
    end = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert set(steps(tmp_path)) == {"parity_pycuda", "parity_library"}


def test_a_file_is_brought_up_to_date(tmp_path: Path, check: Check) -> None:
    """Steps that are not done again stay as they are; another device's file is not touched."""
    output = tmp_path / "result.json"
    old = {"status": "passed", "result": 1, "date": "2020-01-01T00:00:00Z", "versions": {"numpy": "1.0"}}
    output.write_text(json.dumps({"device": DEVICE, "steps": {"library": old, "bundle": old}}))
    assert check("--only", "bundle").returncode == 0
    found = steps(tmp_path)
    assert found["library"] == old
    assert found["bundle"]["status"] == "not run"
    assert found["bundle"]["date"] > "2026"
    assert {"numpy", "onnxruntime", "torch", "transformers"} <= set(found["bundle"]["versions"])
    assert found["bundle"]["driver"] == "580.0"
    for text, words in (
        (json.dumps({"device": {"name": "Other"}, "steps": {}}), "of another GPU"),
        ("{", "not a result of a GPU"),
    ):
        output.write_text(text)
        done = check("--only", "bundle")
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
        assert output.read_text() == text


def test_steps_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*arguments: str) -> list[str]:
        assert gpu.main(["--list", *arguments]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    everything = listed()
    assert everything[0] == "fatbin"
    assert everything.index("bundle") < everything.index("towers")
    assert set(everything) - set(listed("--quick")) == {"ladder_times", "peers", "bundle", "towers", "towers_pytorch"}
    assert listed("--only", "towers,fatbin") == ["fatbin", "towers"]
    assert listed("--skip", "fatbin") == everything[1:]
    bad = ("--only tower", "--skip ,", "--batch 0", "--precision fp8", "--step-timeout x", "--audio nowhere")
    for text in bad:
        with pytest.raises(SystemExit) as stopped:
            gpu.main(["--list", *text.split()])
        assert stopped.value.code == 2


def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "result.json", DEVICE, "13.0.88", {})


def test_rows_are_replaced_one_by_one(tmp_path: Path) -> None:
    """In the file after each: whoever is killed then leaves a unit that was interrupted."""

    def rows() -> list[tuple[int, str]]:
        return [(row["batch"], row["ms"]) for row in steps(tmp_path)["towers"]["units"]["a/fp32"]["rows"]]

    first = record(tmp_path)
    first.begin("towers", "a/fp32")
    for batch in (1, 8):
        first.row("towers", "a/fp32", {"part": "tower", "batch": batch, "status": "passed", "ms": "old"})
    assert "interrupted" in steps(tmp_path)["towers"]["reason"]
    first.end("towers", "a/fp32", {"status": "passed"})
    assert steps(tmp_path)["towers"]["status"] == "passed"
    again = record(tmp_path)
    again.begin("towers", "a/fp32")
    again.row("towers", "a/fp32", {"part": "tower", "batch": 8, "status": "passed", "ms": "new"})
    assert "interrupted" in steps(tmp_path)["towers"]["reason"]
    assert rows() == [(1, "old"), (8, "new")]
    again.row("towers", "a/fp32", {"part": "tower", "batch": 64, "status": "failed", "reason": "too large", "ms": ""})
    again.end("towers", "a/fp32", {"status": "passed"})
    again.end("towers", "b/fp32", {"status": "not run", "reason": "no library"})
    found = steps(tmp_path)["towers"]
    assert (found["status"], found["reason"]) == ("failed", "a/fp32: too large")
    assert found["units"]["b/fp32"]["status"] == "not run"


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(BenchError, match="not a result of a GPU"):
        record(tmp_path)


def test_rows_say_what_came_of_them() -> None:
    rows: list[dict[str, Any]] = []
    task = Task(Settings("work", "9.0"), "", rows.append)

    def fails() -> dict[str, Any]:
        raise ValueError("bad")

    def lacks() -> dict[str, Any]:
        raise NotRunError("no library")

    for measure in (lambda: {"ms": 1}, fails, lacks, lambda: {"status": "failed", "reason": "misses", "ms": 2}):
        task.attempt({"batch": 1}, measure)
    assert rows == [
        {"batch": 1, "status": "passed", "ms": 1},
        {"batch": 1, "status": "failed", "reason": "ValueError: bad"},
        {"batch": 1, "status": "not run", "reason": "no library"},
        {"batch": 1, "status": "failed", "reason": "misses", "ms": 2},
    ]
    assert summary(rows) == {"status": "failed", "reason": "ValueError: bad; misses"}
    assert summary([rows[0], rows[2]]) == {"status": "passed"}
    assert summary([rows[2]]) == {"status": "not run", "reason": "no library"}
    settings = Settings("work", "9.0", batches=(1, 2), audio="sounds")
    assert Settings.from_json(settings.to_json()) == settings


def test_what_the_sanitizer_found() -> None:
    """Its exit code shows no races that are warnings, nor that it saw no CUDA call."""
    assert sanitized("========= ERROR SUMMARY: 0 errors\n") == "ERROR SUMMARY: 0 errors"
    clean = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert "0 hazards" in sanitized(clean)
    for said in (
        "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)\n",
        "========= ERROR SUMMARY: 12 errors\n",
        "========= Error: Target application terminated before first instrumented API call\n"
        "========= ERROR SUMMARY: 0 errors\n",
        "nothing",
    ):
        with pytest.raises(RuntimeError):
            sanitized(said)


def test_parity_tests_are_counted_by_implementation() -> None:
    cases = [
        ("test_fusion[cuda-bindings-float16]", ""),
        ("test_fusion[float32-cuda-bindings]", '<skipped message="no GPU"/>'),
        ("test_fusion[cuda_c-float16]", ""),
        ("test_fusion[cuda_c-float32]", "<failure/>"),
        ("test_cuda[numpy]", ""),
        ("test_fusion[pycuda-float16]", ""),
    ]
    text = "".join(f'<testcase name="{name}">{inside}</testcase>' for name, inside in cases)
    report = f"<testsuites><testsuite>{text}</testsuite></testsuites>"
    assert counted(report, "cuda-bindings") == {"passed": 1, "failed": 0, "skipped": 1, "reasons": ["no GPU"]}
    assert counted(report, "cuda_c") == {"passed": 1, "failed": 1, "skipped": 0, "reasons": []}
