"""Speed where it is not one call after the other: from a cold start, under load, and as the work grows."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.figures import UNKNOWN
from claprt_bench.report.curves import PERCENTILES, Curve, Distribution, curves, distribution
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, details, grid, header, join, paragraph, table
from claprt_bench.report.rows import Row, strips
from claprt_bench.report.series import STYLES, chunks, engine, look, plural, threads
from claprt_bench.report.sheet import Sheet, arrow

# For each axis of scaling: what is on x, which field is on y, its name, whether x is logarithmic.
_AXES = {
    "batch": ("batch, items in a call", "per_item_ms", "ms per item", True),
    "threads": ("threads", "median_ms", "ms per call", False),
    "clip_seconds": ("length of the sound in s", "median_ms", "ms per sound", True),
    "labels": ("labels", "median_ms", "ms per call", True),
}
_TITLES = {"clip_seconds": "length of the sound", "labels": "number of labels"}


def cold_start(document: Record, sheet: Sheet) -> Html:
    """From the start of a process to its first vector."""
    found = document.records("cold_start")
    if not found:
        return EMPTY
    rows, cells = [], []
    for record in found:
        name = ", ".join(part for part in (arrow(record.text("what")), engine(record), threads(record)) if part)
        value, samples = record.number("median_ms", 0), record.samples()
        low, high = record.span("spread_ms")
        memory = record.number("peak_host_bytes", 0)
        cells.append(
            (
                name,
                figures.duration(value),
                figures.between(figures.duration(low), figures.duration(high)),
                figures.size(memory),
                figures.count(len(samples)),
            )
        )
        if value is not None:
            short = f"{engine(record)}: {arrow(record.text('what')).rpartition('first ')[2]}"
            rows.append(
                Row(
                    short,
                    value / 1000,
                    figures.duration(value),
                    sheet.looks.of(look(record)),
                    None,
                    None,
                    [s / 1000 for s in samples],
                )
            )
    lead = paragraph(
        "Fresh processes, in turn, with the files in the system's cache: from the start of Python to the first vector. "
        "Each dot is a process, the line their median; memory is the most that a process held."
    )
    head = ("from process start", "median", "lowest to highest", "peak memory", "starts")
    said = "; ".join(f"{row.name} {row.written}" for row in rows)
    plots = [sheet.plot("Cold start", said, EMPTY, lambda: strips(rows, "s"))] if rows else []
    return join([sheet.doubt(), lead, grid(plots), table("Cold start", head, cells)])


def open_loop(document: Record, sheet: Sheet) -> Html:
    """Requests at a rate of their own, whether the last one is done or not."""
    found = document.records("open_loop")
    if not found:
        return EMPTY
    groups: dict[str, list[Record]] = {}
    for record in found:
        name = ", ".join(part for part in (arrow(record.text("what")), engine(record), threads(record)) if part)
        groups.setdefault(name, []).append(record)
    parts = [
        paragraph(
            "Requests come at a given rate, whether the last one is done or not, as users send them. Latency counts "
            "from when a request was due, so that waiting in line counts; service time counts from when it was begun. "
            "A rate is saturated when requests come faster than they are done: the line grows for as long as it lasts, "
            "and so do the latencies."
        )
    ]
    plots = []
    for name, group in groups.items():
        records = sorted(group, key=lambda record: record.number("rate", 0) or 0.0)
        plots.append(_load(name, records, sheet) if len(records) > 1 else _one_rate(name, records[0], sheet))
    return join([sheet.doubt(), *parts, grid([plot for plot in plots if plot]), _rates(groups)])


def _load(name: str, records: Sequence[Record], sheet: Sheet) -> Html:
    shown = (
        ("latency", "p50_ms", "latency, p50"),
        ("latency", "p99_ms", "latency, p99"),
        ("service", "p99_ms", "service, p99"),
    )
    lines = []
    for (which, key, title), style in zip(shown, STYLES, strict=False):
        points = [(record.number("rate", 0), record.record(which).number(key, 0), record) for record in records]
        known = [(x, y, bool(record.flag("saturated"))) for x, y, record in points if x is not None and y is not None]
        if known:
            x, y, bad = zip(*known, strict=True)
            lines.append(Curve(title, style, x, y, crossed=bad if which == "latency" else ()))
    if not lines:
        return EMPTY
    saturated = [record.number("rate", 0) or 0.0 for record in records if record.flag("saturated")]
    said = f"Saturated from {figures.number(min(saturated))} requests/s on." if saturated else "Saturated at no rate."
    data = EMPTY  # the table under the plots has it
    return sheet.plot(
        f"{name}: latency against rate", said, data, lambda: curves(lines, "requests/s", "ms", False, "saturated")
    )


def _one_rate(name: str, record: Record, sheet: Sheet) -> Html:
    samples, latency = record.samples(), record.record("latency")
    if not samples:
        return EMPTY
    known = {p: value for p in PERCENTILES if (value := latency.number(f"{p}_ms", 0)) is not None}
    title = f"{name} at {figures.number(record.number('rate', 0))} requests/s"
    line = Distribution("latency", STYLES[0], samples, known)
    said = ", ".join(f"{p} {figures.duration(value)}" for p, value in known.items())
    return sheet.plot(title, said, EMPTY, lambda: distribution([line], "latency in ms, from when it was due"))


def _rates(groups: dict[str, list[Record]]) -> Html:
    head = (
        "path and engine",
        header("rate", "/s"),
        header("achieved", "/s"),
        "saturated",
        *(header(f"latency {p}", "ms") for p in PERCENTILES),
        header("latency, highest", "ms"),
        header("service p50", "ms"),
        header("service p99", "ms"),
        "requests",
        "arrivals",
    )
    rows = []
    for name, group in groups.items():
        for record in sorted(group, key=lambda record: record.number("rate", 0) or 0.0):
            latency, service = record.record("latency"), record.record("service")
            rows.append(
                (
                    name,
                    figures.number(record.number("rate", 0)),
                    figures.number(record.number("achieved_rate", 0)),
                    {True: "⚠ yes", False: "no", None: UNKNOWN}[record.flag("saturated")],
                    *(figures.number(latency.number(f"{p}_ms", 0)) for p in PERCENTILES),
                    figures.number(latency.number("maximum_ms", 0)),
                    figures.number(service.number("p50_ms", 0)),
                    figures.number(service.number("p99_ms", 0)),
                    figures.count(record.number("requests", 0)),
                    record.text("arrivals") or UNKNOWN,
                )
            )
    return table("Latency under load", head, rows, left=(len(head) - 1,))


def scaling(document: Record, sheet: Sheet) -> Html:
    """How cost grows with batch, threads, length and labels."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in document.records("scaling"):
        if record.records("points"):
            groups.setdefault((record.text("axis") or "x", arrow(record.text("what"))), []).append(record)
    order = [*_AXES, *dict.fromkeys(axis for axis, _ in groups if axis not in _AXES)]
    plots = [
        plot
        for axis, what in sorted(groups, key=lambda key: order.index(key[0]))
        for chunk in chunks(groups[axis, what])
        if (plot := _growth(axis, what, chunk, sheet))
    ]
    if not plots:
        return EMPTY
    lead = paragraph("Medians; the band reaches from the lowest to the highest median of a repeat.")
    return join([sheet.doubt(), lead, grid(plots)])


