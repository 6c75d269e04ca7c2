"""Plots with two axes: distributions, and how one thing grows with another. Call within `svg.drawing`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from claprt_bench.figures import number
from claprt_bench.report.series import Style
from claprt_bench.report.svg import INK, PAGE, WARN, WIDTH, fit, new_figure, width_of

_LINE_OF_TEXT = 0.19  # inches, in a legend
_LEGEND = WIDTH - 0.75  # inches: what is left beside its lines
_LOG_FROM = 8.0  # a logarithmic axis where the largest value is so many times the smallest
_POINTS = 300  # of a distribution that are drawn
PERCENTILES = {"p50": ("o", 50.0), "p90": ("v", 90.0), "p95": ("s", 95.0), "p99": ("^", 99.0)}
_MARKED = ("p50", "p95", "p99")


@dataclass(frozen=True)
class Distribution:
    """Samples, and those of their percentiles that there were calls enough for (`{"p50": 12.3}`)."""

    name: str
    style: Style
    samples: Sequence[float]
    percentiles: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """Points, with a band around them if `low` and `high` are given; `crossed` points are marked as invalid."""

    name: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    crossed: Sequence[bool] = field(default=())


def distribution(lines: Sequence[Distribution], x_label: str = "latency in ms") -> Any:
    """Empirical distributions: which share of the samples took at most so long."""
    figure, axes = new_figure(2.6 + _LINE_OF_TEXT * (len(lines) + 1))
    for line in lines:
        values = np.sort(np.asarray(line.samples, dtype=np.float64))
        shares = np.arange(1, len(values) + 1) * (100.0 / len(values))
        if len(values) > _POINTS:
            kept = np.unique(np.linspace(0, len(values) - 1, _POINTS).round().astype(int))
            values, shares = values[kept], shares[kept]
        x, y = np.concatenate([values[:1], values]), np.concatenate([[0.0], shares])
        axes.step(x, y, where="post", color=line.style.colour, linestyle=line.style.line, label=fit(line.name, _LEGEND))
        for name in _MARKED:
            if name in line.percentiles:
                marker, share = PERCENTILES[name]
                axes.plot(
                    *([line.percentiles[name]], [share], marker),
                    color=line.style.colour,
                    markeredgecolor=PAGE,
                    markeredgewidth=0.6,
                    markersize=6.5,
                )
    everything = np.concatenate([np.asarray(line.samples, dtype=np.float64) for line in lines])
    _scale(axes.xaxis, axes.set_xscale, everything)
    axes.set(xlabel=x_label, ylabel="% of calls within", ylim=(-2, 103), yticks=[0, 25, 50, 75, 95])
    from matplotlib.lines import Line2D

    shown = [name for name in _MARKED if any(name in line.percentiles for line in lines)]
    marks = [Line2D([], [], color=INK, linestyle="", marker=PERCENTILES[name][0], label=name) for name in shown]
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside upper left", borderaxespad=0.2)
    if marks:
        axes.legend(handles=marks, loc="lower right", handlelength=1, borderaxespad=0.3, labelspacing=0.3)
    return figure


def curves(lines: Sequence[Curve], x_label: str, y_label: str, log_x: bool, mark: str = "") -> Any:
    """Lines through measured points, one for each series.

    Args:
        lines: at least one, each with a point.
        x_label, y_label: what is where, with units.
        log_x: space x logarithmically.
        mark: what crossed points are, for the legend.
    """
    crossed = any(any(line.crossed) for line in lines)
    figure, axes = new_figure(2.5 + _LINE_OF_TEXT * (len(lines) + crossed))
    for line in lines:
        style = line.style
        if len(line.low):
            axes.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.18, linewidth=0)
        look = {"color": style.colour, "linestyle": style.line, "marker": style.marker}
        axes.plot(line.x, line.y, **look, label=fit(line.name, _LEGEND))
        bad = [(x, y) for x, y, bad in zip(line.x, line.y, line.crossed or [False] * len(line.x), strict=True) if bad]
        if bad:
            axes.plot(*zip(*bad, strict=True), color=WARN, marker="x", markersize=10, markeredgewidth=2, linestyle="")
    if crossed:
        axes.plot([], [], color=WARN, marker="x", markersize=10, markeredgewidth=2, linestyle="", label=mark)
    y = np.concatenate([np.asarray([*line.y, *line.low, *line.high]) for line in lines])
    x = sorted({value for line in lines for value in line.x})
    if log_x:
        axes.set_xscale("log")
    _scale(axes.yaxis, axes.set_yscale, y)
    _ticks(axes, x, log_x)
    axes.set(xlabel=x_label, ylabel=y_label)
    figure.legend(loc="outside upper left", borderaxespad=0.2)
    return figure


def _scale(axis: Any, set_scale: Any, values: Any) -> None:
    """Choose a linear axis from zero, or a logarithmic one where values differ by much; write plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high, upright = float(values.min()), float(values.max()), axis.axis_name == "y"
    if low > 0 and high / low > _LOG_FROM:
        set_scale("log")
        axis.set_major_locator(FixedLocator(_decades(low, high, upright)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5))
        if upright or high == low:
            (axis.axes.set_ylim if upright else axis.axes.set_xlim)(0, high * 1.12 or 1.0)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _decades(low: float, high: float, upright: bool) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2, 5 of each decade, or fewer where their figures would run into each other."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    inches = (1.7 if upright else WIDTH - 0.9) / math.log10(high / low)  # of a decade, about
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
        ticks = [tick for tick in ticks if low * 0.95 <= tick <= high * 1.05]
        pairs = list(itertools.pairwise(ticks))
        if all(math.log10(b / a) * inches >= (0.22 if upright else _room(a, b)) for a, b in pairs) and ticks:
            return ticks
    every = math.ceil((last - first) / 6)
    return [10.0**decade for decade in range(first, last + 1, every)]


def _room(a: float, b: float) -> float:
    """Inches that the figures of two neighbouring ticks take between the ticks."""
    return (width_of(_tick(a)) + width_of(_tick(b))) / 2 + 0.08


def _ticks(axes: Any, values: Sequence[float], log_x: bool) -> None:
    """Ticks at the measured values, as many as have room for their figures."""
    position = np.log(values) if log_x else np.asarray(values, dtype=np.float64)
    inches = (WIDTH - 0.9) / (float(position[-1] - position[0]) or 1.0)
    kept, last = [values[-1]], float(position[-1])
    for value, at in zip(values[-2::-1], position[-2::-1], strict=True):
        if (last - at) * inches >= _room(value, kept[0]):
            kept, last = [value, *kept], float(at)
    axes.set_xticks(kept, [_tick(value) for value in kept])
    axes.set_xticks([], minor=True)


def _tick(value: float) -> str:
    """A tick's figure without zeros that say nothing."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
