"""Results as `claprt bench` and `claprt eval` write them, made of given noise instead of measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MACHINE = {
    "date": "2026-11-23",
    "processor": "AMD EPYC",
    "cpu_flags": ["avx2", "fma"],
    "usable_cores": 2,
    "governor": None,
    "system": "Linux x86_64",
    "python": "3.11.7",
    "versions": {"claprt": "0.1.0", "onnxruntime": "1.31.1", "numpy": "2.4.6"},
    "gpu": None,
}
_BUNDLE = {
    "source": "demo",
    "weights_sha256": "61c4" * 16,
    "space_id": "0123456789abcdef",
    "embedding_dim": 512,
    "clip_seconds": 10.0,
}


def speed(measurements: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    """A "speed" document of these measurements; `parts` replaces others."""
    document = {
        "format": "claprt-result",
        "schema_version": 1,
        "kind": "speed",
        "machine": _MACHINE,
        "bundle": _BUNDLE,
        "method": {"duration_s": 5.0, "repeats": 5, "warm_up": 3, "pause_s": 0.15, "threads": 2, "inputs": "8 clips"},
        "noise": {"others": 0.01, "stolen": 0.0, "load_average": {}, "quiet": True, "why_noisy": []},
        "checks": [{"what": "fp32, audio: the same twice", "value": 0.0, "bound": 0.0, "passed": True}],
        "measurements": measurements,
    }
    empty = ("cold_start", "open_loop", "scaling", "against", "left_out", "warnings")
    document |= {name: [] for name in empty}
    return json.loads(json.dumps(document | parts))  # type: ignore[no-any-return]


def measurement(name: str, samples: NDArray[np.float64], **fields: Any) -> dict[str, Any]:
    """A measurement with samples of (repeats, calls) milliseconds."""
    calls = samples.ravel()
    return {
        "id": name,
        "group": "path",
        "what": "waveform -> vector",
        "step": "waveform",
        "precision": "fp32",
        "variant": "fp32",
        "backend": "ort-cpu",
        "log_mel": "cpu",
        "batch": 1,
        "threads": 2,
        "audio_seconds": 10.0,
        "first_call_ms": 95.1,
        "samples_ms": samples.tolist(),
        "summary": {"calls": calls.size, "median_ms": float(np.median(calls))},
        "peak_host_bytes": None,
        "peak_device_bytes": None,
    } | fields


def calls(
    rng: np.random.Generator, typical: float = 100.0, repeats: int = 5, count: int = 20, block: float = 0.03,
    call: float = 0.02, factor: float = 1.0,
) -> NDArray[np.float64]:  # fmt: skip
    """(repeats, count) milliseconds: blocks that differ, calls that differ, and now and then one that takes longer."""
    logs = math.log(typical * factor) + block * rng.standard_normal((repeats, 1))
    logs = logs + np.abs(call * rng.standard_normal((repeats, count)))
    slow = rng.random((repeats, count)) < 0.02
    return np.asarray(np.exp(logs + slow * rng.exponential(0.3, (repeats, count))))


def evaluation(metrics: dict[str, dict[str, tuple[float, float, float]]], **parts: Any) -> dict[str, Any]:
    """An "evaluation" document with (value, low, high) of metrics by precision."""
    document = {
        "format": "claprt-result",
        "schema_version": 1,
        "kind": "evaluation",
        "task": "zero-shot",
        "machine": _MACHINE,
        "bundle": _BUNDLE,
        "dataset": {
            "name": "fsdd", "sha256": "ab" * 32, "items": 250, "classes": 10, "captions": None, "seconds": 107.3,
            "skipped": [],
        },
        "method": {
            "templates": ["This is a sound of {}."], "recipe": "windows", "confidence": 0.95, "resamples": 2000,
            "seed": 0, "folds": None,
        },
        "variants": [
            {
                "precision": precision, "variant": precision, "backend": "ort-cpu", "threads": 2, "seconds": 3.2,
                "metrics": {
                    name: {"value": value, "low": low, "high": high} for name, (value, low, high) in values.items()
                },
                "per_class": None, "confusion": None, "per_fold": None,
            }
            for precision, values in metrics.items()
        ],
        "comparisons": [],
        "warnings": [],
    }  # fmt: skip
    return json.loads(json.dumps(document | parts))  # type: ignore[no-any-return]


def write(document: dict[str, Any], path: Path) -> Path:
    """The document as a file."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
