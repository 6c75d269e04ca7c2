"""Values before times: a fast wrong answer is no result. Needs no other implementation than the bundle's own FP32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.engines import backend_status
from claprt.log_mel import LogMel
from claprt.manifest import Manifest
from claprt_bench.checks import MAX_CROSS_COSINE, MAX_LOG_MEL_ERROR
from claprt_bench.errors import BenchError
from claprt_bench.speed.inputs import Inputs
from claprt_bench.speed.jobs import Workers
from claprt_bench.speed.steps import Side, Task
from claprt_export.comparison import BOUNDS, Comparison
from claprt_kernels.reference import log_mel_reference

_UNIT = 1e-3  # of a vector's length: FP16 results are rounded
_AUDIBLE = 80.0  # dB below the frame's peak; beneath, float32 transforms differ by more, all of them
TOWERS = {"audio": ("waveform", "audio-tower"), "text": ("text", "text-tower")}


class Checks:
    """Makes them, and keeps what was found: {"what", "value", "bound", "passed"}, in the order made."""

    def __init__(self, workers: Workers, manifest: Manifest, batches: Sequence[int]) -> None:
        self._workers, self._manifest, self._most = workers, manifest, max(batches)
        self._expected: dict[str, NDArray[np.float32]] = {}
        self.found: list[dict[str, Any]] = []

    def log_mel(self, inputs: Inputs) -> None:
        """Log-Mel on the CPU against its definition in float64."""
        spec = self._manifest.audio.log_mel
        exact = log_mel_reference(inputs.clips[0], spec)
        error = np.abs(LogMel(spec).clip(inputs.clips[0]) - exact)
        audible = exact >= exact.max(axis=1, keepdims=True) - _AUDIBLE
        self._at_most("log-Mel against its definition in float64, dB", float(error[audible].max()), MAX_LOG_MEL_ERROR)

    def tower(self, side: Side, tower: str) -> None:
        """A side's vectors: against FP32 on the CPU, against themselves, of any batch, with and without stages.

        Raises:
            BenchError: something does not hold. What runs fast and wrong is not timed.
        """
        path, stage = TOWERS[tower]
        name = f"{tower}, {side.precision} on {side.backend}"
        tasks = [Task(path), Task(path), Task(path, self._most), Task(stage)]
        once, again, batched, by_stages = self._workers.vectors(side, tasks)
        lengths = np.linalg.norm(once.astype(np.float64), axis=1)
        self._at_most(f"{name}: vectors of unit length, error", float(np.abs(lengths - 1).max()), _UNIT)
        if side.backend == "ort-cpu":
            self._at_most(f"{name}: the same twice, difference", float(np.abs(once - again).max()), 0.0)
        bound = float(getattr(BOUNDS[side.precision], tower))
        expected = self._fp32(side, tower)
        if expected is not None:
            compared = Comparison.of(once, expected)
            self._at_least(f"{name}: against fp32 on ort-cpu, worst cosine", compared.worst_cosine, bound)
            if tower == "audio":
                what = f"{name}: different clips have different vectors, mean cosine"
                self._at_most(what, compared.mean_cross_cosine, MAX_CROSS_COSINE)
        self._at_least(f"{name}: {self._most} at once, worst cosine", _cosine(batched, once), bound)
        self._at_least(f"{name}: stage by stage, worst cosine", _cosine(by_stages, once), bound)

    def _fp32(self, side: Side, tower: str) -> NDArray[np.float32] | None:
        """What FP32 gives on the CPU; None where it cannot run."""
        if "fp32" not in self._manifest.precisions or not backend_status("ort-cpu").usable:
            return None
        if tower not in self._expected:
            reference = Side(side.bundle, "fp32", "ort-cpu", side.threads)
            (self._expected[tower],) = self._workers.vectors(reference, [Task(TOWERS[tower][0])])
        return self._expected[tower]

    def _at_most(self, what: str, value: float, bound: float) -> None:
        self._add(what, value, bound, value <= bound, "at most")

    def _at_least(self, what: str, value: float, bound: float) -> None:
        self._add(what, value, bound, value >= bound, "at least")

    def _add(self, what: str, value: float, bound: float, passed: bool, sense: str) -> None:
        if not passed:  # nor NaN
            raise BenchError(
                f"wrong values, not timed: {what}: {value:.7g}, needed {sense} {bound:g}; see claprt verify"
            )
        self.found.append({"what": what, "value": value, "bound": bound, "passed": True})


def _cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return Comparison.of(found, expected).worst_cosine
