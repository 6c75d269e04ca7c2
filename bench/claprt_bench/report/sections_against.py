"""Against other libraries, measured in the same run."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, bullets, details, grid, join, paragraph, table
from claprt_bench.report.rows import Row, ratios
from claprt_bench.report.sections_common import plain
from claprt_bench.report.series import STYLES, named
from claprt_bench.report.sheet import Sheet, arrow

_MOST_BARS = 12  # in one plot


def against(document: Record, sheet: Sheet) -> Html:
    """Ratios with their intervals, both sides' medians, and how far their vectors are apart."""
    found = document.records("against")
    if not found:
        return EMPTY
    plots = []
    for peer in dict.fromkeys(named(record.text("peer")) for record in found):
        rows = [row for record in found if named(record.text("peer")) == peer and (row := _row(record)) is not None]
        for start in range(0, len(rows), _MOST_BARS):
            part = rows[start : start + _MOST_BARS]
            said = "; ".join(f"{row.name}: {row.written}" for row in part)
            draw = functools.partial(ratios, part, "their time / our time", "equally fast")
            plots.append(sheet.plot(f"Times as fast as {peer}", said, EMPTY, draw))
    lead = paragraph(
        "Both sides took turns in one run, on the same inputs with the same threads; their vectors were compared "
        "first. A ratio is the other side's median over ours: above one, claprt is faster; hollow bars are slower. The "
        "interval (95 %, bootstrap over rounds) is drawn across the end of the bar; one that contains 1 shows no "
        "difference."
    )
    return join([sheet.doubt(), lead, grid(plots), _table(found), _notes(found), _versions(found)])


def comparison(record: Record) -> str:
    """What is compared: "waveform → vector, fp32, batch 1"."""
    batch = record.number("batch", 1)
    parts = (arrow(record.text("what")), record.text("precision"), None if batch is None else f"batch {batch:.0f}")
    return ", ".join(part for part in parts if part)


def _row(record: Record) -> Row | None:
    value = record.number("ratio", 0)
    if value is None:
        return None
    low, high = record.span("ratio_spread")
    return Row(comparison(record), value, figures.ratio(value), STYLES[0], low, high)


def _table(records: Sequence[Record]) -> Html:
    rows = []
    for record in records:
        ours, theirs = (_median(record, side) for side in ("ours", "theirs"))
        low, high = record.span("ratio_spread")
        accuracy = record.record("accuracy")
        rows.append(
            (
                comparison(record),
                named(record.text("peer")),
                figures.count(record.number("threads", 1)),
                _value(ours, record),
                _value(theirs, record),
                figures.ratio(record.number("ratio", 0)),
                figures.between(figures.number(low), figures.number(high)),
                figures.cosine(accuracy.number("worst_cosine")),
                figures.error(accuracy.number("max_abs", 0)),
                figures.count(len(record.numbers("ours", 0))),
            )
        )
    head = (
        "what",
        "against",
        "threads",
        "claprt",
        "other",
        "ratio",
        "interval",
        "worst cosine",
        "largest difference",
        "rounds",
    )
    return table("Against other libraries: medians, and how far the vectors are apart", head, rows, left=(1,))


def _median(record: Record, side: str) -> float | None:
    samples = record.numbers(side, 0)
    return statistics.median(samples) if samples else None


def _value(value: float | None, record: Record) -> str:
    unit = record.text("unit")
    if unit in (None, "ms"):
        return figures.duration(value)
    return f"{figures.number(value)} {unit}"


def _notes(records: Sequence[Record]) -> Html:
    notes: dict[str, list[str]] = {}
    for record in records:
        for note in record.texts("notes"):
            notes.setdefault(note, []).append(f"{named(record.text('peer'))}: {comparison(record)}")
    return bullets(
        [f"{note} ({'; '.join(where) if len(where) < 3 else f'{len(where)} rows'})" for note, where in notes.items()],
        class_="note",
    )


def _versions(records: Sequence[Record]) -> Html:
    versions = {
        named(record.text("peer")): ", ".join(
            f"{name} {plain(version)}" for name, version in record.record("peer_versions").free().items()
        )
        for record in records
    }
    rows = [(peer, found) for peer, found in versions.items() if found]
    return (
        details("Versions of the other side", table("Versions", ("against", "versions"), rows, left=(1,)))
        if rows
        else EMPTY
    )
