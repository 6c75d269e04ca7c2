"""What two results are compared by: each figure of a "speed" or "evaluation" document, with what tells its noise.

| figure | how its noise is known |
|---|---|
| median time of a call, throughput | medians and means of the repeats |
| 90th, 95th, 99th percentile | of all calls, by leaving out one repeat at a time; at least 5 calls must lie above it |
| cold start | each start is a process of its own |
| ratio to a peer | ratios of the rounds, both sides of one round having been measured side by side |
| open loop | percentiles of the requests, by leaving out one tenth of the time at a time |
| points of a scaling curve | lowest and highest median of their repeats |
| peak memory | no noise to speak of: a threshold |
| metric of an evaluation | its bootstrap interval, and at least that of a proportion (Agresti and Coull 1998) |

First calls are single values, and are not compared. CPU time, cores used and the real-time factor follow from others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from claprt_bench.comparing.fields import Fields
from claprt_bench.comparing.noise import Blocks, from_range, means, medians, percentile

_PERCENTILES = (90, 95, 99)
# Calls that must lie above a percentile, or one of them decides it.
_CALLS_ABOVE = 5
_MOST_REPEATS = 1000
_HIGHEST_LOAD = 0.8
# Parts that an open loop's time is cut into; requests in each, so that a part has a percentile to speak of.
_PARTS, _REQUESTS = 10, 20


@dataclass(frozen=True, eq=False)
class Quantity:
    """One figure of a result.

    Attributes:
        id: the measurement's.
        what: for people.
        figure: which of its figures, such as "median" or "p99".
        unit: "ms", "s", "1/s", "bytes", "x" or "" (a metric from 0 to 1).
        family: whose members have the same kind of noise.
        value: in its unit.
        higher_is_better: otherwise lower is.
        blocks: what tells its noise; None: a threshold is all there is, or `deviation` has it.
        deviation: standard deviation of the value, of metrics.
        sensitivity: by how many percent it changes when the machine gets 1 % slower, at most.
        saturated: of an open loop: whether it could not keep up with the requests.
        why_not: why it cannot be judged; empty if it can.
        setting: what must be the same in both runs, such as batch and threads.
    """

    id: str
    what: str
    figure: str
    unit: str
    family: str
    value: float
    higher_is_better: bool = False
    blocks: Blocks | None = None
    deviation: float | None = None
    why_not: str = ""
    sensitivity: float = 1.0
    saturated: bool | None = None
    setting: tuple[tuple[str, object], ...] = ()


def speed_quantities(document: Fields) -> list[Quantity]:
    """Every figure of a "speed" document.

    Raises:
        ResultError: a field is missing or wrong.
    """
    method = document.fields("method")
    repeats = method.integer("repeats") if method.has("repeats") else 1
    found: list[Quantity] = []
    for item in document.items("measurements"):
        found += _measurement(item)
    for item in document.items("cold_start"):
        found += _cold_start(item)
    for item in document.items("open_loop"):
        found += _open_loop(item)
    for item in document.items("scaling"):
        found += _scaling(item, repeats)
    for item in document.items("against"):
        found += _against(item)
    return found


def metric_quantities(document: Fields) -> list[Quantity]:
    """Every metric of an "evaluation" document.

    Raises:
        ResultError: a field is missing or wrong.
    """
    items = document.fields("dataset").integer("items")
    method = document.fields("method")
    confidence = method.number("confidence", 0.5, 0.9999)
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    found = []
    for variant in document.items("variants"):
        precision, backend = variant.text("precision"), variant.text("backend")
        metrics = variant.fields("metrics")
        for name in metrics.values:
            metric = metrics.fields(name)
            value = metric.number("value", 0, 1)
            high = metric.number("high", 0, 1)
            low = metric.number("low", 0, high)
            # A bootstrap of items that were all right says that nothing is uncertain.
            adjusted = (value * items + 2) / (items + 4)
            least = math.sqrt(adjusted * (1 - adjusted) / (items + 4))
            found.append(
                Quantity(
                    f"{precision}/{backend}",
                    f"{precision}, {backend}",
                    _label(metrics, name),
                    "",
                    "metric",
                    value,
                    higher_is_better=True,
                    deviation=max((high - low) / 2 / normal, least),
                )
            )
    return found


def _label(metrics: Fields, name: str) -> str:
    """A metric's name is a key: it is checked as texts are."""
    return Fields({"name of a metric": name}, metrics.where).text("name of a metric")


def _measurement(item: Fields) -> Iterator[Quantity]:
    name, what, setting = item.text("id"), _what(item), _setting(item)
    repeats = item.repeats("samples_ms")
    if len(repeats) > _MOST_REPEATS:
        item.refuse("samples_ms", f"at most {_MOST_REPEATS} repeats")
    why_not = "" if len(repeats) > 1 else "one repeat says nothing about noise; measure with more"
    batch = item.integer("batch")

    def quantity(figure: str, unit: str, blocks: Blocks, scale: float = 1.0, higher: bool = False) -> Quantity:
        value = scale * math.exp(blocks.mean)
        return Quantity(name, what, figure, unit, figure, value, higher, blocks, None, why_not, setting=setting)

    yield quantity("median", "ms", medians(repeats))
    slowness = means(repeats)
    yield quantity("throughput", "1/s", Blocks(-slowness.values), 1000 * batch, higher=True)
    calls = sum(len(repeat) for repeat in repeats)
    for percent in _PERCENTILES:
        if len(repeats) > 1 and calls * (100 - percent) >= 100 * _CALLS_ABOVE:
            yield quantity(f"p{percent}", "ms", percentile(repeats, percent))
    yield from _memory(item, name, what, setting)


