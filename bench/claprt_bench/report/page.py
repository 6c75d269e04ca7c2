"""The page: summary, a chapter for each document, how to read it. One file that needs nothing else."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path

from claprt.errors import OptionError
from claprt_bench.document import EVALUATION, SPEED, write_whole
from claprt_bench.errors import ResultError
from claprt_bench.report import (
    sections_against,
    sections_common,
    sections_evaluation,
    sections_load,
    sections_scaling,
    sections_speed,
    sections_stages,
)
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, details, element, facts, join, paragraph
from claprt_bench.report.series import Looks, look
from claprt_bench.report.sheet import Section, Sheet
from claprt_bench.report.summary import chapter_title, side_by_side, summary
from claprt_bench.report.svg import Canvas

_FIRST = (
    Section("Where and how", sections_common.circumstances),
    Section("Checks", sections_common.checks),
)
_LAST = (Section("Left out", sections_common.left_out),)
_SECTIONS = {
    SPEED: (
        *_FIRST,
        Section("Whole paths", sections_speed.whole_paths),
        Section("Latency distributions", sections_speed.distributions),
        Section("Stages", sections_stages.stages),
        Section("Cold start", sections_load.cold_start),
        Section("Open loop", sections_load.open_loop),
        Section("Scaling", sections_scaling.scaling),
        Section("Against other libraries", sections_against.against),
        *_LAST,
    ),
    EVALUATION: (
        *_FIRST,
        Section("Metrics", sections_evaluation.metrics),
        Section("Variants in pairs", sections_evaluation.comparisons),
        Section("Confusion", sections_evaluation.confusion),
        Section("Per class", sections_evaluation.per_class),
        Section("Per fold", sections_evaluation.per_fold),
        *_LAST,
    ),
}

_TERMS = (
    ("p50, p90, p95, p99", "Half of the calls took at most p50, 99 of 100 at most p99. p50 is the median."),
    (
        "spread, p50 of repeats",
        "Measurements are repeated in blocks, in turn with the others; the spread is the lowest and the highest median "
        "of a block. Two results whose spreads overlap need not differ.",
    ),
    ("closed loop", "The next call begins when the last one is done: how long a call takes by itself."),
    (
        "open loop",
        "Requests come at their own rate. Latency counts from when a request was due, so a slow call makes those "
        "behind it slow too, as it does for users. A closed loop hides that (coordinated omission).",
    ),
    ("interval", "What is between its ends is compatible with the data, at the confidence that is named."),
    ("items/s, real time", "Items for each second of computing; seconds of sound for each second of computing."),
    ("CPU per item", "Processor time of all threads together."),
    ("first call", "The first call in a process: loading and preparing are part of it. Not among the warm calls."),
    ("memory", "The most that the process held. 1 MB is 1,000,000 bytes."),
    ("worst cosine", "Between our vectors and the other side's on the same inputs; 1 is the same direction."),
    ("–", "Not measured, or not known."),
)


def write_report(documents: Sequence[Mapping[str, object]], path: Path, names: Sequence[str] = ()) -> None:
    """Write results as one HTML page. The same results make the same file; it appears whole or not at all.

    Args:
        documents: of `claprt bench` and `claprt eval`, from any machines and bundles.
        path: of the page.
        names: what errors call the documents; none for numbers.

    Raises:
        ResultError: a document is of another kind, or a field in it has a wrong type or value.
        OptionError: there is no document, or the page cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    write_whole(path, render(documents, names).encode())


def render(documents: Sequence[Mapping[str, object]], names: Sequence[str] = ()) -> str:
    """The page as text; raises what `write_report` raises, but for writing."""
    if not documents:
        raise OptionError(
            "a report needs results: none were given; name JSON files that claprt bench or claprt eval wrote"
        )
    names = names or [f"result {i}" for i in range(1, len(documents) + 1)]
    records = [_record(document, name) for document, name in zip(documents, names, strict=True)]
    records.sort(key=lambda record: record.text("kind") != SPEED)  # what they are called in errors stays
    canvas, several = Canvas(), len(records) > 1
    titled = [(f"{i}. {chapter_title(r)}" if several else chapter_title(r), r) for i, r in enumerate(records, 1)]
    chapters = [
        _chapter(record, title if several else None, f"result-{i}", canvas)
        for i, (title, record) in enumerate(titled, 1)
    ]
    first = element(
        "section",
        element("h2", "Summary"),
        side_by_side(records),
        *(join([element("h3", title) if several else EMPTY, summary(record)]) for title, record in titled),
        id="summary",
    )
    reading = element("section", element("h2", "How to read this"), facts(_TERMS), id="reading", class_="reading")
    title = f"claprt: {len(records)} results" if several else titled[0][0]
    links = [
        ("summary", "Summary"),
        *(link for _, found in chapters for link in found),
        ("reading", "How to read this"),
    ]
    body = element(
        "body",
        element("header", element("h1", title), _contents(links)),
        element("main", first, *(chapter for chapter, _ in chapters), reading),
    )
    style = importlib.resources.files("claprt_bench.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _record(document: Mapping[str, object], name: str) -> Record:
    kind = document.get("kind")
    if kind not in (SPEED, EVALUATION):
        raise ResultError(f"a result of another kind: {name}: {kind!r}; a report takes {SPEED} and {EVALUATION}")
    return Record(document, f"{name} ({kind})")


def _chapter(record: Record, title: str | None, name: str, canvas: Canvas) -> tuple[Html, list[tuple[str, str]]]:
    """A document's chapter, and the links to it and into it."""
    kind = record.text("kind") or ""
    engines = [
        look(item) for key in ("measurements", "variants") for item in record.records(key) if item.text("precision")
    ]
    sheet = Sheet(canvas, Looks(engines), sections_common.noisy(record))
    # The title and the doubts of one document alone stand right above, over the page and in the summary.
    box, title = (sections_common.doubt_box(record), title) if title else (EMPTY, "All results")
    links, parts = [(name, title)], []
    for section in _SECTIONS[kind]:
        content = section.build(record, sheet)
        if content:
            place = f"{name}-{section.title.lower().replace(' ', '-')}"
            links.append((place, section.title))
            parts.append(element("section", element("h3", section.title), content, id=place))
    if len(parts) <= 1:
        parts.append(paragraph("This result has no measurements."))
    return element("section", element("h2", title), box, *parts, id=name, class_="chapter"), links


def _contents(links: Sequence[tuple[str, str]]) -> Html:
    entries = (element("li", element("a", title, href=f"#{place}")) for place, title in links)
    return element("nav", details("Contents", element("ul", *entries)), aria_label="Contents")
