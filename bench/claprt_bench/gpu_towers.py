"""The towers on a GPU: every backend that runs there, each precision; alone, and from a waveform to its vector.

Vectors are compared with the FP32 graph on the CPU before times are taken. A tower alone is timed on inputs that lie on
the device; inputs rotate, and the time is that of many runs in a row, from the first launch to the last result.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import claprt
from claprt.bundle import open_bundle
from claprt.engines import backend_status
from claprt.engines.device import DeviceEngine, Shape
from claprt.engines.load import TENSORRT, TOWERS, load_engine
from claprt.errors import ClaprtError
from claprt.manifest import Manifest
from claprt.spec import PRECISIONS
from claprt_bench.measure import Spread
from claprt_export.comparison import BOUNDS, Comparison

BACKENDS = ("ort-cuda", "tensorrt-rtx", "tensorrt")
BATCHES = (1, 8, 64, 256)
TOKENS = 77
_LATENCIES, _WARM_UP, _SINGLE_RUNS = 300, 20, 20
_MANY = 512  # clips of one call
_SECONDS = 0.5  # of each throughput
_REPEATS = 5
_SOUNDS = 24
_TEXTS = tuple(
    f"{text} {'and then '.join(['once more '] * (index % 7))}"
    for index, text in enumerate(
        ["a dog barks", "rain", "a choir sings", "an engine starts", "footsteps on gravel"] * 5
    )
)


def measure(
    path: Path,
    *,
    precisions: Sequence[str] = PRECISIONS,
    batches: Sequence[int] = BATCHES,
    seconds: float = _SECONDS,
) -> list[dict[str, Any]]:
    """A row for each backend and precision of a bundle: its parity and times, or why it was not run.

    Args:
        path: the bundle. TensorRT's engines are built into it.
        precisions: those that are run, as far as the bundle has them.
        batches: of the towers alone; the steps that engines are built for.
        seconds: of each throughput.

    Returns:
        Objects with `backend`, `precision`, and `skipped` (a reason) or `parity`, `audio_tower`, `text_tower`,
        `latency_ms`, `throughput`.
    """
    bundle = open_bundle(path)
    cpu = claprt.load(path, "ort-cpu")
    sounds = _sounds(bundle.manifest)
    expected = np.concatenate([cpu.embed_audio(sounds), cpu.embed_text(_TEXTS)])
    rows = []
    for backend in BACKENDS:
        state = backend_status(backend)
        for precision in (name for name in precisions if name in bundle.manifest.variants):
            row: dict[str, Any] = {"backend": backend, "precision": precision}
            rows.append(row)
            if not state.usable:
                row["skipped"] = state.reason
                continue
            try:
                row.update(_one(path, backend, precision, batches, seconds, sounds, expected))
            except ClaprtError as error:  # one that does not run here is no reason to drop the others
                row["skipped"] = f"{type(error).__name__}: {error}"
    return rows


def _one(
    path: Path,
    backend: str,
    precision: str,
    batches: Sequence[int],
    seconds: float,
    sounds: list[NDArray[np.int16]],
    expected: NDArray[np.float32],
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if backend in TENSORRT:
        from claprt_export.engines import build_engines

        results = build_engines(
            path, rtx=backend == "tensorrt-rtx", precisions=(precision,), batches=batches, tokens=(16, TOKENS)
        )
        row["engines"] = [
            {
                "tower": one.tower,
                "seconds": round(one.seconds, 1),
                "bytes": one.record.plan.bytes,
                **(one.verification or {}),
            }
            for one in results
        ]
    clap = claprt.load(path, backend, precision)
    row["choice"] = str(clap.choice)
    found = np.concatenate([clap.embed_audio(sounds), clap.embed_text(_TEXTS)])
    row["parity"] = {}
    for tower, part in (("audio", slice(0, len(sounds))), ("text", slice(len(sounds), None))):
        comparison = Comparison.of(found[part], expected[part])
        bound = float(getattr(BOUNDS[precision], tower))
        row["parity"][tower] = {**asdict(comparison), "bound": bound, "holds": comparison.worst_cosine >= bound}
    bundle = open_bundle(path)
    for tower in TOWERS:
        engine = load_engine(bundle, tower, precision, backend)
        assert isinstance(engine, DeviceEngine)
        row[f"{tower}_tower"] = [
            _tower(engine, _inputs(bundle.manifest, tower, batch), batch, seconds) for batch in batches
        ]
    row["latency_ms"] = {
        "log-Mel on the GPU": _latency(clap, sounds),
        "log-Mel on the CPU": _latency(claprt.load(path, backend, precision, log_mel="cpu"), sounds),
    }
    row["throughput"] = {
        "int16 in host memory": _throughput(clap, sounds, seconds),
        "float32 in host memory": _throughput(clap, [sound * np.float32(1 / 32768) for sound in sounds], seconds),
    }
    return row


def _tower(engine: DeviceEngine, inputs: dict[str, NDArray[Any]], batch: int, seconds: float) -> dict[str, Any]:
    """Runs of one batch, in a row on one slot."""
    shapes: dict[str, Shape] = {name: value.shape for name, value in inputs.items()}
    if engine.rows({name: shape[1:] for name, shape in shapes.items()}) < batch:
        return {"batch": batch, "skipped": "larger than a run can be"}
    with engine.slot() as slot:
        for name, value in inputs.items():
            slot.upload(name, value)
        for _ in range(4):  # the third is captured, where there are graphs
            slot.enqueue(shapes)
            slot.wait(batch)
        single = []
        for _ in range(_SINGLE_RUNS):
            start = time.perf_counter()
            slot.enqueue(shapes)
            slot.wait(batch)
            single.append(time.perf_counter() - start)
        runs = max(2, math.ceil(seconds / _REPEATS / min(single)))
        times = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            for _ in range(runs):
                slot.enqueue(shapes)
            slot.wait(batch)
            times.append((time.perf_counter() - start) / runs)
    spread = Spread.of(times)
    return {
        "batch": batch,
        "ms": round(1000 * spread.median, 4),
        "ms_spread": round(1000 * (max(times) - min(times)), 4),
        "per_second": round(batch / spread.median, 1),
        "ms_with_result": round(1000 * Spread.of(single).median, 4),
        "runs": runs * _REPEATS,
    }


def _inputs(manifest: Manifest, tower: str, batch: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(batch)
    if tower == "text":
        tokens = min(TOKENS, manifest.text.max_tokens)
        ids = rng.integers(4, manifest.text.vocab_size, (batch, tokens))
        ids[:, 0] = 0
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    info = manifest.audio
    shape = (batch, info.channels, info.log_mel.frames, info.log_mel.n_mels)
    inputs: dict[str, NDArray[Any]] = {
        "input_features": (rng.standard_normal(shape, dtype=np.float32) * 15 - 30).astype(np.float32)
    }
    if info.fusion:
        inputs["is_longer"] = np.arange(batch)[:, None] % 2 == 0
    return inputs


def _latency(clap: claprt.Clap, sounds: list[NDArray[np.int16]]) -> dict[str, float]:
    """One clip in host memory to its vector there, again and again, in ms."""
    times = []
    for index in range(_LATENCIES + _WARM_UP):
        start = time.perf_counter()
        clap.embed_audio(sounds[index % len(sounds)])
        times.append(1000 * (time.perf_counter() - start))
    warm = np.sort(times[_WARM_UP:])
    return {f"p{percent}": round(float(np.percentile(warm, percent)), 4) for percent in (50, 95, 99)} | {
        "first": round(times[0], 4),
        "count": len(warm),
    }


def _throughput(clap: claprt.Clap, sounds: Sequence[NDArray[Any]], seconds: float) -> dict[str, float]:
    """Clips a second, many in one call."""
    many = [sounds[index % len(sounds)] for index in range(_MANY)]
    clap.embed_audio(many)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        clap.embed_audio(many)
        times.append(time.perf_counter() - start)
    return {"clips_per_second": round(len(many) / Spread.of(times).median, 1), "calls": len(times), "clips": len(many)}


def _sounds(manifest: Manifest) -> list[NDArray[np.int16]]:
    """Clips of the model's length, each another noise."""
    spec, result = manifest.audio.log_mel, []
    for index in range(_SOUNDS):
        rng = np.random.default_rng(index)
        wave = (
            np.cumsum(rng.standard_normal(spec.clip_samples)) if index % 2 else rng.standard_normal(spec.clip_samples)
        )
        wave *= np.linspace(0.05, 1.0, spec.clip_samples) ** (index % 5)
        result.append((wave / np.abs(wave).max() * 30_000).astype(np.int16))
    return result


