"""What changed between two results, beyond noise: two "speed" documents, or two "evaluation" documents.

Measurements are matched by their ids. `noise` judges what is noise, `quantities` knows that of each figure. With
nothing changed, a whole comparison calls anything a change less than once in twenty: of those 5 %, 2.5 are for the
medians and cold starts, 0.25 for all other figures, and the rest is left for what the method takes for granted:
measurements that are equally noisy, blocks that are independent, logarithms that are normal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from claprt_bench.comparing.circumstances import (
    Difference,
    check_same_task,
    differences_of,
    failed_checks,
    taken_by_others,
    warnings_of,
)
from claprt_bench.comparing.fields import Fields
from claprt_bench.comparing.noise import Blocks, Judged, judge
from claprt_bench.comparing.quantities import Quantity, metric_quantities, speed_quantities
from claprt_bench.document import EVALUATION, SPEED, read_document
from claprt_bench.errors import ResultError

# The chance of any false alarm at all, and how much of it the main figures may use up.
_ERROR, _MAIN_ERROR = 0.0275, 0.025
_CONFIDENCE = 0.95
_MAIN = ("median", "cold start")
# Changes below are not called changes: of one measurement, of all together. Twice that where a run was noisy, or where
# the machines or the method differ; and never less than what others took of the machine.
_FLOOR, _DRIFT, _WIDER = 0.03, 0.05, 2.0
# Bounds on what has no noise to speak of: served requests of a loop that cannot keep up, memory but for a few pages.
_THRESHOLDS = {"served": 0.1, "memory": 0.05}
_MEMORY_BYTES = 4 << 20
_METRIC_FLOOR = 0.005
# Units of metrics and of memory; all others are of times.
_UNTIMED = ("", "bytes")


@dataclass(frozen=True)
class Change:
    """One figure in both results.

    Attributes:
        id, what, figure, unit: as in `Quantity`.
        before, after: in that unit; times and rates are geometric means over repeats.
        change: after / before - 1; of metrics, after - before.
        low, high: interval of that; all intervals of a comparison hold together. None where there is a threshold only.
        worst: by how much worse it may be for all that the interval says, as a fraction, of metrics too; negative where
            it is better for certain. None where there is no interval.
        verdict: "worse", "better", "unchanged" (not beyond noise) or "not judged".
        note: why it is not judged, or what else there is to say.
        failed: worse by more than the limit that was given.
    """

    id: str
    what: str
    figure: str
    unit: str
    before: float
    after: float
    change: float
    low: float | None
    high: float | None
    worst: float | None
    verdict: str
    note: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Comparison:
    """All that two results differ in.

    Attributes:
        kind: "speed" or "evaluation".
        changes: of every figure in both.
        only_before, only_after: ids of measurements that one of them has not.
        differences: of the circumstances.
        warnings: what makes figures hard to compare, as sentences.
        together: change of the medians of all measurements together, taken for the machine's where it is small; None
            where there are too few.
        floor: changes below it are not called changes.
        check_failed: a check of the values failed in the later one, and not in the earlier one.
        fail_on: the limit that was given, as a fraction.
    """

    kind: str
    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    together: float | None
    floor: float
    check_failed: bool
    fail_on: float | None

    @property
    def failed(self) -> bool:
        """Whether something got worse beyond noise and by more than the limit, or a check fails that held."""
        return self.fail_on is not None and (self.check_failed or any(change.failed for change in self.changes))

    @property
    def undecided(self) -> int:
        """Of how many figures it cannot be said that they did not get worse by the limit: noise, or not judged."""
        return 0 if self.fail_on is None else self.hidden + self.not_judged

    @property
    def hidden(self) -> int:
        """Of how many figures that are called unchanged noise hides a change of the limit's size."""
        limit = self.fail_on
        if limit is None:
            return 0
        return sum(
            change.verdict == "unchanged" and change.worst is not None and max(change.worst, self.floor) > limit
            for change in self.changes
        )

    @property
    def not_judged(self) -> int:
        """How many figures have the verdict "not judged"."""
        return sum(change.verdict == "not judged" for change in self.changes)

    @property
    def nothing_judged(self) -> bool:
        """Whether there are times, and none has an interval: a limit is no test then."""
        timed = [change for change in self.changes if change.unit not in _UNTIMED]
        return bool(timed) and all(change.low is None for change in timed)

    def to_json(self) -> dict[str, Any]:
        """As it is printed by `--json`."""
        return {
            **asdict(self),
            "confidence": _CONFIDENCE,
            "failed": self.failed,
            "undecided": self.undecided,
            "nothing_judged": self.nothing_judged,
        }


