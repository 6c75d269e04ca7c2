"""What sections on measurements share: which there are, and a row of figures for each."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.figures import UNKNOWN
from claprt_bench.report.curves import PERCENTILES
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, header, paragraph
from claprt_bench.report.sheet import arrow

STEPS = ("file", "waveform", "text", "decode", "resample", "log-mel", "audio-tower", "tokenizer", "text-tower")
HEAD = (
    "batch",
    "threads",
    *(header(name, "ms") for name in PERCENTILES),
    header("p50 of repeats", "ms"),
    "items/s",
    header("real time", "×"),
    header("CPU per item", "ms"),
    "cores used",
    header("first call", "ms"),
    header("memory", "MB"),
    header("device memory", "MB"),
    "calls",
)


def measurements(document: Record, group: str) -> list[Record]:
    """Those of a group, "path" or "stage": by step, then as they come."""
    found = [record for record in document.records("measurements") if record.text("group") == group]
    return sorted(found, key=lambda record: _place(record.text("step")))


def median(record: Record) -> float | None:
    """The median of a measurement's calls in ms."""
    summary = record.record("summary")
    value = summary.number("p50_ms", 0)
    return summary.number("median_ms", 0) if value is None else value


def batch_of(record: Record) -> int:
    """Items in a call; one if it is not said."""
    return int(record.number("batch", 1) or 1)


def by_what(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Measurements in groups that measure the same thing."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(arrow(record.text("what")), []).append(record)
    return list(groups.items())


def row(record: Record) -> list[str]:
    """The cells under `HEAD`."""
    summary = record.record("summary")
    low, high = summary.span("spread_ms")
    memory = [record.number(key, 0) for key in ("peak_host_bytes", "peak_device_bytes")]
    return [
        str(batch_of(record)),
        figures.count(record.number("threads", 0)),
        *(figures.number(median(record) if p == "p50" else summary.number(f"{p}_ms", 0)) for p in PERCENTILES),
        figures.between(figures.number(low), figures.number(high)),
        figures.number(summary.number("items_per_second", 0)),
        figures.number(summary.number("real_time_factor", 0)),
        figures.number(summary.number("cpu_ms_per_item", 0)),
        figures.number(summary.number("cores_used", 0)),
        figures.number(record.number("first_call_ms", 0)),
        *(UNKNOWN if value is None else figures.number(value / 1e6) for value in memory),
        figures.count(summary.number("calls", 0)),
    ]


def gaps(records: Sequence[Record]) -> Html:
    """Why a percentile is missing."""
    missing = [p for p in PERCENTILES if any(record.record("summary").number(f"{p}_ms") is None for record in records)]
    if not missing:
        return EMPTY
    return paragraph(f"{', '.join(missing)}: {UNKNOWN}, or no column, where calls were too few for it.", class_="note")


def _place(step: str | None) -> int:
    return STEPS.index(step) if step in STEPS else len(STEPS)
