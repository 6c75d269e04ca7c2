"""The steps of `make gpu-check`: what each does, in a process of its own (`claprt_bench.gpu_child`)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from claprt_bench import gpu_bundles, gpu_peers, gpu_pytorch
from claprt_bench.gpu_task import ROOT, NotRunError, Row, Settings, Task, has, need, need_torch_gpu
from claprt_kernels import compile as kernel_files

_LADDER = ROOT / "kernels" / "dev" / "ladder.cu"
_EVERY_KERNEL = ROOT / "kernels" / "dev" / "every_kernel.cu"
_EXAMPLE = ROOT / "kernels" / "examples" / "log_mel.c"
_EXAMPLE_ARGUMENTS = ("44100", "2")  # rate and channels of `_pcm`
_PARITY = ("tests/kernels/test_log_mel_kernel.py", "tests/kernels/test_resample_kernel.py")
_TOOLS = {
    "memcheck": "accesses out of bounds",
    "racecheck": "races in shared memory",
    "initcheck": "reads of memory that nobody wrote",
    "synccheck": "barriers used wrongly",
}


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        what: one line about it.
        run: does a unit, and returns its result if it has one.
        timed: left out where only checks are wanted.
        units: its units, each a process; None for one without name.
    """

    what: str
    run: Callable[[Task], Any]
    timed: bool = False
    units: Callable[[Settings], Sequence[str]] | None = None


def _fatbin(task: Task) -> Row:
    kernel_files.compile_fatbin()
    content = kernel_files.FATBIN.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _resources(task: Task) -> list[dict[str, int | str]]:
    target = int(task.settings.compute_capability.replace(".", ""))
    return kernel_files.resources(kernel_files.find_nvcc(), target)


def _ladder_check(task: Task) -> list[Any]:
    return _lines(_run([_program(task, _LADDER), "--check", "--json"]))


def _ladder_times(task: Task) -> list[Any]:
    program = _program(task, _LADDER)
    _run([program, "--check", "--json"])
    return _lines(_run([program, "--json"]))


def _library(task: Task) -> str:
    rows = _run([_example(task), *_EXAMPLE_ARGUMENTS], _pcm()).splitlines()
    if len(rows) != 1001 or "nan" in " ".join(rows):
        raise RuntimeError(f"{len(rows)} rows: {rows[:1]}")
    return f"{len(rows)} frames"


def _sanitize(tool: str, library: bool, task: Task) -> str:
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=str(kernel_files.cuda_root(kernel_files.find_nvcc()) / "bin")
    )
    if sanitizer is None:
        raise NotRunError("compute-sanitizer was not found")
    if not library:
        return sanitized(_run([sanitizer, "--tool", tool, "--error-exitcode", "99", _program(task, _EVERY_KERNEL)]))
    with tempfile.NamedTemporaryFile() as pcm:  # a sanitizer may keep what it is given for itself
        pcm.write(_pcm())
        pcm.flush()
        program = [_example(task), *_EXAMPLE_ARGUMENTS, pcm.name]
        return sanitized(_run([sanitizer, "--tool", tool, "--error-exitcode", "99", *program]))


def sanitized(said: str) -> str:
    """The summary of compute-sanitizer, which must have seen the program and found nothing.

    Raises:
        RuntimeError: it found something (races count as warnings, which no exit code shows), or saw no CUDA at all.
    """
    summary = [line.strip("= ") for line in said.splitlines() if "SUMMARY" in line]
    if not summary or "before first instrumented" in said:
        raise RuntimeError(f"no summary: {said[-1500:]}")
    numbers = [int(number) for number in re.findall(r"\b(\d+) (?:errors?|hazards?|warnings?)\b", summary[-1])]
    if not numbers or any(numbers):
        raise RuntimeError(f"{summary[-1]}: {said[-1500:]}")
    return summary[-1]


def _every_kernel(task: Task) -> list[Any]:
    return _lines(_run([_program(task, _EVERY_KERNEL)]))


def _parity(library: str, module: str, task: Task) -> Row:
    """The Python path: the fatbin as it is shipped, through one library."""
    need("pytest")
    if not has(module):
        raise NotRunError(f"{library} is not installed")
    made = _fatbin(task)  # it must be there: tests would skip without it
    return {"launcher": f"{library} {importlib.metadata.version(library)}", "fatbin": made["sha256"], **_tests(library)}


def _parity_library(task: Task) -> Row:
    """The C library, compiled here; its tests take device memory from PyTorch."""
    need("pytest")
    need_torch_gpu()
    return {"launcher": "C library", **_tests("cuda_c")}


def _towers(task: Task) -> Row:
    need("onnxruntime", "tiktoken", "soundfile", "soxr")
    from claprt_bench.gpu_towers import measure

    return measure(task)