def compare(before: Path, after: Path, fail_on: float | None = None) -> Comparison:
    """Compare two results.

    Args:
        before, after: their files.
        fail_on: a regression larger than this fraction, and beyond noise, makes the comparison fail. What counts is the
            change itself, not an end of its interval; of a time +0.1 is 10 % longer, of a rate -0.1 is 10 % fewer, of a
            metric -0.1 is 10 % of its value.

    Raises:
        ResultError: one is no result, they are of different kinds, or have nothing in common.
        MissingExtraError: SciPy is not installed.
    """
    documents = [Fields(read_document(path), f"{path}: ") for path in (before, after)]
    kinds = [document.text("kind") for document in documents]
    if kinds[0] != kinds[1]:
        raise ResultError(f"results of different kinds: {before} is {kinds[0]!r}, {after} {kinds[1]!r}; compare like")
    try:
        differences = differences_of(*documents)
    except RecursionError:
        raise ResultError(f"a damaged result: {before} or {after} is nested too deeply; measure again") from None
    if kinds[0] == EVALUATION:
        check_same_task(documents)
    read = speed_quantities if kinds[0] == SPEED else metric_quantities
    sides = [_by_key(read(document), document) for document in documents]
    common = [(quantity, sides[1][key]) for key, quantity in sides[0].items() if key in sides[1]]
    if not common:
        raise ResultError(f"nothing to compare: {before} and {after} have no measurement in common; measure the same")
    warnings = warnings_of(kinds[0], documents, differences)
    wider = _WIDER if any(one.matters for one in differences) else 1.0
    tolerance = _Tolerance(wider, 0.0, False)
    if kinds[0] == SPEED:
        others = max(taken_by_others(document) for document in documents)
        noisy = any(not document.fields("noise").flag("quiet") for document in documents)
        tolerance = _Tolerance(_WIDER if noisy else wider, others - 1, noisy)
    if kinds[0] == SPEED:
        changes, together = _speed_changes(common, tolerance)
    else:
        changes, together = _metric_changes(common), None
    ids = [list(dict.fromkeys(key[0] for key in side)) for side in sides]
    failures = [failed_checks(document) if kinds[0] == SPEED else [] for document in documents]
    new_failures = [what for what in failures[1] if what not in failures[0]]
    warnings += [f"after: a check of the values failed: {what}" for what in new_failures]
    return Comparison(
        kinds[0],
        tuple(_with_limit(change, fail_on) for change in changes),
        tuple(name for name in ids[0] if name not in set(ids[1])),
        tuple(name for name in ids[1] if name not in set(ids[0])),
        tuple(differences),
        tuple(warnings),
        None if together is None else math.expm1(together),
        tolerance.of(_FLOOR) if kinds[0] == SPEED else _METRIC_FLOOR,
        bool(new_failures),
        fail_on,
    )


@dataclass(frozen=True)
class _Tolerance:
    """How much less is called a change than usual.

    Attributes:
        factor: on every bound.
        least: that no bound is below, as a fraction: what others took of the machine.
        noisy: whether a machine was not quiet.
    """

    factor: float
    least: float
    noisy: bool

    def of(self, bound: float) -> float:
        """A bound, widened."""
        return max(bound * self.factor, self.least)


_Pairs = Sequence[tuple[Quantity, Quantity]]


def _speed_changes(pairs: _Pairs, tolerance: _Tolerance) -> tuple[list[Change], float | None]:
    """In the order of the pairs; and by how much all medians moved together, as a logarithm."""
    why_not = [_why_not(*pair) for pair in pairs]
    families: dict[str, list[int]] = {}
    for index, (pair, why) in enumerate(zip(pairs, why_not, strict=True)):
        if not why and pair[0].blocks is not None and pair[1].blocks is not None:
            families.setdefault(pair[0].family, []).append(index)
    main = sum(len(members) for family, members in families.items() if family in _MAIN)
    others = sum(len(members) for family, members in families.items() if family not in _MAIN)
    budget = {True: _MAIN_ERROR if others else _ERROR, False: _ERROR - _MAIN_ERROR if main else _ERROR}
    judged: dict[int, Judged] = {}
    together = None
    for family, members in families.items():
        is_main = family in _MAIN
        found, moved = judge(
            _blocks(pairs[index][0] for index in members),
            _blocks(pairs[index][1] for index in members),
            budget[is_main] / (main if is_main else others),
            [_floor(*pairs[index], tolerance) for index in members],
            math.log1p(tolerance.of(_DRIFT)),
        )
        judged |= dict(zip(members, found, strict=True))
        together = moved if family == "median" else together
    return [
        _change(pair, why, judged.get(index), tolerance.noisy)
        for index, (pair, why) in enumerate(zip(pairs, why_not, strict=True))
    ], together


