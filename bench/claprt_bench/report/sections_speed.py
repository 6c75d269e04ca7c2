"""Speed in a closed loop: whole paths, and how their calls are spread."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.figures import UNKNOWN
from claprt_bench.report.curves import PERCENTILES, Distribution, distribution
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, details, grid, header, join, paragraph, table
from claprt_bench.report.measured import HEAD, batch_of, by_what, gaps, measurements, row
from claprt_bench.report.series import chunks, engine, listed, look, plural, threads
from claprt_bench.report.sheet import Sheet

_SHARES = (0, 10, 25, 50, 75, 90, 95, 99, 100)


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
        table(_caption(what, group), ("engine", *HEAD), [(engine(record), *row(record)) for record in group])
        for what, group in by_what(paths)
    ]
    return join([sheet.doubt(), lead, *tables, gaps(paths)])


def distributions(document: Record, sheet: Sheet) -> Html:
    """How the calls of each path are spread."""
    first: list[Html] = []
    others: list[Html] = []
    for what, group in by_what(measurements(document, "path")):
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


def _distribution(what: str, batch: int, records: Sequence[Record], sheet: Sheet) -> Html:
    import numpy as np

    several = len({record.number("threads") for record in records}) > 1
    lines = []
    for record in records:
        workers = threads(record) if several else None
        style = sheet.looks.of(listed(look(record), workers))
        summary = record.record("summary")
        known = {p: value for p in PERCENTILES if (value := summary.number(f"{p}_ms", 0)) is not None}
        lines.append(Distribution(listed(engine(record), workers), style, record.samples(), known))
    title = f"{what}, batch {batch}"
    shares = [np.percentile(line.samples, _SHARES).tolist() for line in lines]
    shares = [np.percentile(line.samples, _SHARES).tolist() for line in lines]
    head = ("% of calls", *(header(line.name, f"{plural(len(line.samples), 'call')}, ms") for line in lines))
    rows = [
        (
            f"{share} %",
            *(
                UNKNOWN if f"p{share}" in PERCENTILES and f"p{share}" not in line.percentiles else figures.number(value)
                for line, value in zip(lines, values, strict=True)
            ),
        )
        for share, *values in zip(_SHARES, *shares, strict=True)
    ]
    said = "; ".join(
        f"{line.name}: " + ", ".join(f"{name} {figures.duration(value)}" for name, value in line.percentiles.items())
        for line in lines
    )
    data = details("Data", table(f"{title}: so many calls took at most", head, rows))
    return sheet.plot(title, said, data, lambda: distribution(lines))


def _caption(what: str, records: Sequence[Record]) -> str:
    seconds = {record.number("audio_seconds", 0) for record in records}
    same = seconds.pop() if len(seconds) == 1 else None
    return what if same is None else f"{what}, clips of {same:g} s"
