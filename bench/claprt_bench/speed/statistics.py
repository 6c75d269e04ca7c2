"""Figures of many timed calls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)
# A percentile is shown when at least so many calls lie above it: below that it is an accident of a few calls.
_CALLS_ABOVE = 2


def percentile(samples: Sequence[float], percent: float) -> float | None:
    """The value that `percent` of the samples do not exceed, between samples by linear interpolation.

    None where fewer than two samples would lie above it: p90 takes 20 samples, p95 40, p99 200. The median takes one.
    """
    if not samples or (percent > 50 and len(samples) * (100 - percent) / 100 < _CALLS_ABOVE - 1e-9):
        return None
    return float(np.percentile(samples, percent))


def percentiles(samples: Sequence[float], suffix: str = "_ms") -> dict[str, float | None]:
    """p50, p90, p95 and p99, as far as there are samples enough."""
    return {f"p{percent}{suffix}": percentile(samples, percent) for percent in PERCENTILES}


def spread(repeats: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Lowest and highest median of the repeats: how far the figure moves when it is measured again."""
    medians = [statistics.median(repeat) for repeat in repeats if repeat]
    return min(medians), max(medians)


def tenths(samples: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """10th and 90th percentile: how far samples lie apart, without outliers.

    The lowest and highest of all would lie the farther apart the more samples there are.
    """
    return float(np.percentile(samples, 10)), float(np.percentile(samples, 90))


def summary(
    repeats: Sequence[Sequence[float]], batch: int, audio_seconds: float | None, cpu_ms: float | None
) -> dict[str, Any]:
    """What is shown of a measurement.

    Args:
        repeats: milliseconds of each call, by repeat; a call is one batch.
        batch: items of a call.
        audio_seconds: of an item; None for texts.
        cpu_ms: processor time of all calls together, of all threads; None if not known.

    Returns:
        The "summary" of a measurement. Throughput is items over the time of all calls, so slow calls count in full;
        the real-time factor is seconds of audio per second of computing.
    """
    calls = [sample for repeat in repeats for sample in repeat]
    total = math.fsum(calls)
    rate = 1000 * batch * len(calls) / total
    return {
        "calls": len(calls),
        "median_ms": statistics.median(calls),
        "spread_ms": list(spread(repeats)),
        "mean_ms": total / len(calls),
        "minimum_ms": min(calls),
        **percentiles(calls),
        "items_per_second": rate,
        "real_time_factor": None if audio_seconds is None else rate * audio_seconds,
        "cpu_ms_per_item": None if cpu_ms is None else cpu_ms / (batch * len(calls)),
        "cores_used": None if cpu_ms is None else cpu_ms / total,
    }
