"""Plots of rows, one under the other, each with its name above it: no room is lost on a narrow screen.

Call within `svg.drawing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from claprt_bench.report.series import STYLES, Style
from claprt_bench.report.svg import GRID, INK, MUTED, PAGE, WIDTH, fit, new_figure, width_of

_ROW = 0.55  # inches: a line of text and a bar
_AXIS = 0.55
_LEGEND = 0.19
_BAR = 0.36  # of a row
_NAME, _WRITTEN = WIDTH - 0.2, 1.2  # inches that texts may take


@dataclass(frozen=True)
class Stack:
    """Parts of a whole, in order, and the whole as it was measured."""

    name: str
    parts: Sequence[tuple[str, float]]
    whole: float
    written: str


@dataclass(frozen=True)
class Row:
    """A value with its interval or its samples, and how it is written."""

    name: str
    value: float
    written: str
    style: Style
    low: float | None = None
    high: float | None = None
    samples: Sequence[float] = ()


def stacks(rows: Sequence[Stack], x_label: str) -> Any:
    """Bars of parts put together; a line across each is the whole."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for row in rows for name, _ in row.parts))
    figure, axes = _axes(len(rows), legend=math.ceil((len(names) + 1) / 2))
    right = max(max(row.whole, sum(value for _, value in row.parts)) for row in rows) or 1.0
    for y, row in enumerate(rows):
        start = 0.0
        for name, value in row.parts:
            axes.barh(*(y, value, _BAR, start), **_part(name, names))
            start += value
        axes.vlines(row.whole, y - 0.30, y + 0.30, color=INK, linewidth=2.2)
        _name(axes, y, row.name)
        _value(axes, max(start, row.whole), y, row.written)
    axes.set(xlabel=x_label, xlim=(0, _room(0.0, right, rows)))
    handles: list[Any] = [Patch(**_part(name, names), label=name) for name in names]
    handles.append(
        Line2D([], [], color=INK, linestyle="", marker="|", markersize=9, markeredgewidth=2.2, label="whole path")
    )
    figure.legend(
        handles=handles, loc="outside upper left", ncols=2, handlelength=1.6, columnspacing=1.2, borderaxespad=0.2
    )
    return figure


def _part(name: str, names: Sequence[str]) -> dict[str, Any]:
    """How a part looks: other colours than engines have, and the largest part pale, so that it does not shout."""
    if name.endswith("-tower"):
        return {"facecolor": GRID, "edgecolor": MUTED, "linewidth": 0.8}
    style = STYLES[(names.index(name) + 2) % len(STYLES)]
    return {
        "facecolor": style.colour,
        "edgecolor": PAGE,
        "linewidth": 0.8,
        "hatch": ("", "////", "....")[names.index(name) % 3],
    }


def ratios(rows: Sequence[Row], x_label: str, reference: str) -> Any:
    """Bars from zero with intervals; a line at one. Bars that do not reach it are hollow."""
    figure, axes = _axes(len(rows), legend=1)
    right = max(max(row.value, row.high or 0.0) for row in rows)
    for y, row in enumerate(rows):
        slower = row.value < 1
        axes.barh(
            *(y, row.value, _BAR),
            color="none" if slower else row.style.colour,
            edgecolor=row.style.colour,
            linewidth=1.2,
        )
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [y, y], color=INK, marker="|", markersize=8, linewidth=1.4)
        _name(axes, y, row.name)
        _value(axes, max(row.value, row.high or 0.0), y, row.written)
    axes.axvline(1.0, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=reference)
    axes.set(xlabel=x_label, xlim=(0, _room(0.0, max(right, 1.0), rows)))
    figure.legend(loc="outside upper left", borderaxespad=0.2)
    return figure


def strips(rows: Sequence[Row], x_label: str) -> Any:
    """Every sample as a dot, from zero; a line at the median."""
    figure, axes = _axes(len(rows))
    for y, row in enumerate(rows):
        axes.plot([0, row.value], [y, y], color=MUTED, linewidth=1.0, zorder=1)
        samples = row.samples or [row.value]
        axes.plot(samples, [y] * len(samples), color=row.style.colour, marker=row.style.marker, linestyle="", alpha=0.6)
        axes.vlines(row.value, y - 0.24, y + 0.24, color=INK, linewidth=2.0, zorder=3)
        _name(axes, y, row.name)
        _value(axes, max(row.value, *samples), y, row.written)
    right = max(max(row.value, *(row.samples or [0.0])) for row in rows) or 1.0
    axes.set(xlabel=x_label, xlim=(0, _room(0.0, right, rows)))
    return figure


def intervals(rows: Sequence[Row], x_label: str, most: float) -> Any:
    """Dots with intervals. The axis begins near the lowest, not at zero: a position is read, no length."""
    figure, axes = _axes(len(rows))
    for y, row in enumerate(rows):
        low, high = (row.value if end is None else end for end in (row.low, row.high))
        axes.plot([low, high], [y, y], color=row.style.colour, marker="|", markersize=9, linewidth=1.6)
        axes.plot([row.value], [y], color=row.style.colour, marker=row.style.marker, markersize=7)
        _name(axes, y, row.name)
        _value(axes, high, y, row.written)
    lowest = min(row.value if row.low is None else row.low for row in rows)
    highest = max(row.value if row.high is None else row.high for row in rows)
    margin = max(0.04 * (highest - lowest), 0.01 * most)
    left = max(0.0, lowest - margin)
    axes.set(xlabel=x_label, xlim=(left, _room(left, highest, rows)))
    axes.set_xticks([tick for tick in axes.get_xticks() if left <= tick <= most * (1 + 1e-9)])
    return figure


def _axes(rows: int, legend: int = 0) -> tuple[Any, Any]:
    figure, axes = new_figure(_AXIS + _ROW * rows + _LEGEND * legend)
    axes.set(ylim=(rows - 1 + 0.45, -0.75), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    return figure, axes


def _name(axes: Any, y: float, text: str) -> None:
    axes.annotate(
        fit(text, _NAME),
        xy=(0, y - 0.26),
        xycoords=("axes fraction", "data"),
        va="bottom",
        bbox={"boxstyle": "square,pad=0.1", "facecolor": PAGE, "edgecolor": "none"},
    )


def _value(axes: Any, x: float, y: float, text: str) -> None:
    axes.annotate(
        fit(text, _WRITTEN),
        xy=(x, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        bbox={"boxstyle": "square,pad=0.05", "facecolor": PAGE, "edgecolor": "none"},
    )


def _room(left: float, right: float, rows: Sequence[Row | Stack]) -> float:
    """The right end of the axis: behind the highest value must be room for the longest figure that is written."""
    text = (max(width_of(fit(row.written, _WRITTEN)) for row in rows) + 0.2) / (WIDTH - 0.2)
    return left + (right - left or 1.0) / (1 - text)
