"""How useful: metrics with intervals, variants against each other, what is confused with what."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.report.confusion import confusion_matrix
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, bullets, details, element, grid, join, paragraph, table
from claprt_bench.report.rows import Row, intervals
from claprt_bench.report.series import engine, look, named, plural
from claprt_bench.report.sheet import Sheet, emphasis

_NAMES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "map": "mAP",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
}
_DIRECTIONS = {"audio_to_text_": "audio → text, ", "text_to_audio_": "text → audio, "}
_MOST_CLASSES = 20  # of a table that is not folded away


def metric_name(key: str) -> str:
    """A metric as people write it: "text → audio, R@5"."""
    for prefix, direction in _DIRECTIONS.items():
        if key.startswith(prefix):
            rest = key.removeprefix(prefix)
            return direction + (f"mAP@{rest[3:]}" if rest.startswith("map") else f"R@{rest[1:]}")
    return _NAMES.get(key, key.replace("_", " "))


def metric_keys(document: Record) -> list[str]:
    """Metrics of any variant, in the order in which they come."""
    return list(
        dict.fromkeys(key for variant in document.records("variants") for key in variant.record("metrics").free())
    )


def metric(variant: Record, key: str) -> str:
    """A metric and its interval: "96.0 % (93.6 to 98.0)"."""
    found = variant.record("metrics").record(key)
    value = figures.percent(found.share("value"))
    span = figures.between(*(figures.percent(found.share(end), sign=False) for end in ("low", "high")))
    return value if span == figures.UNKNOWN else f"{value} ({span})"


def confidence(document: Record) -> float:
    """Of intervals, as a share; what is usual if the document does not say."""
    value = document.record("method").share("confidence")
    return 0.95 if value is None else value


def metrics(document: Record, sheet: Sheet) -> Html:
    """Every metric of every variant."""
    variants, keys = document.records("variants"), metric_keys(document)
    if not variants or not keys:
        return EMPTY
    lead = paragraph(
        f"Intervals are of {100 * confidence(document):.3g} %: how far another draw of as many items would move a "
        "figure. Two intervals that overlap do not show that variants are equal; the comparisons do."
    )
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(next((p for p in _DIRECTIONS if key.startswith(p)), ""), []).append(key)
    plots = [plot for group in groups.values() if (plot := _plot(variants, group, sheet))]
    head = ("variant", *map(metric_name, keys), "time to embed", "threads")
    rows = [
        (
            engine(variant),
            *(metric(variant, key) for key in keys),
            figures.duration(None if (took := variant.number("seconds", 0)) is None else 1000 * took),
            figures.count(variant.number("threads", 1)),
        )
        for variant in variants
    ]
    return join([lead, grid(plots), table("Metrics, with intervals", head, rows)])


def _plot(variants: Sequence[Record], keys: Sequence[str], sheet: Sheet) -> Html:
    rows = []
    for key in keys:
        for variant in variants:
            found = variant.record("metrics").record(key)
            value, low, high = (found.share(name) for name in ("value", "low", "high"))
            if value is not None:
                low, high = (None if end is None else 100 * end for end in (low, high))
                name = f"{metric_name(key)}, {variant.text('precision') or engine(variant)}"
                style = sheet.looks.of(look(variant))
                rows.append(Row(name, 100 * value, figures.percent(value), style, low, high))
    if not rows:
        return EMPTY
    direction = next((name.rstrip(", ") for prefix, name in _DIRECTIONS.items() if keys[0].startswith(prefix)), "")
    title = "Metrics per variant, with intervals" + (f": {direction}" if direction else "")
    said = "; ".join(f"{row.name} {row.written}" for row in rows)
    return sheet.plot(title, said, EMPTY, lambda: intervals(rows, "%", 100.0))


def comparisons(document: Record, sheet: Sheet) -> Html:
    """Variants in pairs, on the same items."""
    found = document.records("comparisons")
    if not found:
        return EMPTY
    lead = paragraph("Variants saw the same items, so items that only one of them got right decide.")
    listing = [_cells(record) for record in found]
    head = ("b against a", "metric", "only a right", "only b right", "b − a, points", "interval", "p (McNemar)")
    data = details("Data", table("Variants in pairs", head, listing, left=(1,)))
    return join([lead, bullets([in_words(record, confidence(document)) for record in found]), data])


def in_words(record: Record, level: float) -> Html:
    """A comparison as a statement with its numbers."""
    a, b, key = (named(record.text(name)) for name in ("a", "b", "metric"))
    only_a, only_b = record.number("only_a", 0), record.number("only_b", 0)
    p, difference = record.share("p_value"), record.record("difference")
    value, low, high = (difference.number(name, -1, 1) for name in ("value", "low", "high"))
    span = figures.between(figures.points(low), figures.points(high))
    apart = low is not None and high is not None and not low <= 0 <= high
    shown = apart if p is None else p < 1 - level
    if shown and value:
        verdict = f"{b} is {'better' if value > 0 else 'worse'}."
    else:
        verdict = "No difference was shown" + (
            "." if low is None or low >= 0 else f"; a loss of more than {figures.points(-low)[1:]} points is unlikely."
        )
    parts = [f"{b} against {a}, {metric_name(key)}: ", emphasis(verdict), f" Difference {figures.points(value)} points"]
    parts += [f" ({100 * level:.3g} % interval {span})"] if span != figures.UNKNOWN else []
    if only_a is not None and only_b is not None:
        parts.append(f"; {plural(only_a, 'item')} right with {a} only, {only_b:,.0f} with {b} only")
    return join([*parts, f"; exact McNemar test, p {figures.p_value(p)}." if p is not None else "."])


def _cells(record: Record) -> tuple[str, ...]:
    difference = record.record("difference")
    return (
        f"{named(record.text('b'))} against {named(record.text('a'))}",
        metric_name(named(record.text("metric"))),
        figures.count(record.number("only_a", 0)),
        figures.count(record.number("only_b", 0)),
        figures.points(difference.number("value", -1, 1)),
        figures.between(*(figures.points(difference.number(end, -1, 1)) for end in ("low", "high"))),
        figures.p_value(record.share("p_value")).removeprefix("= "),
    )


def confusion(document: Record, sheet: Sheet) -> Html:
    """What was taken for what, for each variant."""
    found = [
        (engine(variant), block)
        for variant in document.records("variants")
        if (block := confusion_matrix(variant.record("confusion"), engine(variant)))
    ]
    return _first_open(found)


def per_class(document: Record, sheet: Sheet) -> Html:
    """Each class by itself, for each variant."""
    head = ("class", "items", "recall", "precision", "average precision")
    found, longest = [], 0
    for variant in document.records("variants"):
        rows = [
            (
                named(record.text("label")),
                figures.count(record.number("items", 0)),
                *(figures.percent(record.share(key)) for key in ("recall", "precision", "average_precision")),
            )
            for record in variant.records("per_class")
        ]
        longest = max(longest, len(rows))
        if rows:
            found.append((engine(variant), table(f"Per class, {engine(variant)}", head, rows)))
    return _first_open(found, folded=longest > _MOST_CLASSES)


def per_fold(document: Record, sheet: Sheet) -> Html:
    """Accuracy of each fold of a probe, for each variant."""
    variants = [variant for variant in document.records("variants") if variant.records("per_fold")]
    folds: dict[str, dict[str, str]] = {}
    for variant in variants:
        for fold in variant.records("per_fold"):
            items = fold.number("items", 0)
            row = folds.setdefault(named(fold.text("fold")), {"items": figures.count(items)})
            row[engine(variant)] = figures.percent(fold.share("accuracy"))
    names = [engine(variant) for variant in variants]
    rows = [(fold, *(row.get(name, figures.UNKNOWN) for name in ("items", *names))) for fold, row in folds.items()]
    return table("Accuracy on each fold, trained on the others", ("fold", "items", *names), rows) if rows else EMPTY


def _first_open(found: Sequence[tuple[str, Html]], folded: bool = False) -> Html:
    """The first variant in full, the others to be unfolded."""
    return (
        element("div", *(details(name, block, open_=i == 0 and not folded) for i, (name, block) in enumerate(found)))
        if found
        else EMPTY
    )
