"""Speed where it is not one call after the other: from a cold start, under load, and as the work grows."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.figures import UNKNOWN
from claprt_bench.report.curves import PERCENTILES, Curve, Distribution, curves, distribution
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, grid, header, join, paragraph, table
from claprt_bench.report.rows import Row, strips
from claprt_bench.report.series import STYLES, engine, listed, look, threads
from claprt_bench.report.sheet import Sheet, arrow


def cold_start(document: Record, sheet: Sheet) -> Html:
    """From the start of a process to its first vector."""
    found = document.records("cold_start")
    if not found:
        return EMPTY
    medians = [value for record in found if (value := record.number("median_ms", 0)) is not None]
    unit, scale = ("s", 1000.0) if max(medians, default=0.0) >= 1000 else ("ms", 1.0)
    rows, cells = [], []
    for record in found:
        what, value, samples = arrow(record.text("what")), record.number("median_ms", 0), record.samples()
        spread = figures.between(*(figures.duration(end) for end in record.span("spread_ms")))
        memory = figures.size(record.number("peak_host_bytes", 0))
        name = listed(engine(record), threads(record))
        cells.append((name, what, figures.duration(value), spread, memory, figures.count(len(samples))))
        if value is not None:
            style = sheet.looks.of(look(record))
            name = f"{engine(record)}, {what.rpartition('first ')[2]}"
            shown = [sample / scale for sample in samples]
            rows.append(Row(name, value / scale, figures.duration(value), style, samples=shown))
    lead = paragraph(
        "Fresh processes, in turn, with the files in the system's cache: from the start of Python to the first vector. "
        "Each dot is a process, the line their median; memory is the most that a process held."
    )
    head = ("engine", "what", "median", "lowest to highest", "peak memory", "starts")
    said = "; ".join(f"{row.name}: {row.written}" for row in rows)
    plots = [sheet.plot("Process start to first vector", said, EMPTY, lambda: strips(rows, unit))] if rows else []
    return join([sheet.doubt(), lead, grid(plots), table("Cold starts", head, cells, left=(1,))])


def open_loop(document: Record, sheet: Sheet) -> Html:
    """Requests at a rate of their own, whether the last one is done or not."""
    found = document.records("open_loop")
    if not found:
        return EMPTY
    groups: dict[str, list[Record]] = {}
    for record in found:
        name = listed(arrow(record.text("what")), engine(record), threads(record))
        groups.setdefault(name, []).append(record)
    lead = paragraph(
        "Requests come at a given rate, whether the last one is done or not, as users send them. Latency counts "
        "from when a request was due, so that waiting in line counts; service time counts from when it was begun. "
        "A rate is saturated when requests come faster than they are done: the line grows for as long as it lasts, "
        "and so do the latencies."
    )
    plots, tables = [], []
    for name, group in groups.items():
        records = sorted(group, key=lambda record: record.number("rate", 0) or 0.0)
        plots.append(_load(name, records, sheet) if len(records) > 1 else _one_rate(name, records[0], sheet))
        tables.append(_rates(name, records))
    return join([sheet.doubt(), lead, grid([plot for plot in plots if plot]), *tables])


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
    return sheet.plot(
        f"{name}: latency against rate", said, EMPTY, lambda: curves(lines, "requests/s", "ms", False, "saturated")
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


def _rates(name: str, records: Sequence[Record]) -> Html:
    of_latency = (header(f"latency {p}", "ms") for p in (*PERCENTILES, "highest"))
    of_service = (header(f"service {p}", "ms") for p in ("p50", "p99"))
    head = (header("rate", "/s"), header("achieved", "/s"), "saturated", *of_latency, *of_service)
    rows = []
    for record in records:
        latency, service = record.record("latency"), record.record("service")
        rows.append(
            (
                figures.number(record.number("rate", 0)),
                figures.number(record.number("achieved_rate", 0)),
                {True: "⚠ yes", False: "no", None: UNKNOWN}[record.flag("saturated")],
                *(figures.number(latency.number(f"{p}_ms", 0)) for p in (*PERCENTILES, "maximum")),
                *(figures.number(service.number(f"{p}_ms", 0)) for p in ("p50", "p99")),
                figures.count(record.number("requests", 0)),
                record.text("arrivals") or UNKNOWN,
            )
        )
    return table(f"{name}: under load", (*head, "requests", "arrivals"), rows)