def _tests(parameter: str) -> Row:
    """Run the parity tests with one implementation. None of them may skip."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_PARITY, "-k", parameter]
        command += [f"--basetemp={folder}/tests", f"--junitxml={report}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if not report.is_file():
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        counts = counted(report.read_text(encoding="utf-8"), parameter)
    if counts["skipped"]:  # all that they need is here
        raise RuntimeError(
            f"{counts['skipped']} were skipped, {counts['passed']} passed: {'; '.join(counts['reasons'])}"
        )
    if done.returncode or not counts["passed"]:
        named = "; ".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR ")))
        raise RuntimeError(
            f"{counts['failed']} failed, {counts['passed']} passed: {named[:500]}: {done.stdout[-1500:]}"
        )
    return {name: counts[name] for name in ("passed", "skipped")}


def counted(report: str, parameter: str) -> dict[str, Any]:
    """How many tests of one implementation passed, failed, were skipped and why, in pytest's JUnit report."""
    counts: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "reasons": []}
    for case in ElementTree.fromstring(report).iter("testcase"):
        if not re.search(rf"[\[-]{re.escape(parameter)}[\]-]", case.get("name", "")):
            continue
        skipped = case.find("skipped")
        if skipped is not None:
            counts["skipped"] += 1
            reason = skipped.get("message", "")
            counts["reasons"] += [reason] * (reason not in counts["reasons"])
        else:
            bad = case.find("failure") is not None or case.find("error") is not None
            counts["failed" if bad else "passed"] += 1
    return counts


def _program(task: Task, source: Path) -> Path:
    """A program of kernels/dev, compiled for this GPU; the one that is there if it was made of the same."""
    program = _built(task, source.stem, (source,))
    if not program.is_file():
        options = (*kernel_files.FLAGS, f"-arch={_target(task)}", "-lineinfo", f"-I{kernel_files.SOURCES}")
        made = program.with_suffix(".new")
        kernel_files.run_nvcc(kernel_files.find_nvcc(), *options, source, "-o", made)
        made.replace(program)
    return program


def _target(task: Task) -> str:
    """Of the compiler. Its own "native" is another GPU's where it sees none, with a warning."""
    return f"sm_{task.settings.compute_capability.replace('.', '')}"


def _example(task: Task) -> Path:
    """The C library and its example, which resamples: that is what the sanitizers see of the shipped kernels."""
    folder = _built(task, "library", (_EXAMPLE,))
    program = folder / "log_mel"
    if not program.is_file():
        kernel_files.compile_library(folder, _target(task))
        made = program.with_suffix(".new")
        kernel_files.run_nvcc(
            *(kernel_files.find_nvcc(), f"-I{folder}", _EXAMPLE, f"-L{folder}", "-lclaprt_log_mel"),
            *("-Xlinker", f"-rpath,{folder}", "-o", made),
        )
        made.replace(program)
    return program


def _built(task: Task, name: str, sources: Sequence[Path]) -> Path:
    """Where a program lies that is made of these sources and the kernels', for this GPU by this nvcc."""
    digest = hashlib.sha256(kernel_files.version(kernel_files.find_nvcc()).encode())
    digest.update(task.settings.compute_capability.encode())
    for path in (*sources, *sorted(kernel_files.SOURCES.iterdir())):
        digest.update(path.read_bytes())
    work = Path(task.settings.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    return work / f"{name}-{digest.hexdigest()[:16]}"


def _pcm() -> bytes:
    """Three seconds of stereo noise, int16, 44.1 kHz."""
    return random.Random(0).randbytes(3 * 44_100 * 2 * 2)


def _run(command: list[Any], given: bytes | None = None) -> str:
    done = subprocess.run([str(part) for part in command], input=given, capture_output=True, check=False)
    said, errors = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {said[-1500:]} {errors[-1500:]}")
    return said


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _sanitizers() -> dict[str, Step]:
    steps = {}
    for tool, what in _TOOLS.items():
        steps[tool] = Step(f"compute-sanitizer, every kernel: {what}", partial(_sanitize, tool, False))
        steps[f"{tool}_library"] = Step(f"compute-sanitizer, the C library: {what}", partial(_sanitize, tool, True))
    return steps


STEPS: dict[str, Step] = {
    "fatbin": Step("compile the fatbin that the package carries", _fatbin),
    "resources": Step("registers, shared memory and spills of each kernel", _resources),
    "ladder_check": Step("values of every version of the kernel against float64", _ladder_check),
    "every_kernel": Step("values of all kernels, paddings and types against float64", _every_kernel),
    "library": Step("the C library and its example", _library),
    **_sanitizers(),
    "parity": Step(
        "the parity tests through cuda-bindings, with the fatbin",
        partial(_parity, "cuda-bindings", "cuda.bindings.driver"),
    ),
    "parity_pycuda": Step("the parity tests through PyCUDA, with the fatbin", partial(_parity, "pycuda", "pycuda")),
    "parity_library": Step("the parity tests through the C library", _parity_library),
    "ladder_times": Step("how fast every version of the kernel is", _ladder_times, timed=True),
    "peers": Step(
        "log-Mel by PyTorch, torchaudio and CuPy", gpu_peers.measure, timed=True, units=lambda _: gpu_peers.UNITS
    ),
    "bundle": Step("the bundles that the towers are measured on", gpu_bundles.build, timed=True),
    "towers": Step(
        "towers: vectors, times alone, latency, throughput", _towers, timed=True, units=gpu_bundles.tower_units
    ),
    "towers_pytorch": Step(
        "transformers' towers, FP16", gpu_pytorch.measure, timed=True, units=lambda _: gpu_pytorch.UNITS
    ),
}