def _floor(before: Quantity, after: Quantity, tolerance: _Tolerance) -> float:
    """As a logarithm; of an open loop what a machine that drifts does to it, thrice: one process serves all of it."""
    sensitivity = max(before.sensitivity, after.sensitivity)
    return math.log1p(tolerance.of(3 * _DRIFT * sensitivity if sensitivity > 1 else _FLOOR))


def _change(pair: tuple[Quantity, Quantity], why_not: str, judged: Judged | None, noisy: bool) -> Change:
    before, after = pair
    change = after.value / before.value - 1
    low = high = None
    if why_not:
        return _made(pair, change, None, None, "not judged", why_not)
    if judged is not None:
        low, high, beyond = math.expm1(judged.low), math.expm1(judged.high), judged.beyond
    elif before.saturated != after.saturated and noisy:
        return _made(
            pair, change, None, None, "not judged", "whether it keeps up depends on a machine that was not quiet"
        )
    elif before.saturated != after.saturated:  # it keeps up no more, or now does
        verdict, note = ("worse", "it keeps up no more") if after.saturated else ("better", "it now keeps up")
        return _made(pair, change, None, None, verdict, note)
    elif before.saturated is False:  # it served what came
        beyond = False
    else:
        least = _THRESHOLDS[before.family]
        beyond = abs(change) > least and (before.family != "memory" or abs(after.value - before.value) > _MEMORY_BYTES)
    return _made(pair, change, low, high, _verdict(before, change) if beyond else "unchanged", "")


def _metric_changes(pairs: _Pairs) -> list[Change]:
    """The items are the same in both, so the errors of both are alike and their difference is more certain than this
    says: what was right for which item is not in a result.
    """
    reach = NormalDist().inv_cdf(1 - _ERROR / len(pairs) / 2)
    changes = []
    for before, after in pairs:
        change = after.value - before.value
        error = reach * math.hypot(before.deviation or 0.0, after.deviation or 0.0)
        beyond = abs(change) > max(error, _METRIC_FLOOR)
        low, high = max(-1.0, change - error), min(1.0, change + error)
        changes.append(
            _made((before, after), change, low, high, _verdict(before, change) if beyond else "unchanged", "")
        )
    return changes


def _made(
    pair: tuple[Quantity, Quantity], change: float, low: float | None, high: float | None, verdict: str, note: str
) -> Change:
    one, other = pair
    worst = None
    if low is not None and high is not None:
        worst = _share(-low if one.higher_is_better else high, one.unit, one.value)
    return Change(
        one.id, one.what, one.figure, one.unit, one.value, other.value, change, low, high, worst, verdict, note
    )


def _share(change: float, unit: str, before: float) -> float:
    """A change as a share of what was before: what it is already, but for metrics, whose changes are points."""
    return change / max(before, 1e-9) if unit == "" else change


def _with_limit(change: Change, fail_on: float | None) -> Change:
    if fail_on is None or change.verdict != "worse":
        return change
    share = _share(abs(change.change), change.unit, change.before)
    return replace(change, failed=share > fail_on or bool(change.note))


def _verdict(quantity: Quantity, change: float) -> str:
    return "better" if (change > 0) == quantity.higher_is_better else "worse"


def _why_not(before: Quantity, after: Quantity) -> str:
    if before.setting != after.setting:
        old, new = dict(before.setting), dict(after.setting)
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return f"not the same measurement: {', '.join(names)} differ" + ("s" if len(names) == 1 else "")
    return before.why_not or after.why_not


def _blocks(quantities: Iterable[Quantity]) -> list[Blocks]:
    return [one.blocks for one in quantities if one.blocks is not None]


def _by_key(quantities: Sequence[Quantity], document: Fields) -> dict[tuple[str, str], Quantity]:
    found: dict[tuple[str, str], Quantity] = {}
    for one in quantities:
        key = (one.id, one.figure)
        if key in found:
            raise ResultError(f"a damaged result: {document.where}{one.id!r} is there twice; measure again")
        found[key] = one
    return found
