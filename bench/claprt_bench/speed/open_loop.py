"""Requests that come when they come, whether the last one is answered or not: what users of a service wait for."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from claprt_bench.speed.jobs import Workers
from claprt_bench.speed.plan import WHAT
from claprt_bench.speed.statistics import percentiles
from claprt_bench.speed.steps import Side, Task

# Requests that p99 takes; a run lasts until it has them, but not longer than this.
_REQUESTS, _LONGEST = 200, 60.0


def loop_id(side: Side, rate: float) -> str:
    """The same for the same load in every run."""
    return f"open-loop/waveform/{side.precision}/{side.backend}/r{rate:g}"


def measure_open_loop(workers: Workers, side: Side, rate: float, duration: float) -> dict[str, Any]:
    """One entry of the document's "open_loop": one clip a request, one after the other.

    Args:
        workers: run it.
        side: that serves.
        rate: requests per second.
        duration: seconds that it lasts at least.

    Raises:
        BenchError: the worker fails.
    """
    seconds = max(duration, min(_REQUESTS / rate, _LONGEST))
    due = arrivals(rate, seconds)
    found = workers.open_loop(side, Task("waveform"), due, seconds)
    latency, service = found["latency_ms"], found["service_ms"]
    return {
        "id": loop_id(side, rate),
        "what": WHAT["waveform"],
        "precision": side.precision,
        "backend": side.backend,
        "threads": side.threads,
        "rate": rate,
        "arrivals": "poisson",
        "seconds": seconds,
        "requests": len(due),
        "unfinished": found["unfinished"],
        "achieved_rate": len(service) / found["elapsed_s"],
        # More work comes in than can be done: the queue, and with it the latency, grows with the length of the run.
        "saturated": bool(found["unfinished"]) or statistics.fmean(service) * rate >= 1000,
        "latency": _distribution(latency),
        "service": _distribution(service),
        "samples_ms": [round(sample, 4) for sample in latency],
    }


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When requests are due that come independently of each other: a Poisson process of `rate` per second.

    Of its runs one with the expected number of requests: given that number, the times of a Poisson process are
    independent and uniform. So the rate is what was asked for, and the gaps are exponential. The same arguments give
    the same times.
    """
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0.0, seconds, size=max(1, round(rate * seconds))))
    return [float(time) for time in times]


def _distribution(samples: list[float]) -> dict[str, float | None]:
    return {**percentiles(samples), "maximum_ms": max(samples), "mean_ms": statistics.fmean(samples)}
