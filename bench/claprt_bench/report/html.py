"""HTML by small functions. Text is escaped unless it is `Html`, so that what comes from a file stays text.

The pages are well-formed XML too.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# Neither HTML nor XML may hold these: controls, halves of surrogate pairs, non-characters. And what turns the direction
# of the text around it would let a label change how a figure reads.
_UNFIT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)
_LONG = 25  # rows of a table that print may break
_SHORT = 32  # letters of a cell that is not broken where there is room
_VOID = frozenset({"br", "meta"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


EMPTY = Html("")


def clean(text: str) -> str:
    """Text that a page can hold: what it cannot hold becomes U+FFFD."""
    return _UNFIT.sub("\ufffd", text)


def escape(text: str) -> Html:
    """Text as HTML; HTML as it is."""
    return text if isinstance(text, Html) else Html(html.escape(clean(text)))


def join(parts: Iterable[str], between: str = "") -> Html:
    """Parts in a row."""
    return Html(escape(between).join(escape(part) for part in parts))


def element(name: str, /, *content: str, **attributes: str | int | None) -> Html:
    """One element. `class_` is the attribute class, `aria_label` is aria-label; one that is None is left out."""
    inside = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{inside}/>")
    return Html(f"<{name}{inside}>{join(content)}</{name}>")


def paragraph(*content: str, class_: str | None = None) -> Html:
    """A paragraph; nothing without content."""
    return element("p", *content, class_=class_) if any(content) else EMPTY


def bullets(items: Sequence[str], class_: str | None = None) -> Html:
    """A list; nothing without items."""
    return element("ul", *(element("li", item) for item in items), class_=class_) if items else EMPTY


def details(summary: str, *content: str, open_: bool = False) -> Html:
    """Content that is folded away until it is asked for. Print shows it."""
    return element("details", element("summary", summary), *content, open="open" if open_ else None)


def warning(title: str, items: Sequence[str]) -> Html:
    """A visible box; nothing without items."""
    if not items:
        return EMPTY
    return element("div", paragraph("⚠ ", element("strong", title)), bullets(items), class_="warning", role="note")


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """Names and values, one under the other."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs))


def cards(items: Sequence[tuple[str, str, str]]) -> Html:
    """Figures that matter: the figure, what it is, under which conditions."""
    return element(
        "ul",
        *(
            element(
                "li",
                element("span", label, class_="label"),
                element("strong", figure.partition(" ")[0], element("span", figure.partition(" ")[2])),
                element("span", condition, class_="condition"),
            )
            for figure, label, condition in items
        ),
        class_="cards",
    )


def header(title: str, unit: str) -> Html:
    """The head of a column with its unit, if it has one, under it."""
    if not unit:
        return escape(title)
    return join([title, element("span", unit, class_="unit")], " ")


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (),
) -> Html:
    """A table that scrolls within itself where it is too wide. The first cell of a row is its head.

    Args:
        caption: what it shows.
        head: of the columns.
        rows: as many cells as the head has. A column without any value is left out, unless all are.
        left: columns of words, which begin at the left; the first always does.
    """
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] not in ("", "–") for row in rows)]
    words = {0, *left}

    def cell(name: str, index: int, text: str, scope: str | None = None) -> Html:
        short = len(text) <= _SHORT and index in words
        return element(
            name, text, scope=scope, class_=("words short" if short else "words") if index in words else None
        )

    body = (element("tr", cell("th", 0, row[0], "row"), *(cell("td", i, row[i]) for i in kept if i)) for row in rows)
    content = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *(cell("th", i, head[i], "col") for i in kept))),
        element("tbody", *body),
        class_="long" if len(rows) > _LONG else None,
    )
    return element("div", content, class_="scroll", role="region", aria_label=caption, tabindex="0")


def figure(svg: Html, caption: str, data: Html) -> Html:
    """A plot, what it shows, and its data."""
    return element("figure", element("figcaption", caption), svg, data)


def grid(figures: Sequence[Html]) -> Html:
    """Plots side by side where there is room."""
    return element("div", *figures, class_="plots") if figures else EMPTY