def _growth(axis: str, what: str, records: Sequence[Record], sheet: Sheet) -> Html:
    x_label, key, y_label, log_x = _AXES.get(axis, (axis.replace("_", " "), "median_ms", "ms per call", False))
    lines, cells = [], []
    for record in records:
        points = sorted(record.records("points"), key=lambda point: point.number("x") or 0.0)
        known: list[tuple[float, float, float, float]] = []
        for point in points:
            x, y, whole = point.number("x", 0), point.number(key, 0), point.number("median_ms", 0)
            low, high = point.span("spread_ms")
            cells.append(
                (
                    engine(record),
                    figures.count(x) if x is None or x == int(x) else figures.number(x),
                    figures.number(whole),
                    figures.between(figures.number(low), figures.number(high)),
                    figures.number(point.number("per_item_ms", 0)),
                    figures.number(point.number("items_per_second", 0)),
                    figures.count(point.number("calls", 0)),
                )
            )
            if x is not None and y is not None:
                each = y / whole if whole else 1.0
                known.append((x, y, y if low is None else low * each, y if high is None else high * each))
        if known:
            x_, y_, low_, high_ = zip(*known, strict=True)
            lines.append(Curve(engine(record), sheet.looks.of(look(record)), x_, y_, low_, high_))
    if not lines:
        return EMPTY
    log_x = log_x and all(value > 0 for line in lines for value in line.x)
    in_ms = (header(name, "ms") for name in ("median", "spread", "per item"))
    head = ("engine", axis.replace("_", " "), *in_ms, "items/s", "calls")
    title = f"{what}, by {_TITLES.get(axis, axis.replace('_', ' '))}"
    said = "; ".join(
        f"{line.name}: {figures.duration(line.y[0])} at {figures.number(line.x[0])}, {figures.duration(line.y[-1])} at "
        f"{figures.number(line.x[-1])}"
        for line in lines
    )
    data = details(f"Data, {plural(len(cells), 'point')}", table(title, head, cells))
    return sheet.plot(title, said, data, lambda: curves(lines, x_label, y_label, log_x))
