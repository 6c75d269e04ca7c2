"""Speed in a closed loop: whole paths, their distributions, and the stages that they are made of."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.figures import UNKNOWN
from claprt_bench.report.curves import PERCENTILES, Distribution, distribution
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, details, grid, header, join, paragraph, table
from claprt_bench.report.rows import Stack, stacks
from claprt_bench.report.series import chunks, engine, look, plural, threads
from claprt_bench.report.sheet import Sheet, arrow

STEPS = ("file", "waveform", "text", "decode", "resample", "log-mel", "audio-tower", "tokenizer", "text-tower")
# What a path is made of, in order. Without those in brackets a path has nothing to be compared with.
_PARTS = {
    "file": (("decode", True), ("resample", False), ("log-mel", True), ("audio-tower", True)),
    "text": (("tokenizer", True), ("text-tower", True)),
}
_SHARES = (0, 10, 25, 50, 75, 90, 95, 99, 100)
_HEAD = (
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


def whole_paths(document: Record, sheet: Sheet) -> Html:
    """From a file, samples or a text to a vector, call after call."""
    paths = measurements(document, "path")
    if not paths:
        return EMPTY
    lead = paragraph(
        "One call after the other, each with a batch of items. Times are those of a call; “p50 of repeats” is the "
        "lowest and the highest median of a repeat. Real time: seconds of sound for each second of computing."
    )
    tables = [
        table(_caption(what, group), ("engine", *_HEAD), [(engine(record), *_cells(record)) for record in group])
        for what, group in _by_what(paths)
    ]
    return join([sheet.doubt(), lead, *tables, _gaps(paths)])


def distributions(document: Record, sheet: Sheet) -> Html:
    """How the calls of each path are spread."""
    first: list[Html] = []
    others: list[Html] = []
    for what, group in _by_what(measurements(document, "path")):
        batches = sorted({batch_of(record) for record in group})
        for batch in batches:
            lines = [record for record in group if batch_of(record) == batch and record.samples()]
            for chunk in chunks(lines):
                (first if batch == batches[0] else others).append(_distribution(what, batch, chunk, sheet))
    if not first and not others:
        return EMPTY
    lead = paragraph(
        "For each latency the share of calls that took at most so long: steep is steady, a long tail to the right is "
        "what p99 is about."
    )
    folded = details("Larger batches", grid(others)) if others else EMPTY
    return join([sheet.doubt(), lead, grid(first), folded])


def stages(document: Record, sheet: Sheet) -> Html:
    """Each stage on its own, and what the stages make of a whole path."""
    found = measurements(document, "stage")
    if not found:
        return EMPTY
    plots: list[Html] = []
    for step in _PARTS:
        paths = [record for record in measurements(document, "path") if record.text("step") == step]
        rows = [(batch_of(path), row) for path in paths if (row := _stack(path, found)) is not None]
        plots += [
            _stacks([row for each, row in rows if each == batch], arrow(paths[0].text("what")), batch, sheet)
            for batch in sorted({batch for batch, _ in rows})
        ]
    listing = table(
        "Each stage on its own",
        ("stage", "engine", *_HEAD),
        [
            (arrow(r.text("what") or r.text("step")), engine(r) if r.text("precision") else "", *_cells(r))
            for r in found
        ],
        left=(1,),
    )
    lead = paragraph(
        "Stages were measured alone, whole paths as a whole: where the bars end before the line, the path takes more "
        "than its stages; where they end behind it, stages overlap or share work."
        if plots
        else "",
    )
    return join([sheet.doubt(), lead, grid(plots), listing, _gaps(found)])


def _stack(path: Record, found: Sequence[Record]) -> Stack | None:
    """A path's stages at its own batch and on its own engine; None where one was not measured."""
    whole, parts = median(path), []
    for step, needed in _PARTS[path.text("step") or ""]:
        fits = [stage for stage in found if stage.text("step") == step and _same(stage, path)]
        fits.sort(key=lambda stage: stage.number("threads") != path.number("threads"))
        value = median(fits[0]) if fits else None
        if value is None and needed:
            return None
        if value is not None:
            parts.append((step, value / batch_of(path)))
    if whole is None:
        return None
    each = whole / batch_of(path)
    name = ", ".join(part for part in (engine(path), threads(path)) if part)
    return Stack(f"{name}: {figures.duration(each)}", parts, each)


def _same(stage: Record, path: Record) -> bool:
    fields = ("precision", "backend", "log_mel")
    both = [(stage.text(field), path.text(field)) for field in fields]
    return batch_of(stage) == batch_of(path) and all(a is None or b is None or a == b for a, b in both)


def _stacks(rows: Sequence[Stack], what: str, batch: int, sheet: Sheet) -> Html:
    title = f"{what} by stages" + (f", batch {batch}, per item" if batch > 1 else "")
    names = list(dict.fromkeys(name for row in rows for name, _ in row.parts))
    values = [
        (
            row.name.rpartition(":")[0],
            *(figures.number(dict(row.parts).get(name)) for name in names),
            figures.number(sum(value for _, value in row.parts)),
            figures.number(row.whole),
        )
        for row in rows
    ]
    head = ("engine", *(header(name, "ms") for name in (*names, "sum", "whole path")))
    said = "; ".join(f"{row.name}, stages {figures.duration(sum(v for _, v in row.parts))}" for row in rows)
    data = details("Data", table(title, head, values))
    return sheet.plot(title, said, data, lambda: stacks(rows, "ms per item" if batch > 1 else "ms"))


def _distribution(what: str, batch: int, records: Sequence[Record], sheet: Sheet) -> Html:
    import numpy as np

    several = len({record.number("threads") for record in records}) > 1
    lines = []
    for record in records:
        name = ", ".join([engine(record), *([threads(record)] if several else [])])
        summary = record.record("summary")
        known = {p: value for p in PERCENTILES if (value := summary.number(f"{p}_ms", 0)) is not None}
        lines.append(
            Distribution(
                name,
                sheet.looks.of(f"{look(record)}, {threads(record)}" if several else look(record)),
                record.samples(),
                known,
            )
        )
    title = f"{what}, batch {batch}"
    head = ("engine", "calls", *(header(f"{share} %", "ms") for share in _SHARES))
    rows = [
        (
            line.name,
            figures.count(len(line.samples)),
            *map(figures.number, np.percentile(line.samples, _SHARES).tolist()),
        )
        for line in lines
    ]
    said = "; ".join(
        f"{line.name}: " + ", ".join(f"{name} {figures.duration(value)}" for name, value in line.percentiles.items())
        for line in lines
    )
    data = details("Data", table(f"{title}: so many % of the calls took at most", head, rows))
    return sheet.plot(title, said, data, lambda: distribution(lines))


def _cells(record: Record) -> list[str]:
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


def _gaps(records: Sequence[Record]) -> Html:
    """Why a percentile is missing."""
    missing = [p for p in PERCENTILES if any(record.record("summary").number(f"{p}_ms") is None for record in records)]
    if not missing:
        return EMPTY
    return paragraph(f"{UNKNOWN} under {' or '.join(missing)}: too few calls for that percentile.", class_="note")


def _by_what(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(arrow(record.text("what")), []).append(record)
    return list(groups.items())


def _caption(what: str, records: Sequence[Record]) -> str:
    seconds = {record.number("audio_seconds", 0) for record in records}
    same = seconds.pop() if len(seconds) == 1 else None
    return f"{what}, {plural(len(records), 'measurement')}" if same is None else f"{what}, clips of {same:g} s"


def _place(step: str | None) -> int:
    return STEPS.index(step) if step in STEPS else len(STEPS)
