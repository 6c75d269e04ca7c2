"""`python -m claprt_bench.gpu`, `make gpu-check`: everything that only a GPU can show, into one JSON.

Each step runs by itself and is recorded as "passed", "failed" or "not run", with the reason: one that cannot run here
takes nothing from the others. Needs nvcc and NumPy; of PyTorch, CuPy, cuda-bindings or PyCUDA, pytest and
compute-sanitizer it uses what it finds.
Exit codes: 0 no step failed; 1 one did; 2 there is no GPU, or no nvcc.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from claprt_bench.machine import describe
from claprt_kernels import compile as kernel_files

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("bench/results")
_LADDER = ROOT / "kernels" / "dev" / "ladder.cu"
_EXAMPLE = ROOT / "kernels" / "examples" / "log_mel.c"
_EXAMPLE_ARGUMENTS = ("44100", "2")  # rate and channels of `_pcm`
_PACKAGES = ("numpy", "torch", "torchaudio", "cupy-cuda13x", "cupy-cuda12x", "cuda-bindings", "pycuda")


class NotRunError(Exception):
    """A step that cannot run on this machine; the message says what it lacks."""


def main(arguments: list[str] | None = None) -> int:
    """Run all steps and write the result."""
    parser = argparse.ArgumentParser(prog="python -m claprt_bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="JSON to write; bench/results/gpu-<device>.json if left out")
    parser.add_argument("--quick", action="store_true", help="checks only, no timings")
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="run the towers of this bundle; built from a checkpoint if left out"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="transformers' side of the towers; a full-size random one if left out",
    )
    options = parser.parse_args(arguments)
    try:
        nvcc = kernel_files.find_nvcc()
        device = _device()
    except (kernel_files.CompileError, NotRunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    document: dict[str, Any] = {
        "device": device,
        "nvcc": kernel_files.version(nvcc),
        "machine": describe(tuple(name for name in _PACKAGES if _installed(name))),
        "steps": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        ladder, example = Path(folder) / "ladder", Path(folder) / "example"
        steps: dict[str, Callable[[], Any]] = {
            "compile": lambda: _compile_ladder(nvcc, ladder),
            "resources": lambda: kernel_files.resources(nvcc, int(device["compute_capability"].replace(".", ""))),
            "ladder_check": lambda: _lines(_run([ladder, "--check", "--json"])),
            "library": lambda: _compile_example(nvcc, example),
        }
        for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
            steps[tool] = partial(_sanitize, tool, ladder, "--check")
            steps[f"{tool}_library"] = partial(_sanitize, tool, example, *_EXAMPLE_ARGUMENTS, given=_pcm())
        steps["parity"] = _parity
        if not options.quick:
            steps["ladder_times"] = lambda: _lines(_run([ladder, "--json"]))
            steps["peers"] = _peers
            steps["towers"] = lambda: _towers(options.bundle, options.checkpoint)
            steps["towers_pytorch"] = lambda: _towers_pytorch(options.checkpoint)
        for name, step in steps.items():
            document["steps"][name] = _outcome(step)
            outcome = document["steps"][name]
            print(
                f"{name.ljust(18)}{outcome['status']}{': ' + outcome['reason'] if 'reason' in outcome else ''}",
                flush=True,
            )
    output = options.output or RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', device['name'].lower()).strip('-')}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written to {output}")
    return int(any(step["status"] == "failed" for step in document["steps"].values()))


def _outcome(step: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"status": "passed", "result": step()}
    except NotRunError as error:
        return {"status": "not run", "reason": str(error)}
    except Exception as error:  # a step must not take the others with it; its last words are the result
        return {"status": "failed", "reason": f"{type(error).__name__}: {str(error)[-3000:]}"}


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _device() -> dict[str, str]:
    """The first GPU as nvidia-smi describes it."""
    fields = (
        "name",
        "compute_cap",
        "driver_version",
        "memory.total",
        "clocks.max.sm",
        "clocks.max.memory",
        "power.limit",
    )
    smi = shutil.which("nvidia-smi")
    if smi is None:
        raise NotRunError("there is no NVIDIA GPU here: nvidia-smi was not found")
    done = subprocess.run(
        [smi, "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotRunError(f"there is no NVIDIA GPU here: {(done.stdout + done.stderr).strip()}")
    values = dict(zip(fields, (value.strip() for value in done.stdout.strip().split(",")), strict=True))
    return {"name": values.pop("name"), "compute_capability": values.pop("compute_cap"), **values}


def _run(command: list[Any], given: bytes | None = None) -> str:
    done = subprocess.run([str(part) for part in command], input=given, capture_output=True, check=False)
    said, errors = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {said[-1500:]} {errors[-1500:]}")
    return said


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def _compile_ladder(nvcc: Path, program: Path) -> str:
    kernel_files.run_nvcc(
        nvcc, *kernel_files.FLAGS, "-arch=native", "-lineinfo", f"-I{kernel_files.SOURCES}", _LADDER, "-o", program
    )
    return " ".join((*kernel_files.FLAGS, "-arch=native"))


def _compile_example(nvcc: Path, program: Path) -> str:
    """The C library and its example, which resamples: that is what the sanitizers see of the shipped kernels."""
    folder = program.parent
    kernel_files.compile_library(folder, "native")
    kernel_files.run_nvcc(
        *(nvcc, f"-I{folder}", _EXAMPLE, f"-L{folder}", "-lclaprt_log_mel"),
        *("-Xlinker", f"-rpath,{folder}", "-o", program),
    )
    rows = _run([program, *_EXAMPLE_ARGUMENTS], _pcm()).splitlines()
    if len(rows) != 1001 or "nan" in " ".join(rows):
        raise RuntimeError(f"{len(rows)} rows: {rows[:1]}")
    return f"{len(rows)} frames"


def _pcm() -> bytes:
    """Three seconds of stereo noise, int16, 44.1 kHz."""
    return random.Random(0).randbytes(3 * 44_100 * 2 * 2)


def _sanitize(tool: str, *command: Any, given: bytes | None = None) -> str:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        raise NotRunError("compute-sanitizer was not found")
    said = _run([sanitizer, "--tool", tool, "--error-exitcode", "99", *command], given)
    summary = [line for line in said.splitlines() if "SUMMARY" in line]
    if not summary:
        raise RuntimeError(f"no summary: {said[-1500:]}")
    return summary[-1].strip("= ")


def _parity() -> dict[str, Any]:
    """The parity tests, those on a GPU."""
    if importlib.util.find_spec("pytest") is None:
        raise NotRunError("pytest is not installed")
    files = ("tests/kernels/test_log_mel_kernel.py", "tests/kernels/test_resample_kernel.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-1500:]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    if done.returncode or not counts.get("passed"):
        if not counts.get("failed") and counts.get("skipped"):
            raise NotRunError(f"skipped: {done.stdout[-1500:]}")
        raise RuntimeError(f"{last}: {done.stdout[-2000:]}")
    return {"summary": last, **counts}


def _checkpoint() -> Path:
    """A full-size random checkpoint, made here once."""
    from claprt_bench.prepare import FULL_SIZE, Prepared

    _need("torch", "transformers")
    directory = Prepared.under(ROOT / "build" / "bench", FULL_SIZE).checkpoint
    if not (directory / "config.json").is_file():
        from claprt_export.random_checkpoint import save_random_checkpoint

        save_random_checkpoint(directory, FULL_SIZE)
    return directory


def _bundle(checkpoint: Path | None) -> Path:
    """A bundle of all precisions, built here once."""
    _need("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
    bundle = ROOT / "build" / "bench" / "gpu-bundle"
    if not bundle.is_dir():
        source = checkpoint or _checkpoint()
        _run([sys.executable, "-m", "claprt", "build", source, "-o", bundle, "--precision", "fp32,fp16,int8", "--json"])
    return bundle


def _towers(bundle: Path | None, checkpoint: Path | None) -> Any:
    _need("onnxruntime", "tiktoken")
    from claprt_bench.gpu_towers import measure

    return measure(bundle or _bundle(checkpoint))


def _towers_pytorch(checkpoint: Path | None) -> Any:
    _need("torch", "transformers")
    from claprt_bench.gpu_towers import measure_pytorch

    return measure_pytorch(checkpoint or _checkpoint())


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise NotRunError(f"not installed: {', '.join(missing)}")


def _peers() -> Any:
    if importlib.util.find_spec("torch") is None:
        raise NotRunError("PyTorch is not installed")
    from claprt_bench.gpu_peers import measure

    return measure()


if __name__ == "__main__":
    sys.exit(main())
