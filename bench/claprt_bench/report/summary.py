"""The few figures of a document that matter, and what they are worth, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from claprt_bench import figures
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, bullets, cards, header, join, paragraph, table
from claprt_bench.report.measured import STEPS, batch_of, measurements, median
from claprt_bench.report.sections_against import comparison
from claprt_bench.report.sections_common import doubt_box, noisy
from claprt_bench.report.sections_evaluation import confidence, in_words, metric, metric_keys, metric_name
from claprt_bench.report.series import engine, listed, named, plural, threads
from claprt_bench.report.sheet import arrow

Card = tuple[str, str, str]


def summary(document: Record) -> Html:
    """Sentences, the figures that matter, and the box with every doubt."""
    speed = document.text("kind") == "speed"
    said = _speed_in_words(document) if speed else _evaluation_in_words(document)
    shown = _speed_cards(document) if speed else _evaluation_cards(document)
    statements = [] if speed else _statements(document)
    return join([doubt_box(document), paragraph(said), cards(shown) if shown else "", bullets(statements)])


def side_by_side(documents: Sequence[Record]) -> Html:
    """The figures that matter of documents that are about the same, one column for each; nothing where none are."""
    groups: dict[tuple[str | None, ...], list[tuple[int, Record]]] = {}
    for number, document in enumerate(documents, 1):
        about = (document.text("kind"), document.text("task"), document.record("dataset").text("name"))
        groups.setdefault(about, []).append((number, document))
    return join(_columns(group) for group in groups.values() if len(group) > 1)


def _columns(group: Sequence[tuple[int, Record]]) -> Html:
    speed = group[0][1].text("kind") == "speed"
    found = [{what: figure for figure, what, _ in (_speed_cards if speed else _evaluation_cards)(d)} for _, d in group]
    whats = list(dict.fromkeys(what for cells in found for what in cells))
    if not whats:
        return EMPTY
    heads = [
        header(f"{number}. {_where(document)}", "⚠ noisy" if noisy(document) else "") for number, document in group
    ]
    rows = [(what, *(cells.get(what, figures.UNKNOWN) for cells in found)) for what in whats]
    return table("Speed, side by side" if speed else "Evaluations, side by side", ("figure", *heads), rows)


def _where(document: Record) -> str:
    """Which bundle, on what."""
    machine = document.record("machine")
    gpu = machine.record("gpu").text("name")
    on = named(machine.text("processor")) + (f" and {gpu}" if gpu else "")
    return f"{named(document.record('bundle').text('source'))} on {on}"


def chapter_title(document: Record) -> str:
    """What a document is about."""
    date = named(document.record("machine").text("date"))
    if document.text("kind") == "speed":
        return f"Speed of {_where(document)}, {date}"
    task, dataset = named(document.text("task")), named(document.record("dataset").text("name"))
    return f"{task[:1].upper()}{task[1:]} on {dataset} with {named(document.record('bundle').text('source'))}, {date}"


def _speed_in_words(document: Record) -> str:
    noise, checks = document.record("noise"), document.records("checks")
    passed = sum(check.flag("passed") is True for check in checks)
    said = [f"The bundle {_where(document)}."]
    if checks:
        said.append(f"{passed} of {plural(len(checks), 'check')} of values passed.")
    quiet = noise.flag("quiet")
    if noisy(document):
        said.append("The machine was not quiet.")
    else:
        said.append("The machine was quiet." if quiet else "Whether the machine was quiet is not known.")
    return " ".join(said)


def _speed_cards(document: Record) -> list[Card]:
    paths = [(record, value) for record in measurements(document, "path") if (value := median(record)) is not None]
    found: list[Card] = []
    for step in STEPS[:3]:
        mine = [(value, i, record) for i, (record, value) in enumerate(paths) if record.text("step") == step]
        if mine:
            smallest = min(batch_of(record) for _, _, record in mine)
            value, _, record = min(each for each in mine if batch_of(each[2]) == smallest)
            tail = record.record("summary").number("p99_ms", 0)
            more = [
                engine(record),
                threads(record),
                f"batch {smallest}",
                f"p99 {figures.duration(tail)}" if tail else "",
            ]
            found.append((figures.duration(value), f"{arrow(record.text('what'))}, fastest p50", listed(*more)))
    found += _best(paths, "items_per_second", "highest throughput", lambda value: figures.rate(value))
    found += _best(paths, "real_time_factor", "highest real-time factor", lambda value: f"{figures.number(value)}×")
    starts = [
        (v, i, r) for i, r in enumerate(document.records("cold_start")) if (v := r.number("median_ms", 0)) is not None
    ]
    if starts:
        value, _, record = min(starts)
        found.append(
            (figures.duration(value), "fastest cold start", listed(*[arrow(record.text("what")), engine(record)]))
        )
        memory = record.number("peak_host_bytes", 0)
        if memory is not None:
            found.append((figures.size(memory), "peak memory of that", listed(*[engine(record), threads(record)])))
    return found + _peer_cards(document)


def _best(paths: list[tuple[Record, float]], key: str, title: str, write: Callable[[float], str]) -> list[Card]:
    """The highest value among paths from sound."""
    sound = [record for record, _ in paths if record.text("step") in ("file", "waveform")]
    known = [(v, -i, r) for i, r in enumerate(sound) if (v := r.record("summary").number(key, 0)) is not None]
    if not known:
        return []
    value, _, record = max(known)
    return [(write(value), title, listed(*[arrow(record.text("what")), engine(record), f"batch {batch_of(record)}"]))]


def _peer_cards(document: Record) -> list[Card]:
    """One for each peer: samples before texts, small batches first, FP32 first."""
    steps = ("waveform", "file", "text")
    best: dict[str, tuple[tuple[int, float, bool, int], Record]] = {}
    for i, record in enumerate(document.records("against")):
        if record.number("ratio", 0) is not None:
            step = record.text("step")
            place = steps.index(step) if step in steps else len(steps)
            rank = (place, record.number("batch", 1) or 1.0, record.text("precision") != "fp32", i)
            peer = named(record.text("peer"))
            if peer not in best or rank < best[peer][0]:
                best[peer] = (rank, record)
    found = []
    for peer, (_, record) in best.items():
        low, high = record.span("ratio_spread")
        span = figures.between(figures.number(low), figures.number(high))
        ratio = record.number("ratio", 0) or 0.0
        more = [
            "slower" if ratio < 1 else "",
            comparison(record),
            "" if span == figures.UNKNOWN else f"95 % interval {span}",
        ]
        found.append((figures.ratio(ratio), f"speed against {peer}", listed(*more)))
    return found


def _evaluation_in_words(document: Record) -> str:
    dataset, machine = document.record("dataset"), document.record("machine")
    parts = [plural(items, "item") if (items := dataset.number("items", 0)) is not None else ""]
    parts += [f"{classes:,.0f} classes" if (classes := dataset.number("classes", 0)) is not None else ""]
    parts += [f"{captions:,.0f} captions" if (captions := dataset.number("captions", 0)) is not None else ""]
    skipped = len(dataset.records("skipped"))
    parts += [f"{skipped:,} skipped" if skipped else ""]
    return (
        f"The bundle {named(document.record('bundle').text('source'))}, {named(document.text('task'))} on "
        f"{named(dataset.text('name'))} ({listed(*parts)}), on {named(machine.text('processor'))}."
    )


def _evaluation_cards(document: Record) -> list[Card]:
    keys = metric_keys(document)
    if not keys:
        return []
    level = f"{100 * confidence(document):.3g} % interval"
    found = []
    for variant in document.records("variants"):
        value, _, span = metric(variant, keys[0]).partition(" (")
        found.append(
            (value, f"{metric_name(keys[0])}, {engine(variant)}", f"{level} {span.rstrip(')')}" if span else "")
        )
    return found


def _statements(document: Record) -> list[Html]:
    """Comparisons by the first metric, or all where none is by it."""
    records = document.records("comparisons")
    keys = metric_keys(document)
    chosen = [record for record in records if keys and record.text("metric") == keys[0]] or records
    return [in_words(record, confidence(document)) for record in chosen]
