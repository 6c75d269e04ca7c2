"""Documents as `claprt bench` and `claprt eval` write them, with made-up samples: inputs of what reads documents."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

_CLIP = 10.0
# Precision, variant, backend, what it costs.
_ENGINES = (("fp32", "fp32", "ort-cpu", 1.0), ("int8", "int8-cpu", "ort-cpu", 0.45))
_GPU_ENGINES = (
    ("fp32", "fp32", "tensorrt", 0.03),
    ("fp16", "fp16", "tensorrt", 0.009),
    ("int8", "int8", "tensorrt", 0.006),
)
_GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "compute_capability": "9.0",
    "driver": "580.65.06",
    "cuda": "13.0",
    "memory_bytes": 85_000_000_000,
}
_MACHINE = {
    "date": "2026-11-23",
    "processor": "AMD EPYC 9R14",
    "cpu_flags": ["avx2", "fma", "avx512f", "avx512_vnni"],
    "usable_cores": 2,
    "governor": None,
    "system": "Linux x86_64",
    "python": "3.11.2",
    "versions": {"claprt": "0.1.0", "onnxruntime": "1.31.1", "numpy": "2.4.0"},
    "gpu": None,
}
_BUNDLE = {
    "source": "demo",
    "weights_sha256": "3b1f" * 16,
    "space_id": "a9c4" * 4,
    "embedding_dim": 512,
    "clip_seconds": _CLIP,
}


def speed(seed: int = 0, noisy: bool = False, gpu: bool = False) -> dict[str, Any]:
    """A speed document with every part."""
    engines = (*_ENGINES, *_GPU_ENGINES) if gpu else _ENGINES
    random = np.random.default_rng(seed)
    measurements = [
        _measurement(random, "stage", step, cost, batch=batch)
        for batch in (1, 8)
        for step, cost in (("decode", 3.1), ("resample", 1.4), ("log-mel", 7.8), ("tokenizer", 0.043))
    ]
    for batch in (1, 8):
        for precision, variant, backend, factor in engines:
            engine: dict[str, Any] = {"precision": precision, "variant": variant, "backend": backend, "batch": batch}
            measurements += [
                _measurement(random, "stage", "audio-tower", 95 * factor, **engine),
                _measurement(random, "stage", "text-tower", 16 * factor, **engine),
                _measurement(random, "path", "file", 13 + 95 * factor, **engine),
                _measurement(random, "path", "waveform", 9 + 95 * factor, **engine),
                _measurement(random, "path", "text", 0.2 + 16 * factor, **engine),
            ]
    return {
        "format": "claprt-result",
        "schema_version": 1,
        "kind": "speed",
        "machine": _MACHINE | {"gpu": _GPU if gpu else None},
        "bundle": dict(_BUNDLE),
        "method": {
            "duration_s": 5.0,
            "repeats": 5,
            "warm_up": 3,
            "pause_s": 0.15,
            "threads": 2,
            "inputs": "8 different clips of 10 s: tones, noise, chirps, pulses",
            "order": "blocks in turn, the first one changes",
        },
        "noise": {
            "others": 0.83 if noisy else 0.03,
            "stolen": 0.0,
            "load_average": {"before": [0.31, 0.22, 0.2], "after": [2.1, 1.4, 0.8]},
            "quiet": not noisy,
            "why_noisy": ["other processes used 0.83 cores"] if noisy else [],
        },
        "checks": [
            {"what": "fp32 on ort-cpu, audio: the same twice", "value": 0.0, "bound": 0.0, "passed": True},
            {"what": "int8 on ort-cpu, audio: cosine to fp32", "value": 0.99989, "bound": 0.9995, "passed": True},
        ],
        "measurements": measurements,
        "cold_start": [
            _cold_start(random, precision, backend, 300 + 380 * factor, what)
            for precision, _, backend, factor in engines
            for what in ("file", "text")
        ],
        "open_loop": [
            _open_loop(random, precision, backend, 100 * factor, rate)
            for precision, _, backend, factor in engines
            for rate in (2.0, 5.0, 8.0, 9.5, 12.0)
        ]
        # A single rate, far too high.
        + [_open_loop(random, "fp32", "ort-cpu", 100.0, 80.0) | {"what": "file -> vector"}],
        "scaling": [
            _scaling(random, axis, what, precision, backend, factor)
            for axis, what in (
                ("batch", "waveform -> vector"),
                ("batch", "text -> vector"),
                ("threads", "waveform -> vector"),
                ("clip_seconds", "file -> vector"),
                ("labels", "waveform -> labels"),
            )
            for precision, _, backend, factor in engines
        ],
        "against": _against(random),
        "left_out": [
            {
                "what": "peer laion",
                "why": "laion-clap is not installed; pip install laion-clap in an environment of its own",
            }
        ],
        "warnings": ["the machine was not quiet: other processes used 0.83 cores"] if noisy else [],
    }


def evaluation(seed: int = 0, task: str = "zero-shot", classes: int = 10) -> dict[str, Any]:
    """An evaluation document of a task, with every part that the task has."""
    random = np.random.default_rng(seed)
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    labels = digits[:classes] + [f"class number {i}" for i in range(10, classes)]
    items = 25 * classes
    metrics = {
        "zero-shot": {"top1": 0.93, "top5": 0.991, "map": 0.955},
        "probe": {"accuracy": 0.97, "balanced_accuracy": 0.968},
        "retrieval": {
            f"{way}_{key}": value
            for way in ("audio_to_text", "text_to_audio")
            for key, value in (("r1", 0.41), ("r5", 0.72), ("r10", 0.84), ("map10", 0.53))
        },
    }[task]
    return {
        "format": "claprt-result",
        "schema_version": 1,
        "kind": "evaluation",
        "task": task,
        "machine": dict(_MACHINE),
        "bundle": dict(_BUNDLE),
        "dataset": {
            "name": "fsdd",
            "sha256": "77aa" * 16,
            "items": items,
            "classes": None if task == "retrieval" else classes,
            "captions": items * 5 if task == "retrieval" else None,
            "seconds": 107.3,
            "skipped": [{"path": "nine_theo_9.wav", "why": "no sound: 0 samples"}],
        },
        "method": {"templates": ["This is a sound of {}."], "recipe": "windows", "confidence": 0.95, "resamples": 2000}
        | {"seed": 0, "folds": ["1", "2", "3"] if task == "probe" else None},
        "variants": [
            {
                "precision": precision,
                "variant": variant,
                "backend": "ort-cpu",
                "threads": 2,
                "seconds": 7.2 * factor,
                "metrics": {key: _interval(random, value - 0.01 * (1 - factor)) for key, value in metrics.items()},
                "per_class": None if task == "retrieval" else [_class(random, label) for label in labels],
                "confusion": None if task == "retrieval" else {"labels": labels, "counts": _confusion(random, classes)},
                "per_fold": [{"fold": str(i), "items": 83, "accuracy": 0.95 + 0.01 * i} for i in (1, 2, 3)]
                if task == "probe"
                else None,
            }
            for precision, variant, _, factor in _ENGINES
        ],
        "comparisons": [
            {"a": "fp32", "b": "int8", "metric": key, "only_a": 3, "only_b": 1, "p_value": 0.625}
            | {"difference": {"value": -0.008, "low": -0.02, "high": 0.004}}
            for key in metrics
            if key in ("top1", "accuracy")
        ],
        "warnings": [],
    }


def _samples(random: np.random.Generator, cost: float, repeats: int = 5, calls: int = 40) -> list[list[float]]:
    """Latencies: a floor, a skewed body, a few slow ones; repeats differ a little."""
    return [
        (cost * (1 + 0.01 * random.standard_normal()) * (1 + random.gamma(1.5, 0.015, calls)
         + 0.4 * random.random(calls) * (random.random(calls) < 0.03))).tolist()
        for _ in range(repeats)
    ]  # fmt: skip


def _measurement(
    random: np.random.Generator,
    group: str,
    step: str,
    cost: float,
    *,
    batch: int = 1,
    precision: str | None = None,
    variant: str | None = None,
    backend: str | None = None,
) -> dict[str, Any]:
    sound = step not in ("text", "tokenizer", "text-tower")
    on_gpu = backend == "tensorrt"
    each = cost * (1.0 if batch == 1 else 0.85)
    # With batches there are too few calls for the last percentile.
    samples = _samples(random, each * batch, calls=40 if batch == 1 else 8)
    calls = [value for repeat in samples for value in repeat]
    p = dict(zip((50, 90, 95, 99), np.percentile(calls, (50, 90, 95, 99)).tolist(), strict=True))
    medians = [statistics.median(repeat) for repeat in samples]
    return {
        "id": f"{group}/{step}/{precision}/{backend}/b{batch}/t2",
        "group": group,
        "what": f"{step} -> vector" if group == "path" else step,
        "step": step,
        "precision": precision,
        "variant": variant,
        "backend": backend,
        "log_mel": ("cuda" if on_gpu else "cpu") if sound and step not in ("decode", "resample") else None,
        "batch": batch,
        "threads": 2,
        "audio_seconds": _CLIP if sound else None,
        "first_call_ms": cost * 1.6 if group == "path" and batch == 1 else None,
        "samples_ms": samples,
        "summary": {
            "calls": len(calls),
            "median_ms": p[50],
            "spread_ms": [min(medians), max(medians)],
            "mean_ms": statistics.fmean(calls),
            "minimum_ms": min(calls),
            "p50_ms": p[50],
            "p90_ms": p[90],
            "p95_ms": p[95],
            "p99_ms": p[99] if len(calls) >= 100 else None,
            "items_per_second": 1000 * batch / p[50],
            "real_time_factor": 1000 * batch * _CLIP / p[50] if sound else None,
            "cpu_ms_per_item": each * 1.8,
            "cores_used": 1.8,
        },
        "peak_host_bytes": 223_000_000 if group == "path" else None,
        "peak_device_bytes": 612_000_000 if on_gpu else None,
    }


def _cold_start(random: np.random.Generator, precision: str, backend: str, cost: float, what: str) -> dict[str, Any]:
    samples = (cost * (1 + random.gamma(1.5, 0.02, 7))).tolist()
    return {
        "id": f"cold-start/{what}/{precision}/{backend}",
        "what": f"process start -> first vector of a {what}",
        "precision": precision,
        "backend": backend,
        "threads": 2,
        "samples_ms": samples,
        "median_ms": statistics.median(samples),
        "spread_ms": [min(samples), max(samples)],
        "peak_host_bytes": 223_400_000 if precision == "fp32" else 138_000_000,
    }


def _open_loop(random: np.random.Generator, precision: str, backend: str, cost: float, rate: float) -> dict[str, Any]:
    due = np.cumsum(random.exponential(1 / rate, 120)) * 1000
    service = np.asarray(_samples(random, cost, 1, 120)[0])
    done = np.zeros(120)
    for i in range(120):
        done[i] = max(due[i], done[i - 1] if i else 0.0) + service[i]
    latency = done - due

    def figures(values: Any) -> dict[str, float]:
        found = {f"p{p}_ms": float(np.percentile(values, p)) for p in (50, 90, 95, 99)}
        return found | {"maximum_ms": float(values.max()), "mean_ms": float(values.mean())}

    return {
        "id": f"open-loop/waveform/{precision}/{backend}/r{rate:g}",
        "what": "waveform -> vector",
        "precision": precision,
        "backend": backend,
        "threads": 2,
        "rate": rate,
        "arrivals": "poisson",
        "seconds": 120 / rate,
        "requests": 120,
        "achieved_rate": 120_000 / done[-1],
        "saturated": bool(rate * cost > 1000),
        "latency": figures(latency),
        "service": figures(service),
        "samples_ms": latency.tolist(),
    }


def _scaling(
    random: np.random.Generator, axis: str, what: str, precision: str, backend: str, factor: float
) -> dict[str, Any]:
    xs = {
        "batch": [1, 2, 4, 8, 16, 32, 64],
        "threads": [1, 2],
        "clip_seconds": [1, 5, 10, 30, 60, 120, 300, 600],
        "labels": [1, 10, 100, 1000, 10_000],
    }[axis]
    points = []
    for x in xs:
        cost = {
            "batch": x * (8 + 95 * factor) * (0.82 + 0.18 / x),
            "threads": (8 + 95 * factor) / x**0.85,
            "clip_seconds": (8 + 95 * factor) * max(1.0, 2 * x / 10 - 1),
            "labels": 16 * factor * x**0.9 + 100 * factor,
        }[axis] * (1 + 0.01 * float(random.standard_normal()))
        items = x if axis == "batch" else 1
        points.append(
            {
                "x": x,
                "median_ms": cost,
                "spread_ms": [cost * 0.97, cost * 1.05],
                "items_per_second": 1000 * items / cost,
            }
            | {"per_item_ms": cost / items, "calls": 20}
        )
    return {
        "id": f"scaling/{axis}/{what.split()[0]}/{precision}/{backend}",
        "axis": axis,
        "what": what,
        "precision": precision,
        "backend": backend,
        "points": points,
    }


def _against(random: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for peer, versions, slower in (
        ("transformers", {"torch": "2.13.0+cpu", "transformers": "5.23.0"}, 2.3),
        ("stock-onnx", {"onnxruntime": "1.31.1"}, 1.06),
        ("torch-compile", {"torch": "2.13.0+cpu"}, 0.93),
    ):
        for step, precision, cost in (("waveform", "fp32", 104.0), ("waveform", "int8", 51.0), ("text", "fp32", 16.2)):
            ours = _samples(random, cost, 1, 11)[0]
            factor = slower * (104 / 51 if precision == "int8" else 1)
            theirs = (np.asarray(_samples(random, cost * factor, 1, 11)[0])).tolist()
            ratio = statistics.median(theirs) / statistics.median(ours)
            found.append(
                {
                    "id": f"against/{step}/{precision}/b1/{peer}",
                    "what": f"{step} -> vector",
                    "step": step,
                    "precision": precision,
                    "batch": 1,
                    "threads": 2,
                    "peer": peer,
                    "peer_versions": versions,
                    "unit": "ms",
                    "ours": ours,
                    "theirs": theirs,
                    "ratio": ratio,
                    "ratio_spread": [ratio * 0.97, ratio * 1.03],
                    "accuracy": {"worst_cosine": 1 - 2e-13 if precision == "fp32" else 0.99989, "max_abs": 1.2e-7},
                    "notes": ["subnormals are not flushed (its default)"] if peer == "transformers" else [],
                }
            )
    return found


def _interval(random: np.random.Generator, value: float) -> dict[str, float]:
    value = min(1.0, max(0.0, value + 0.003 * float(random.standard_normal())))
    half = 1.96 * (value * (1 - value) / 250) ** 0.5
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def _class(random: np.random.Generator, label: str) -> dict[str, Any]:
    recall, precision, average = (1 - 0.2 * random.random(3)).tolist()
    return {"label": label, "items": 25, "recall": recall, "precision": precision, "average_precision": average}


def _confusion(random: np.random.Generator, classes: int) -> list[list[int]]:
    wrong = random.multinomial(2, [1 / classes] * classes, classes)
    counts = wrong + np.eye(classes, dtype=int) * (25 - 2)
    return [[int(value) for value in row] for row in counts]