def _cold_start(item: Fields) -> Iterator[Quantity]:
    name, what, setting = item.text("id"), _what(item), _setting(item)
    samples = item.numbers("samples_ms")
    blocks = Blocks(np.log(samples))
    why_not = "" if len(samples) > 1 else "one start says nothing about noise; measure with more"
    value = math.exp(blocks.mean)
    yield Quantity(name, what, "cold start", "ms", "cold start", value, False, blocks, None, why_not, setting=setting)
    yield from _memory(item, name, what, setting)


def _memory(item: Fields, name: str, what: str, setting: tuple[tuple[str, object], ...]) -> Iterator[Quantity]:
    for key, figure in (("peak_host_bytes", "peak memory"), ("peak_device_bytes", "peak GPU memory")):
        if item.has(key) and item.integer(key, 0):
            yield Quantity(name, what, figure, "bytes", "memory", float(item.integer(key, 0)), setting=setting)


def _open_loop(item: Fields) -> Iterator[Quantity]:
    rate, served, saturated = item.number("rate"), item.number("achieved_rate"), item.flag("saturated")
    name, what = item.text("id"), f"{_what(item)}, {rate:g} requests a second"
    setting = (*_setting(item), ("rate", rate), ("arrivals", item.text("arrivals")))
    yield Quantity(
        name, what, "served", "1/s", "served", served, higher_is_better=True, saturated=saturated, setting=setting
    )
    samples = item.numbers("samples_ms")
    why_not = "it could not keep up: its latencies grow with the time that it runs" if saturated else ""
    if not why_not and len(samples) < _PARTS * _REQUESTS:
        why_not = f"too few requests for an open loop's noise: {len(samples)} of {_PARTS * _REQUESTS}; measure longer"
    parts = np.array_split(samples, min(_PARTS, len(samples)))
    load = rate * item.fields("service").number("mean_ms") / 1000
    if not why_not and load > _HIGHEST_LOAD:
        why_not = f"busy for more than {100 * _HIGHEST_LOAD:g} % of the time: the least change of the machine is large"
    # Who waits, waits in proportion to s² / (1 - load), s being the time that a request takes (Pollaczek-Khinchine).
    sensitivity = 1 + 1 / (1 - min(load, _HIGHEST_LOAD))
    for percent in (50, 95, 99):
        value, figure = float(np.percentile(samples, percent)), f"p{percent}"
        few = len(samples) * (100 - percent) < 100 * _CALLS_ABOVE
        why = why_not or ("too few requests for this percentile; measure longer" if few else "")
        blocks = None if why else percentile(parts, percent)
        yield Quantity(
            name, what, figure, "ms", f"open loop {figure}", value, False, blocks, None, why, sensitivity,
            setting=setting,
        )  # fmt: skip


def _scaling(item: Fields, repeats: int) -> Iterator[Quantity]:
    name, axis = item.text("id"), item.text("axis")
    for point in item.items("points"):
        x = point.number("x")
        what = f"{_what(item)}, {axis.replace('_', ' ')} {x:g}"
        median = point.number("median_ms")
        low, high = point.pair("spread_ms")
        # A point does not say how many medians it has; taking few errs on the side of more noise.
        blocks = from_range(median, low, high, min(repeats, 3)) if repeats > 1 and low < high else None
        why_not = "" if blocks is not None else "one repeat says nothing about noise; measure with more"
        yield Quantity(
            f"{name}/{x:g}", what, "median", "ms", f"scaling, {axis}", median, False, blocks, None, why_not,
            setting=(*_setting(item), ("axis", axis)),
        )  # fmt: skip


def _against(item: Fields) -> Iterator[Quantity]:
    name, peer = item.text("id"), item.text("peer")
    what = f"{_what(item)}, against {peer}"
    ours, theirs = item.numbers("ours"), item.numbers("theirs")
    if len(ours) != len(theirs):
        item.refuse("theirs", f"a list of {len(ours)}, one for each of ours")
    blocks = Blocks(np.log(theirs / ours))
    why_not = "" if len(ours) > 1 else "one round says nothing about noise; measure with more"
    setting = (*_setting(item), ("peer", peer), ("unit", item.text("unit")))
    value = math.exp(blocks.mean)
    yield Quantity(name, what, "ratio to the peer", "x", "ratio", value, True, blocks, None, why_not, setting=setting)


def _what(item: Fields) -> str:
    """What is measured, as a line: "waveform -> vector, fp32, batch 8"."""
    parts = [item.text("what")]
    if item.has("precision"):
        parts.append(item.text("precision"))
    if item.has("batch"):
        parts.append(f"batch {item.integer('batch')}")
    return ", ".join(parts)


def _setting(item: Fields) -> tuple[tuple[str, object], ...]:
    keys = ("step", "precision", "variant", "backend", "log_mel", "batch", "threads", "audio_seconds")
    for key in keys:
        if isinstance(item.values.get(key), (dict, list)):
            item.refuse(key, "a text, a number or null")
    return tuple((key, item.values[key]) for key in keys if key in item.values)
