"""How cost grows with batch, threads, length and labels."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.report.curves import Curve, curves
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, details, grid, header, join, paragraph, table
from claprt_bench.report.series import chunks, engine, look, plural
from claprt_bench.report.sheet import Sheet, arrow

# For each axis of scaling: what is on x, which field is on y, its name, whether x is logarithmic.
_AXES = {
    "batch": ("batch, items in a call", "per_item_ms", "ms per item", True),
    "threads": ("threads", "median_ms", "ms per call", False),
    "clip_seconds": ("length of the sound in s", "median_ms", "ms per sound", True),
    "labels": ("labels", "median_ms", "ms per call", True),
}
_TITLES = {"clip_seconds": "length of the sound", "labels": "number of labels"}


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
