"""The towers on a GPU: every backend that runs there, each precision; alone, and from a waveform to its vector.

Vectors are compared with the FP32 graph on the CPU before times are taken; what misses its bound is not timed. A tower
alone is timed on one set of inputs that lies on the device, where a library wants it: always at the same address. The
time is that of many runs in a row, from the first launch to the last result, the copy of the vectors to the host
included. What a run reads of weights and inputs is in its row (`bytes`), to be held against the GPU's L2 cache.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import claprt
from claprt.audio_io import AudioInput
from claprt.bundle import Bundle, open_bundle
from claprt.engines import Engine, backend_status
from claprt.engines.device import DeviceEngine, Shape, explained
from claprt.engines.load import TENSORRT, TOWERS, load_engine
from claprt_bench import gpu_bundles
from claprt_bench.gpu_inputs import texts, timed_sounds, tower_inputs, varied_sounds
from claprt_bench.gpu_task import FAILED, PASSED, TOKENS, NotRunError, Row, Task
from claprt_bench.measure import Spread
from claprt_export.comparison import BOUNDS, Comparison

_STEPS = (1, 8, 64)  # batches that ONNX Runtime's tower has anyhow
_LATENCIES, _LEAST_LATENCIES, _WARM_UP, _SINGLE_RUNS, _REPEATS = 300, 20, 20, 20, 5


def measure(task: Task) -> Row:
    """A unit, "backend/precision" or, vectors alone, "backend/precision/fused".

    Raises:
        NotRunError: the backend cannot run here, or the bundle lacks the precision.
    """
    backend, precision, *fused = task.unit.split("/")
    state = backend_status(backend)
    if not state.usable:
        raise NotRunError(state.reason)
    path = gpu_bundles.fused(task.settings) if fused else gpu_bundles.full(task.settings, precision)
    bundle = open_bundle(path)
    if precision not in bundle.manifest.variants:
        raise NotRunError(f"the bundle has no {precision}: {path}")
    unit = _Unit(task, bundle, backend, precision, gpu_bundles.FUSED if fused else "full")
    unit.run(timed=not fused)
    return {"library": unit.library, "space": bundle.manifest.model.space_id}


class _Unit:
    """One backend and precision of one bundle."""

    def __init__(self, task: Task, bundle: Bundle, backend: str, precision: str, name: str) -> None:
        self.task, self.bundle, self.backend, self.precision, self.name = task, bundle, backend, precision, name
        self.settings, self.library = task.settings, _library(backend)
        self.batches = tuple(sorted(set(self.settings.batches)))
        self._held: dict[tuple[str, str], bool] = {}  # tower, and where log-Mel is computed

    def run(self, timed: bool) -> None:
        """All rows."""
        if self.backend in TENSORRT:
            for tower in TOWERS:
                self._row({"part": "engine", "tower": tower}, partial(self._engine, tower))
        self._parity()
        if not timed:
            return
        for tower in TOWERS:
            self._towers(tower)
        for log_mel in ("cuda", "cpu"):
            where = {"log_mel": log_mel}
            self._row({"part": "latency", **where, "samples": "int16"}, partial(self._latency, log_mel))
            for samples in ("int16", "float32"):
                row = {"part": "throughput", **where, "samples": samples}
                self._row(row, partial(self._throughput, log_mel, samples))

    def _row(self, identity: Row, measure: Any) -> Row:
        return self.task.attempt({"bundle": self.name, **identity, "library": self.library}, measure)

    def _engine(self, tower: str) -> Row:
        from claprt_export.engines import build_engines

        (one,) = build_engines(
            self.bundle.path,
            rtx=self.backend == "tensorrt-rtx",
            precisions=(self.precision,),
            towers=(tower,),
            batches=self.batches,
            tokens=(16, TOKENS),
        )
        figures = {"state": one.state, "seconds": round(one.seconds, 1), "bytes": one.record.plan.bytes}
        return {"batches": list(self.batches), **figures, "verification": one.verification}

    def _parity(self) -> None:
        """Vectors beside those of the FP32 graph on the CPU: each recipe, many sounds, many texts."""
        info = self.bundle.manifest.audio
        folder = None if self.settings.audio is None else Path(self.settings.audio)
        sounds = varied_sounds(info.log_mel, folder)
        cpu = claprt.load(self.bundle.path, "ort-cpu")
        for recipe in ("head", "windows", *(("fusion",) if info.fusion else ())):
            expected = cpu.embed_audio(sounds, recipe=recipe)
            for log_mel in ("cuda", "cpu") if recipe == "head" else ("cuda",):
                row = {"part": "parity", "tower": "audio", "recipe": recipe, "log_mel": log_mel}
                found = self._row(row, partial(self._audio_parity, sounds, recipe, log_mel, expected))
                key = ("audio", log_mel)
                self._held[key] = self._held.get(key, True) and found["status"] == PASSED
        row = self._row({"part": "parity", "tower": "text"}, partial(self._text_parity, cpu))
        self._held["text", ""] = row["status"] == PASSED

    def _audio_parity(self, sounds: list[AudioInput], recipe: str, log_mel: str, expected: NDArray[np.float32]) -> Row:
        return self._compared("audio", self._clap(log_mel).embed_audio(sounds, recipe=recipe), expected)

    def _text_parity(self, cpu: claprt.Clap) -> Row:
        return self._compared("text", self._clap().embed_text(texts()), cpu.embed_text(texts()))

    def _compared(self, tower: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> Row:
        comparison = Comparison.of(found, expected)
        bound = float(getattr(BOUNDS[self.precision], tower))
        holds = comparison.worst_cosine >= bound  # a NaN does not
        figures = {**asdict(comparison), "bound": bound, "holds": holds}
        return figures if holds else {"status": FAILED, "reason": f"it misses its bound: {comparison}", **figures}

    def _clap(self, log_mel: str = "cuda") -> claprt.Clap:
        return claprt.load(self.bundle.path, self.backend, self.precision, log_mel=log_mel)

    def _towers(self, tower: str) -> None:
        """A row for each batch, all of one engine."""
        made: list[Engine] = []
        cpu = load_engine(self.bundle, tower, "fp32", "ort-cpu")
        for batch in self.batches:

            def measure(batch: int = batch) -> Row:
                self._must_hold(tower, "cuda" if tower == "audio" else "")
                if not made:
                    made.append(self._load(tower))
                engine = made[0]
                assert isinstance(engine, DeviceEngine)
                return self._tower(engine, cpu, tower, batch)

            self._row({"part": "tower", "tower": tower, "batch": batch}, measure)

    def _load(self, tower: str) -> Engine:
        # An engine of TensorRT has its batches inside; ONNX Runtime's tower is told them.
        steps: dict[str, Any] = {"steps": tuple(sorted({*_STEPS, *self.batches}))} if self.backend == "ort-cuda" else {}
        return load_engine(self.bundle, tower, self.precision, self.backend, **steps)

    def _tower(self, engine: DeviceEngine, cpu: Engine, tower: str, batch: int) -> Row:
        """Runs of one batch, in a row on one slot."""
        inputs = tower_inputs(self.bundle, tower, batch)
        shapes: dict[str, Shape] = {name: value.shape for name, value in inputs.items()}
        most = engine.rows({name: shape[1:] for name, shape in shapes.items()})
        if most < batch:
            raise NotRunError(f"larger than a run can be: {most} rows")
        checked = sorted({0, batch // 2, batch - 1})
        expected = cpu.run({name: value[checked] for name, value in inputs.items()})
        with explained(engine.tower.name), engine.slot() as slot:
            for name, value in inputs.items():
                slot.upload(name, value)
            for _ in range(4):  # where there are graphs: captured after the second run, replayed from the third on
                slot.enqueue(shapes)
                vectors = slot.wait(batch)
            compared = self._compared(tower, vectors[checked], expected)
            if not compared["holds"]:
                return compared
            single = []
            for _ in range(_SINGLE_RUNS):
                start = time.perf_counter()
                slot.enqueue(shapes)
                slot.wait(batch)
                single.append(time.perf_counter() - start)
            runs = max(2, math.ceil(self.settings.seconds / _REPEATS / min(single)))
            times = []
            for _ in range(_REPEATS):
                start = time.perf_counter()
                for _ in range(runs):
                    slot.enqueue(shapes)
                slot.wait(batch)
                times.append((time.perf_counter() - start) / runs)
        spread = Spread.of(times)
        files = getattr(self.bundle.manifest, tower).variants[self.precision].files
        return {
            "ms": round(1000 * spread.median, 4),
            "ms_spread": round(1000 * (max(times) - min(times)), 4),
            "per_second": round(batch / spread.median, 1),
            "ms_with_result": round(1000 * Spread.of(single).median, 4),
            "runs": runs * _REPEATS,
            "worst_cosine": compared["worst_cosine"],
            "bytes": {
                "graph": sum(file.bytes for file in files),
                "inputs": sum(value.nbytes for value in inputs.values()),
            },
        }

    def _must_hold(self, tower: str, log_mel: str) -> None:
        if not self._held.get((tower, log_mel)):
            raise NotRunError("not timed, as its vectors are not what they should be")

    def _latency(self, log_mel: str) -> Row:
        """One clip in host memory to its vector there, again and again, in ms."""
        self._must_hold("audio", log_mel)
        clap, sounds = self._clap(log_mel), timed_sounds(self.bundle.manifest.audio.log_mel)
        times: list[float] = []
        end = math.inf
        while len(times) < _WARM_UP + (_LATENCIES if time.perf_counter() < end else _LEAST_LATENCIES):
            start = time.perf_counter()
            clap.embed_audio(sounds[len(times) % len(sounds)])
            times.append(1000 * (time.perf_counter() - start))
            if len(times) == _WARM_UP:
                end = time.perf_counter() + 4 * self.settings.seconds
        warm = np.sort(times[_WARM_UP:])
        figures = {f"p{percent}_ms": round(float(np.percentile(warm, percent)), 4) for percent in (50, 95, 99)}
        return {**figures, "first_ms": round(times[0], 4), "count": len(warm)}

    def _throughput(self, log_mel: str, samples: str) -> Row:
        """Clips a second, many in one call, from host memory."""
        self._must_hold("audio", log_mel)
        clap = self._clap(log_mel)
        sounds: Sequence[NDArray[Any]] = timed_sounds(self.bundle.manifest.audio.log_mel)
        if samples == "float32":
            sounds = [sound * np.float32(1 / 32_768) for sound in sounds]
        many = [sounds[index % len(sounds)] for index in range(self.settings.clips)]
        clap.embed_audio(many)
        times: list[float] = []
        while sum(times) < self.settings.seconds or len(times) < 3:
            start = time.perf_counter()
            clap.embed_audio(many)
            times.append(time.perf_counter() - start)
        rate = round(len(many) / Spread.of(times).median, 1)
        return {"clips_per_second": rate, "calls": len(times), "clips": len(many)}


def _library(backend: str) -> str:
    """The library that runs, with its version and that of what launches the kernels."""
    if backend == "ort-cuda":
        import onnxruntime

        name = f"onnxruntime {onnxruntime.__version__}, CUDA"
    else:
        from claprt.engines.tensorrt.library import load_library

        name = load_library(backend).title
    for package in ("cuda-bindings", "pycuda"):
        try:
            return f"{name}; {package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203
            continue
    return name
