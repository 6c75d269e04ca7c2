"""What the towers are measured on: a full-size checkpoint with random weights and its bundle, and a small fused one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from claprt.engines import backend_status
from claprt_bench.gpu_task import NotRunError, Settings, Task, need

FUSED = "fused"
_SMALL = "tiny"


def tower_units(settings: Settings) -> list[str]:
    """Of the step that measures towers, "backend/precision" and the same with "/fused": one bundle each."""
    pairs = [f"{backend}/{precision}" for precision in settings.precisions for backend in settings.backends]
    return [*pairs, *(f"{pair}/{FUSED}" for pair in pairs if not pair.endswith("/int8"))]


def build(task: Task) -> dict[str, Any]:
    """Both bundles, unless they are there; nothing if no GPU backend could run them."""
    settings = task.settings
    states = [backend_status(name) for name in settings.backends]
    if not any(state.usable for state in states):
        raise NotRunError("; ".join(f"{state.name}: {state.reason}" for state in states))
    paths = [full(settings, precision) for precision in settings.precisions] + [fused(settings)]
    return {"bundles": sorted({path.name for path in paths})}


def full(settings: Settings, precision: str) -> Path:
    """The full-size bundle with this precision; made if need be. INT8 has one of its own: it takes longest by far."""
    if settings.bundle is not None:
        return Path(settings.bundle)
    together = ("int8",) if precision == "int8" else tuple(name for name in settings.precisions if name != "int8")
    names = ("fp32", *(name for name in together if name != "fp32"))
    return _bundle(Path(settings.work) / f"bundle-{'-'.join(names)}", names, checkpoint(settings))


def fused(settings: Settings) -> Path:
    """A small bundle with fusion, FP32 and FP16; made if need be."""
    if settings.fused_bundle is not None:
        return Path(settings.fused_bundle)
    source = _random(Path(settings.work) / f"random-{_SMALL}-fused", _SMALL, fusion=True)
    return _bundle(Path(settings.work) / "bundle-fused", ("fp32", "fp16"), source)


def checkpoint(settings: Settings) -> Path:
    """Transformers' side of the towers; made if need be."""
    if settings.checkpoint is not None:
        return Path(settings.checkpoint)
    from claprt_bench.prepare import FULL_SIZE

    return _random(Path(settings.work) / f"random-{FULL_SIZE}", FULL_SIZE, fusion=False)


def _random(directory: Path, size: str, fusion: bool) -> Path:
    """A checkpoint with random weights, whole or not at all."""
    if not directory.is_dir():
        need("torch", "transformers")
        from claprt_export.random_checkpoint import save_random_checkpoint

        made = directory.with_name(f"{directory.name}.new")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        save_random_checkpoint(made, size, fusion=fusion)
        made.replace(directory)
    return directory


def _bundle(directory: Path, precisions: tuple[str, ...], source: Path) -> Path:
    if not directory.is_dir():
        need("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
        command = [sys.executable, "-m", "claprt", "build", str(source), "-o", str(directory)]
        command += ["--precision", ",".join(precisions), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"claprt build ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return directory
