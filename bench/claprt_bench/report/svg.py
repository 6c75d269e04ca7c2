"""Figures of matplotlib as inline SVG that takes its colours and its font from the page.

Figures are drawn in placeholder colours; each becomes a CSS variable, so that light, dark and print share one drawing.
No pyplot: nothing global stays changed, and no display is needed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

from claprt.extras import BENCH
from claprt_bench.report.html import Html, clean, element

# A unit of a drawing is a CSS pixel on the narrowest phones (320 px, less the margins).
UNITS_PER_INCH = 72
WIDTH = 4.0  # inches
FONT = 10.5  # units

SERIES = 6
INK, MUTED, GRID, PAGE, WARN = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = tuple(f"#06060{i}" for i in range(SERIES))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAGE: "--page", WARN: "--warn"} | {
    colour: f"--series-{i}" for i, colour in enumerate(COLOURS)
}
_COORDINATES = {"d", "x", "y", "width", "height", "transform"}

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found, and takes the page's font
    "svg.hashsalt": "claprt",
    "text.parse_math": False,  # a label with a $ is a label
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "legend.fontsize": FONT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.handlelength": 3.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "hatch.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Figures are made and written within it. matplotlib's own settings, the user's included, come back after it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    BENCH.require("a report", "matplotlib")
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        # The browser has glyphs that matplotlib's font has not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def new_figure(height: float, width: float = WIDTH) -> tuple[Any, Any]:
    """A figure of so many inches with one pair of axes, within `drawing`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03)
    figure = Figure(figsize=(width, height), dpi=UNITS_PER_INCH, layout=layout)
    return figure, figure.add_subplot()


def width_of(text: str) -> float:
    """Inches that a text takes in a figure, at most: matplotlib's font is wider than most of those that pages have."""
    return sum(map(_width_of_letter, text))


@functools.lru_cache(maxsize=4096)
def _width_of_letter(letter: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if unicodedata.east_asian_width(letter) in "WF":
        return FONT / UNITS_PER_INCH  # one em, whatever the font
    # Of ten letters between two others: the outline of one is narrower than its place in a line.
    font = FontProperties(size=FONT)
    widths = [
        text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in (f"|{letter * 10}|", "||")
    ]
    return float(widths[0] - widths[1]) / 10 / UNITS_PER_INCH


def fit(text: str, inches: float) -> str:
    """A text for a figure: one line, shortened in its middle to what there is room for."""
    text = " ".join(clean(text).split())
    if len(text) <= 400 and width_of(text) <= inches:
        return text
    head, tail, used = 0, len(text), width_of("…")
    while used + (more := _width_of_letter(text[head])) <= inches:
        head, used = head + 1, used + more
        more = _width_of_letter(text[tail - 1])
        if used + more > inches:
            break
        tail, used = tail - 1, used + more
    return f"{text[:head]}…{text[tail:]}"


class Canvas:
    """Turns figures into SVG, each with identifiers of its own on the page."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def render(self, figure: Any, title: str, description: str) -> Html:
        """A figure as an `svg` element, within `drawing`.

        Args:
            figure: of matplotlib, in the colours of this module.
            title: what it shows, for those who do not see it and as a tool tip.
            description: what to read from it, in a sentence.
        """
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
        root = ElementTree.fromstring(buffer.getvalue())
        name = f"plot-{next(self._numbers)}"
        _strip(root)
        _rename(root, name)
        for node in root.iter():
            _restyle(node)
        width, height = (figure.get_size_inches() * UNITS_PER_INCH).round(2)
        content = "".join(ElementTree.tostring(child, encoding="unicode", short_empty_elements=True) for child in root)
        return element(
            "svg",
            element("title", title, id=f"{name}-title"),
            element("desc", description, id=f"{name}-desc"),
            Html(content),
            viewBox=f"0 0 {width:g} {height:g}",
            role="img",
            aria_labelledby=f"{name}-title {name}-desc",
        )


def _strip(root: ElementTree.Element) -> None:
    """Remove name spaces, metadata and global style; a page knows `svg` by its name alone."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.text, node.tail = clean(node.text or "").strip(), ""
        for key in [key for key in node.attrib if "}" in key]:
            node.set(key.rpartition("}")[2], node.attrib.pop(key))


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """Keep identifiers that something refers to, and make them unique on the page."""
    text = " ".join(value for node in root.iter() for key, value in node.attrib.items() if key != "id")
    used = {found[0] or found[1] for found in re.findall(r"url\(#([^)]+)\)|(?:^|\s)#([\w-]+)", text)}
    for node in root.iter():
        for key, value in list(node.attrib.items()):
            if key == "id":
                if value in used:
                    node.set(key, f"{prefix}-{value}")
                else:
                    del node.attrib[key]
            elif key == "href" or "url(#" in value:
                node.set(key, value.replace("#", f"#{prefix}-", 1))


def _restyle(node: ElementTree.Element) -> None:
    """Placeholder colours become variables, the font's family the page's; a hundredth of a pixel is enough."""
    for key in ("fill", "stroke"):
        if key in node.attrib:
            node.set("style", f"{key}: {node.attrib.pop(key)}; {node.attrib.get('style', '')}")
    if "style" in node.attrib:
        style = re.sub(r"font-family: [^;]*(; )?", "", node.attrib["style"])
        style = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;]*", r"font-weight: \1; font-size: \2", style)
        style = style.replace("font-weight: ; ", "").rstrip("; ")
        node.set("style", re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var({_VARIABLES[found[0]]})", style))
    for key in _COORDINATES.intersection(node.attrib):
        rounded = re.sub(
            r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), node.attrib[key]
        )
        node.set(key, " ".join(rounded.split()))
