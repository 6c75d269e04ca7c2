"""How a step's cost grows: the points of a curve, each timed as any step is."""

from __future__ import annotations

import statistics
from typing import Any

from claprt_bench.errors import BenchError
from claprt_bench.speed.jobs import Workers
from claprt_bench.speed.plan import Curve
from claprt_bench.speed.statistics import spread
from claprt_bench.speed.steps import Side, Task

REPEATS = 3
# Points whose calls take so long (ms) are not repeated.
_SLOW = 10_000.0


def measure_curve(
    workers: Workers, curve: Curve, repeats: int, seconds: float, left_out: list[dict[str, str]]
) -> dict[str, Any]:
    """One entry of the document's "scaling".

    Args:
        workers: run it.
        curve: its points.
        repeats: fresh processes for each side.
        seconds: of calls for each point in each of them.
        left_out: gets the points that cannot be measured, with the reason.
    """
    times: dict[float, list[list[float]]] = {x: [] for x, _, _ in curve.points}
    done: set[float] = set()
    for _ in range(repeats):
        by_side: dict[Side, list[tuple[float, Task]]] = {}
        for x, task, side in curve.points:
            if x not in done:
                by_side.setdefault(side, []).append((x, task))
        for side, points in by_side.items():
            blocks = _blocks(workers, side, [task for _, task in points], seconds)
            for (x, _), samples in zip(points, blocks, strict=True):
                if isinstance(samples, BenchError):
                    left_out.append({"what": f"{curve.id} at {x:g}", "why": str(samples)})
                    done.add(x)
                    continue
                times[x].append(samples)
                if max(samples) > _SLOW:
                    done.add(x)
    tasks = {x: task for x, task, _ in curve.points}
    return {
        "id": curve.id,
        "axis": curve.axis,
        "what": curve.what,
        "precision": curve.side.precision,
        "backend": curve.side.backend,
        "points": [_point(x, tasks[x], found) for x, found in times.items() if found],
    }


def _blocks(workers: Workers, side: Side, tasks: list[Task], seconds: float) -> list[list[float] | BenchError]:
    """A block of each task, in one process; where that fails the last one, the largest, gets the error."""
    if not tasks:
        return []
    try:
        return [block["samples_ms"] for block in workers.blocks(side, tasks, seconds)]
    except BenchError as error:
        return [*_blocks(workers, side, tasks[:-1], seconds), error]


def _point(x: float, task: Task, repeats: list[list[float]]) -> dict[str, Any]:
    calls = [sample for repeat in repeats for sample in repeat]
    items = task.size or task.batch  # seconds of a sound, labels, or clips and texts
    median = statistics.median(calls)
    return {
        "x": x,
        "median_ms": median,
        "spread_ms": list(spread(repeats)),
        "per_item_ms": median / items,
        "items_per_second": 1000 * items / median,
        "calls": len(calls),
    }