def measure_pytorch(checkpoint: Path, batches: Sequence[int] = BATCHES) -> list[dict[str, Any]]:
    """Transformers' ClapModel on the GPU, for contrast: FP16, eager and compiled, towers alone.

    Args:
        checkpoint: a directory as transformers saves one.
        batches: of the towers.
    """
    import torch
    from transformers import ClapModel

    rows = []
    model = ClapModel.from_pretrained(checkpoint).eval().half().cuda()
    manifest_shape = (1001, model.config.audio_config.num_mel_bins)
    for name in ("eager", "torch.compile"):
        for batch in batches:
            features = torch.randn(batch, 1, *manifest_shape, device="cuda").half()
            ids = torch.randint(4, 1000, (batch, TOKENS), device="cuda")
            longer = torch.zeros(batch, 1, dtype=torch.bool, device="cuda")
            calls: dict[str, Callable[[], Any]] = {
                "audio": lambda f=features, i=longer: model.get_audio_features(f, is_longer=i),  # type: ignore[misc]
                "text": lambda i=ids: model.get_text_features(i, attention_mask=torch.ones_like(i)),  # type: ignore[misc]
            }
            for tower, call in calls.items():
                function: Callable[[], Any] = call if name == "eager" else torch.compile(call)
                row = {"peer": f"transformers, FP16, {name}", "tower": tower, "batch": batch}
                try:
                    with torch.inference_mode(), _quiet():
                        ms = _torch_ms(function)
                    rows.append({**row, "ms": round(ms, 4), "per_second": round(1000 * batch / ms, 1)})
                except Exception as error:  # one that does not run here is no reason to drop the others
                    rows.append({**row, "skipped": f"{type(error).__name__}: {str(error)[:300]}"})
    return rows


def _torch_ms(function: Callable[[], Any]) -> float:
    import torch

    for _ in range(5):
        function()
    torch.cuda.synchronize()
    times = []
    for _ in range(11):
        start = time.perf_counter()
        for _ in range(5):
            function()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start) / 5)
    return Spread.of(times).median


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
