"""Each stage on its own, and what the stages make of a whole path."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, details, grid, header, join, paragraph, table
from claprt_bench.report.measured import HEAD, batch_of, gaps, measurements, median, row
from claprt_bench.report.rows import Stack, stacks
from claprt_bench.report.series import engine, listed, threads
from claprt_bench.report.sheet import Sheet, arrow

# What a path is made of, in order. Without those in brackets a path has nothing to be compared with.
_PARTS = {
    "file": (("decode", True), ("resample", False), ("log-mel", True), ("audio-tower", True)),
    "text": (("tokenizer", True), ("text-tower", True)),
}


def stages(document: Record, sheet: Sheet) -> Html:
    """Each stage on its own, and what the stages make of a whole path."""
    found = measurements(document, "stage")
    if not found:
        return EMPTY
    plots: list[Html] = []
    for step in _PARTS:
        paths = [record for record in measurements(document, "path") if record.text("step") == step]
        rows = [(batch_of(path), stack) for path in paths if (stack := _stack(path, found)) is not None]
        plots += [
            _stacks([stack for each, stack in rows if each == batch], arrow(paths[0].text("what")), batch, sheet)
            for batch in sorted({batch for batch, _ in rows})
        ]
    listing = table(
        "Each stage on its own",
        ("stage", "engine", *HEAD),
        [(arrow(r.text("what") or r.text("step")), engine(r) if r.text("precision") else "", *row(r)) for r in found],
        left=(1,),
    )
    lead = paragraph(
        "Stages were measured alone, whole paths as a whole: where the bars end before the line, the path takes more "
        "than its stages; where they end behind it, stages overlap or share work."
        if plots
        else "",
    )
    return join([sheet.doubt(), lead, grid(plots), listing, gaps(found)])


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
    return Stack(listed(engine(path), threads(path)), parts, each, figures.duration(each))


def _same(stage: Record, path: Record) -> bool:
    """Whether a stage ran as the path's did, as far as both say; which engine matters to towers only."""
    step = stage.text("step") or ""
    fields = ("precision", "backend") if step.endswith("-tower") else ("log_mel",) if step == "log-mel" else ()
    both = [(stage.text(field), path.text(field)) for field in fields]
    return batch_of(stage) == batch_of(path) and all(a is None or b is None or a == b for a, b in both)


def _stacks(rows: Sequence[Stack], what: str, batch: int, sheet: Sheet) -> Html:
    title = f"{what} by stages" + (f", batch {batch}, per item" if batch > 1 else "")
    names = list(dict.fromkeys(name for stack in rows for name, _ in stack.parts))
    values = [
        (
            stack.name,
            *(figures.number(dict(stack.parts).get(name)) for name in names),
            figures.number(sum(value for _, value in stack.parts)),
            figures.number(stack.whole),
        )
        for stack in rows
    ]
    head = ("engine", *(header(name, "ms") for name in (*names, "sum", "whole path")))
    said = "; ".join(
        f"{stack.name}: {stack.written}, stages {figures.duration(sum(v for _, v in stack.parts))}" for stack in rows
    )
    data = details("Data", table(title, head, values))
    return sheet.plot(title, said, data, lambda: stacks(rows, "ms per item" if batch > 1 else "ms"))
