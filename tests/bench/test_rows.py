"""Timing in turn, ratios, targets and the table: exact, without measuring anything."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest

from claprt_bench.measure import Side, Spread, interleave, turns
from claprt_bench.rows import Row, table


class Clock:
    """Time that passes only when something says so, and a record of who ran when."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.now, self.costs, self.log = 0.0, costs, list[tuple[str, int]]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.log.append(("pause", round(seconds * 1000)))

    def side(self, name: str) -> Side:
        def run(index: int) -> None:
            self.now += self.costs[name] * (1 + index)
            self.log.append((name, index))

        return run


def test_sides_take_turns_with_a_pause_before_each_run() -> None:
    """Every round has all sides once on the same inputs; the first changes; warm-up and pauses are not in the times."""
    clock = Clock({"a": 1.0, "b": 10.0, "c": 100.0})
    sides = {name: clock.side(name) for name in clock.costs}
    samples = interleave(sides, rounds=4, pause=0.15, warm_up=1, clock=lambda: clock.now, sleep=clock.sleep)
    assert clock.log[:3] == [("a", 0), ("b", 0), ("c", 0)]
    timed = clock.log[3:]
    assert timed[::2] == [("pause", 150)] * 12
    order = ["abc", "bca", "cab", "abc"]
    assert timed[1::2] == [(name, index) for index, names in enumerate(order) for name in names]
    assert samples["a"] == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert samples["c"] == pytest.approx([100.0, 200.0, 300.0, 400.0])


def test_real_time_is_measured() -> None:
    """With the real clock a busy loop takes its time, and the pause is not part of it."""
    import time

    def busy(index: int) -> None:
        end = time.perf_counter() + 0.01
        while time.perf_counter() < end:
            pass

    samples = interleave({"busy": busy, "idle": lambda index: None}, rounds=2, pause=0.05, warm_up=0)
    assert min(samples["busy"]) >= 0.01
    assert max(samples["idle"]) < 0.05


def test_turns_of_a_negative_round() -> None:
    """The warm-up of cold starts counts up to zero."""
    assert turns(["a", "b", "c"], -1) == ["c", "a", "b"]


def test_spread() -> None:
    """Median, minimum and inclusive quartiles, of one sample too."""
    assert asdict(Spread.of([4.0, 1.0, 3.0, 2.0, 5.0])) == {
        "median": 3.0,
        "minimum": 1.0,
        "lower_quartile": 2.0,
        "upper_quartile": 4.0,
    }
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("fields", "ratio", "met"),
    [
        ({"ours": [2.0], "theirs": [6.0], "target": 3.0}, 3.0, True),  # just reached
        ({"ours": [2.0], "theirs": [5.99], "target": 3.0}, 2.995, False),
        ({"ours": [2.0], "theirs": [6.0]}, 3.0, None),  # nothing was aimed at
        ({"ours": [], "theirs": [6.0], "target": 3.0}, None, None),
        ({"ours": [2.0], "theirs": [6.0], "sense": "smaller", "target": 1 / 3}, 1 / 3, True),
        ({"ours": [2.1], "theirs": [6.0], "sense": "smaller", "target": 1 / 3}, 0.35, False),
        ({"ours": [199.0], "theirs": [2000.0], "sense": "smaller", "target": 1 / 6, "below": 200.0}, 0.0995, True),
        ({"ours": [200.0], "theirs": [2000.0], "sense": "smaller", "target": 1 / 6, "below": 200.0}, 0.1, False),
        ({"ours": [150.0], "theirs": [600.0], "sense": "smaller", "target": 1 / 6, "below": 200.0}, 0.25, False),
        ({"ours": [150.0], "theirs": [], "sense": "smaller", "target": 1 / 6, "below": 200.0}, None, None),
        ({"ours": [math.nan], "theirs": [6.0], "target": 3.0}, math.nan, False),
    ],
)
def test_met_or_missed(fields: dict[str, Any], ratio: float | None, met: bool | None) -> None:
    """Targets hold at the bound, both conditions must hold, and what was not measured is neither met nor missed."""
    row = Row("what", "whom", "ms", **fields)
    assert row.ratio == (ratio if ratio is None else pytest.approx(ratio, nan_ok=True))
    assert row.met is met
    assert row.to_json()["met"] is met


def test_ratio_of_medians_and_of_rounds() -> None:
    """A machine that gets slower between rounds moves the one, not the other."""
    row = Row("what", "whom", "ms", ours=[1.0, 2.0, 30.0], theirs=[3.0, 6.0, 90.0])
    assert row.ratio == row.pairwise_ratio == 3.0
    row = Row("what", "whom", "ms", ours=[1.0, 10.0, 10.0], theirs=[4.0, 20.0, 30.0])
    assert row.ratio == 2.0
    assert row.pairwise_ratio == 3.0


def test_json_of_a_row() -> None:
    """All that the brief of a result needs, and every sample; a row without measurement has nulls, no zeros."""
    row = Row("w", "a", "ms/clip", target=2.2, ours=[1.0, 3.0], theirs=[4.0, 4.0], accuracy={"worst_cosine": 1.0})
    document = json.loads(json.dumps(row.to_json()))
    assert document["ours"] == {"median": 2.0, "minimum": 1.0, "lower_quartile": 1.5, "upper_quartile": 2.5}
    assert document["target"] == {"ratio_at_least": 2.2}
    assert document["ratio"] == 2.0
    assert document["ratio_is"] == "theirs / ours"
    assert document["samples"] == {"ours": [1.0, 3.0], "theirs": [4.0, 4.0]}
    missing = Row("w", "a", "MB", "smaller", target=0.5, below=200.0, notes=("why",)).to_json()
    assert missing["target"] == {"ratio_at_most": 0.5, "ours_below": 200.0}
    assert (
        missing["ours"] is missing["theirs"] is missing["ratio"] is missing["pairwise_ratio"] is missing["met"] is None
    )
    assert missing["notes"] == ["why"]


def test_table() -> None:
    """Columns line up, a ratio is never rounded into its target, a note appears once, a gap is called one."""
    text = table(
        [
            Row("first", "a", "ms/clip", target=2.2, ours=[100.0], theirs=[219.99], notes=("a note",)),
            Row("second, longer", "a", "s", target=2.2, ours=[0.5], theirs=[1.1], notes=("a note", "another")),
            Row("third", "a", "MB", "smaller", target=1 / 3, ours=[1234.5], theirs=[3703.4]),
            Row("fourth", "a", "ms", theirs=[5.0]),
            Row("fifth", "a", "ms", ours=[5.0], theirs=[7.5]),
        ]
    ).splitlines()
    assert [line.split() for line in text[:1]] == [["unit", "claprt", "other", "ratio", "by", "round", "target"]]
    assert set(text[1]) == {"-"}
    assert text[2].split() == ["first", "ms/clip", "100", "220", "2.19x", "2.19x", ">=", "2.2x", "MISSED", "[1]"]
    assert text[3].split()[-4:] == ["2.2x", "met", "[1]", "[2]"]
    assert text[4].split() == ["third", "MB", "1234", "3703", "0.334", "0.334", "<=", "0.333", "MISSED"]
    assert text[5].split() == ["fourth", "ms", "-", "5", "-", "-", "-", "not", "measured"]
    assert text[6].split() == ["fifth", "ms", "5", "7.5", "1.50x", "1.50x", "-"]
    assert text[7:] == ["[1] a note", "[2] another"]
    assert text[2].index("MISSED") == text[3].index("met") == text[5].index("not measured")
    assert len(text[1]) == max(len(line) for line in text[:7])
