"""What the sections of one document share: its looks, its canvas, whether its figures are in doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, element, figure, paragraph
from claprt_bench.report.series import Looks
from claprt_bench.report.svg import Canvas, drawing


@dataclass(frozen=True)
class Sheet:
    """Attributes: canvas: of the page. looks: of the document's engines. doubtful: the machine was not quiet."""

    canvas: Canvas
    looks: Looks
    doubtful: bool = False

    def plot(self, title: str, description: str, data: Html, draw: Callable[[], Any]) -> Html:
        """A figure: what `draw` returns, with `title` above it and its data under it.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        with drawing():
            svg = self.canvas.render(draw(), title, description)
        return figure(svg, title, data)

    def doubt(self) -> Html:
        """The mark that every section of timings carries when the machine was not quiet."""
        if not self.doubtful:
            return EMPTY
        return paragraph("⚠ Measured on a machine that was not quiet: figures may be off.", class_="doubt")


@dataclass(frozen=True)
class Section:
    """A part of a document's chapter. `build` returns nothing where the document has no data for it."""

    title: str
    build: Callable[[Record, Sheet], Html]


def arrow(text: str | None) -> str:
    """What a path is, with an arrow: "waveform → vector"."""
    return (text or "not named").replace("->", "→")


def emphasis(text: str) -> Html:
    """Words that carry the statement."""
    return element("strong", text)
