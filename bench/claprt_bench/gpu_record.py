"""The JSON of `make gpu-check`: read, brought up to date step by step, and written whole each time.

A step that is done again replaces what was there; the others stay, each with its own date and versions. A step of
several units replaces those that ran, and in them the rows that were measured again.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claprt_bench.errors import BenchError
from claprt_bench.gpu_task import FAILED, ROOT, Row, summary

PACKAGES = (
    *("numpy", "pytest", "cuda-bindings", "pycuda", "cupy-cuda13x", "cupy-cuda12x"),
    *("torch", "torchaudio", "triton", "transformers", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings"),
    *("tensorrt-rtx-cu13-libs", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cublas", "nvidia-cublas-cu12"),
)
# What tells the rows of one unit apart.
_IDENTITY = ("bundle", "part", "tower", "recipe", "log_mel", "samples", "batch")
_INTERRUPTED = {"status": FAILED, "reason": "it was interrupted"}


class Record:
    """The document of one device, and its file."""

    def __init__(self, path: Path, device: Mapping[str, str], nvcc: str, machine: Mapping[str, Any]) -> None:
        """Start from the file, if it is there.

        Raises:
            BenchError: it is not such a file, or of another device.
        """
        self.path, self._device, self._nvcc = path, device, nvcc
        self.steps: dict[str, Row] = self._read() if path.exists() else {}
        self._document = {"device": dict(device), "nvcc": nvcc, "machine": dict(machine), "steps": self.steps}
        self._revision = _revision()

    def step(self, name: str, outcome: Row) -> None:
        """Record a step of one unit, and write."""
        self.steps[name] = {**outcome, **self._stamp()}
        self.write()

    def begin(self, name: str, unit: str) -> None:
        """A unit has begun to have rows. Until its `end` it counts as interrupted."""
        units = self.steps.setdefault(name, {}).setdefault("units", {})
        units[unit] = {**_INTERRUPTED, **self._stamp(), "rows": units.get(unit, {}).get("rows", [])}

    def row(self, name: str, unit: str, row: Row) -> None:
        """Record a row of a unit that has begun, and write."""
        rows = self.steps[name]["units"][unit]["rows"]
        kept = [one for one in rows if _identity(one) != _identity(row)]
        self.steps[name]["units"][unit]["rows"] = [*kept, {**row, "date": _now()}]
        self._sum(name)
        self.write()

    def end(self, name: str, unit: str, outcome: Row) -> None:
        """Record what became of a unit, and write: it failed if a row of it did."""
        units = self.steps.setdefault(name, {}).setdefault("units", {})
        rows = units.get(unit, {}).get("rows", [])
        failed = [one for one in (outcome, *rows) if one["status"] == FAILED]
        judged = summary(failed or [outcome])
        units[unit] = {**outcome, **judged, **self._stamp(), "rows": rows}
        self._sum(name)
        self.write()

    def write(self) -> None:
        """Whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(self._document, indent=1) + "\n")
            Path(temporary).chmod(0o644)
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _read(self) -> dict[str, Row]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            found, steps = document["device"]["name"], document["steps"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchError(f"not a result of a GPU: {self.path}: {error}; remove it, or name another file") from None
        if found != self._device["name"]:
            raise BenchError(f"a result of another GPU: {self.path}: {found}; name another file with --output")
        return dict(steps)

    def _sum(self, name: str) -> None:
        units = self.steps[name]["units"]
        self.steps[name] = {**summary([{**one, "reason": _told(unit, one)} for unit, one in units.items()])}
        self.steps[name]["units"] = units

    def _stamp(self) -> Row:
        """When, and with what."""
        versions = {}
        for package in PACKAGES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[package] = importlib.metadata.version(package)
        driver = self._device.get("driver_version", "unknown")
        return {"date": _now(), "revision": self._revision, "driver": driver, "nvcc": self._nvcc, "versions": versions}


def _told(unit: str, outcome: Row) -> str:
    return f"{unit}: {outcome.get('reason', '')}"


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _IDENTITY)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _revision() -> str:
    """The commit, with "-dirty" where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
