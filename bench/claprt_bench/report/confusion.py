"""The confusion matrix as a shaded table: its counts are text, never smaller than the rest."""

from __future__ import annotations

from claprt_bench import figures
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, element, join, paragraph, table
from claprt_bench.report.series import plural

_MOST_CLASSES, _MOST_PAIRS = 20, 20


def confusion_matrix(record: Record, name: str) -> Html:
    """All counts up to 20 classes, above that the most frequent confusions.

    Args:
        record: with `labels` and `counts`; rows are true classes, columns predicted ones.
        name: of the variant.
    """
    labels = record.texts("labels")
    if not labels:
        return EMPTY
    counts = record.counts("counts", len(labels))
    return _matrix(labels, counts, name) if len(labels) <= _MOST_CLASSES else _pairs(labels, counts, name)


def _matrix(labels: list[str], counts: list[list[int]], name: str) -> Html:
    rows = []
    for true, row in enumerate(counts):
        total = sum(row) or 1
        cells = [
            element(
                "td",
                figures.count(value) if value else "·",
                style=f"--share: {value / total:.3f}",
                class_="right" if true == predicted else None,
            )
            for predicted, value in enumerate(row)
        ]
        rows.append(element("tr", element("th", labels[true], scope="row", class_="words"), *cells))
    caption = f"Confusion matrix, {name}: true class in rows, predicted class in columns"
    heads = (element("th", element("span", label), scope="col") for label in labels)
    matrix = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", element("td", "true ↓ predicted →", class_="corner words"), *heads)),
        element("tbody", *rows),
        class_="confusion",
    )
    right = sum(counts[i][i] for i in range(len(labels)))
    items = plural(sum(map(sum, counts)), "item")
    said = f"{figures.count(right)} of {items} are on the diagonal. Shading is the share of a row."
    frame = element("div", matrix, class_="scroll", role="region", aria_label=caption, tabindex="0")
    return join([frame, paragraph(said, class_="note")])


def _pairs(labels: list[str], counts: list[list[int]], name: str) -> Html:
    wrong = [
        (value, true, predicted)
        for true, row in enumerate(counts)
        for predicted, value in enumerate(row)
        if value and true != predicted
    ]
    wrong.sort(key=lambda each: (-each[0], each[1], each[2]))
    if not wrong:
        return paragraph(f"No item of {len(labels)} classes was taken for one of another class.")
    rows = [
        (labels[true], labels[predicted], figures.count(value), figures.percent(value / sum(counts[true])))
        for value, true, predicted in wrong[:_MOST_PAIRS]
    ]
    caption = f"Most frequent confusions, {name}: {len(rows)} of {plural(len(wrong), 'pair')}"
    return table(caption, ("true class", "taken for", "items", "of the class"), rows, left=(1,))
