"""How series look and what they are called: one look for a precision and backend throughout a document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from claprt_bench.report.fields import Record
from claprt_bench.report.svg import COLOURS

# Colour never tells alone: lines differ in dashes and markers too, bars in hatching.
_LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (4, 1.2, 1, 1.2)),
    (0, (7, 2)),
    (0, (2, 2)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "////", "\\\\\\\\", "....", "xxxx", "----")


@dataclass(frozen=True)
class Style:
    """Colour (a placeholder of `svg`), dashes, marker and hatching, as matplotlib takes them."""

    colour: str
    line: str | tuple[int, tuple[float, ...]]
    marker: str
    hatch: str


STYLES = tuple(
    Style(colour, line, marker, hatch)
    for colour, line, marker, hatch in zip(COLOURS, _LINES, _MARKERS, _HATCHES, strict=True)
)


class Looks:
    """Styles by name, in the order in which names first come."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: dict[str, int] = {}
        for name in names:
            self.of(name)

    def of(self, name: str) -> Style:
        """The style of a name, always the same one."""
        return STYLES[self._names.setdefault(name, len(self._names)) % len(STYLES)]


def engine(record: Record) -> str:
    """What computed: "fp32, ort-cpu", "int8 (int8-cpu), ort-cpu", "fp16, tensorrt, log-mel on cuda"."""
    precision, variant = record.text("precision"), record.text("variant")
    if variant and variant != precision:
        precision = f"{precision} ({variant})" if precision else variant
    log_mel = record.text("log_mel")
    parts = [precision, record.text("backend"), f"log-mel on {log_mel}" if log_mel not in (None, "cpu") else None]
    return ", ".join(part for part in parts if part) or "no engine"


def look(record: Record) -> str:
    """What decides the look of a series: its precision and its backend."""
    return f"{record.text('precision')}, {record.text('backend')}"


def threads(record: Record) -> str:
    """The number of threads, "2 threads"; empty if not known."""
    return plural(found, "thread") if (found := record.number("threads", 1)) is not None else ""


def plural(number: float, word: str) -> str:
    """A number of things: "1 item", "8 items"."""
    return f"{number:,.0f} {word}{'' if number == 1 else 's'}"


def named(text: str | None, otherwise: str = "–") -> str:
    """A text that may be missing."""
    return text or otherwise


def listed(*parts: str | None) -> str:
    """Parts that are there, with commas."""
    return ", ".join(part for part in parts if part)


def chunks(items: list[Record], most: int = len(STYLES)) -> list[list[Record]]:
    """Lists of so many that each can have a look of its own in one plot."""
    return [items[start : start + most] for start in range(0, len(items), most)]
