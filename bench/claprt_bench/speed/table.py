"""A document of the kind "speed" as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from claprt_bench.figures import number, size
from claprt_bench.peers.figures import table as peers_table
from claprt_bench.rows import aligned

# Of each axis: what x is, and what the items are that come out.
_AXES = {
    "batch": ("at once", "item"),
    "threads": ("threads", "item"),
    "clip_seconds": ("seconds", "second"),
    "labels": ("labels", "label"),
}


def report(document: Mapping[str, Any]) -> str:
    """Where, how, the tables, and at the end what a reader must not overlook."""
    parts = [_heading(document)]
    paths = [one for one in document["measurements"] if one["group"] == "path"]
    stages = [one for one in document["measurements"] if one["group"] == "stage"]
    if paths:
        parts.append(_paths(paths))
    if stages:
        parts.append(_stages(stages))
    for key, table in (("cold_start", _starts), ("open_loop", _loops), ("against", peers_table)):
        if document[key]:
            parts.append(table(document[key]))
    parts += [_curve(curve) for curve in document["scaling"]]
    parts.append(_remarks(document))
    return "\n\n".join(part for part in parts if part)


def _heading(document: Mapping[str, Any]) -> str:
    machine, method, bundle = document["machine"], document["method"], document["bundle"]
    gpu = machine["gpu"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join(
        [
            f"{bundle['source']}, {bundle['embedding_dim']} dimensions, clips of {bundle['clip_seconds']:g} s",
            f"{machine['processor']}, {machine['usable_cores']} cores, {method['threads']} threads"
            + (f"; {gpu['name']}, driver {gpu['driver']}" if gpu else ""),
            f"{machine['system']}, Python {machine['python']}, {versions}; {machine['date']}",
            f"{method['inputs']}",
            f"{len(document['checks'])} checks of values passed before anything was timed",
        ]
    )


def _paths(measurements: Sequence[Mapping[str, Any]]) -> str:
    head = ("whole paths, ms a call", "", "batch", "p50", "p90", "p95", "p99", "spread")
    lines = [(*head, "items/s", "x real time", "CPU ms", "peak", "first call")]
    for one in measurements:
        found = one["summary"]
        lines.append(
            (
                one["what"],
                one["precision"],
                str(one["batch"]),
                *(number(found[f"p{percent}_ms"]) for percent in (50, 90, 95, 99)),
                _spread(found["spread_ms"]),
                number(found["items_per_second"]),
                number(found["real_time_factor"]),
                number(found["cpu_ms_per_item"]),
                size(one["peak_host_bytes"]),
                number(one["first_call_ms"]),
            )
        )
    notes = "spread: lowest to highest median of a repeat; CPU ms: processor time of an item, all threads"
    return f"{aligned(lines, left=(0, 1))}\n{notes}"


def _stages(measurements: Sequence[Mapping[str, Any]]) -> str:
    lines = [("stages, ms a call", "", "batch", "p50", "p95", "spread", "an item")]
    for one in measurements:
        found = one["summary"]
        name = "log-Mel on the GPU" if one["step"] == "log-mel" and one["log_mel"] == "cuda" else one["what"]
        lines.append(
            (
                name,
                one["precision"] or "",
                str(one["batch"]),
                number(found["p50_ms"]),
                number(found["p95_ms"]),
                _spread(found["spread_ms"]),
                number(found["median_ms"] / one["batch"]),
            )
        )
    return aligned(lines, left=(0, 1))


def _starts(starts: Sequence[Mapping[str, Any]]) -> str:
    lines = [("cold start, ms", "", "median", "spread", "peak")]
    lines += [
        (
            one["what"],
            one["precision"],
            number(one["median_ms"]),
            _spread(one["spread_ms"]),
            size(one["peak_host_bytes"]),
        )
        for one in starts
    ]
    return aligned(lines, left=(0, 1))


def _loops(loops: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        ("open loop, ms from when a request was due", "", "rate", "served", "p50", "p90", "p95", "p99", "worst", "")
    ]
    for one in loops:
        latency = one["latency"]
        lines.append(
            (
                one["what"],
                one["precision"],
                f"{one['rate']:g}/s",
                f"{one['achieved_rate']:.1f}/s",
                *(number(latency[f"p{percent}_ms"]) for percent in (50, 90, 95, 99)),
                number(latency["maximum_ms"]),
                "SATURATED" if one["saturated"] else "",
            )
        )
    return aligned(lines, left=(0, 1, 9))


def _curve(curve: Mapping[str, Any]) -> str:
    x, item = _AXES[curve["axis"]]
    lines = [(x, "ms", "spread", f"ms a {item}", f"{item}s/s")]
    lines += [
        (
            f"{point['x']:g}",
            number(point["median_ms"]),
            _spread(point["spread_ms"]),
            number(point["per_item_ms"]),
            number(point["items_per_second"]),
        )
        for point in curve["points"]
    ]
    return f"{curve['what']}, {curve['precision']}\n{aligned(lines, left=())}"


def _remarks(document: Mapping[str, Any]) -> str:
    lines = [f"not measured: {one['what']}: {one['why']}" for one in document["left_out"]]
    lines += [f"WARNING: {text}" for text in document["warnings"]]
    return "\n".join(lines)


def _spread(pair: Sequence[float]) -> str:
    return f"{number(pair[0])}-{number(pair[1])}"
