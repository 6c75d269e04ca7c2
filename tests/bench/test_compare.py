"""Comparing two results: how often it is wrong, what it finds, and what it refuses."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from claprt.cli.bench_compare import percentage, run_compare
from claprt.errors import OptionError
from claprt_bench.comparing.compare import Change, Comparison, compare
from claprt_bench.comparing.noise import Blocks, judge, moderate, percentile
from claprt_bench.errors import ResultError
from tests.bench.runs import calls, evaluation, measurement, speed, write
from tests.runtime.cli_helpers import Cli

_FLOOR, _DRIFT = math.log1p(0.03), math.log1p(0.05)
_Noise = Callable[[np.random.Generator, int], NDArray[np.float64]]


def _judge(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    count = len(before)
    first, second = ([Blocks(values) for values in side] for side in (before, after))
    found, _ = judge(first, second, 0.025 / count, [_FLOOR] * count, _DRIFT)
    return np.array([one.beyond for one in found])


def _independent(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """3 % from block to block."""
    return 0.03 * rng.standard_normal((count, 5))


def _shared(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Blocks that are slow are slow for all measurements."""
    return 0.03 * rng.standard_normal((1, 5)) + 0.01 * rng.standard_normal((count, 5))


def _drifting(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """The machine gets slower or faster by up to 4 % from the first block to the last."""
    return rng.uniform(-0.04, 0.04) * np.linspace(0, 1, 5) + 0.02 * rng.standard_normal((count, 5))


def _outliers(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """One block in twenty takes a third longer."""
    return _independent(rng, count) + (rng.random((count, 5)) < 0.05) * rng.exponential(0.3, (count, 5))


def _heavy_tailed(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return np.asarray(0.02 * rng.standard_t(3, (count, 5)))


def _medians_of_calls(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Blocks of 15 calls that differ too, some by much."""
    logs = _independent(rng, count)[:, :, None] + np.abs(0.05 * rng.standard_normal((count, 5, 15)))
    return np.asarray(np.median(logs + (rng.random(logs.shape) < 0.03) * rng.exponential(0.5, logs.shape), axis=2))


_NOISES = (_independent, _shared, _drifting, _outliers, _heavy_tailed, _medians_of_calls)


@pytest.mark.parametrize("noise", _NOISES, ids=lambda noise: noise.__name__.strip("_"))
@pytest.mark.parametrize("count", [5, 40])
def test_nothing_changed_and_little_is_called_a_change(noise: _Noise, count: int) -> None:
    """Whole comparisons of two runs of the same code: less than one in twenty calls anything at all a change."""
    rng = np.random.default_rng(1)
    runs = 400
    alarms = sum(bool(_judge(noise(rng, count), noise(rng, count)).any()) for _ in range(runs))
    assert alarms < 0.05 * runs


def test_unequal_noise_between_measurements_raises_few_alarms() -> None:
    """Some measurements are five times as noisy as others, in both runs: their own variance counts then."""
    rng = np.random.default_rng(2)
    runs, alarms = 400, 0
    for _ in range(runs):
        noisiness = np.exp(0.5 * rng.standard_normal((40, 1)))
        alarms += bool(_judge(noisiness * _independent(rng, 40), noisiness * _independent(rng, 40)).any())
    assert alarms < 0.05 * runs


@pytest.mark.parametrize("count", [1, 5, 40])
def test_ten_percent_is_found(count: int) -> None:
    """One measurement that got 10 % slower, of 40 that did not, is found in 9 of 10 runs with 5 repeats."""
    rng = np.random.default_rng(30)
    runs, found = 1500, 0
    for _ in range(runs):
        before, after = _independent(rng, count), _independent(rng, count)
        after[0] += math.log(1.1)
        found += bool(_judge(before, after)[0])
    assert found >= 0.9 * runs


def test_all_slower_is_found_and_a_drift_is_not() -> None:
    """Where everything got 15 % slower, nearly everything is called slower; 3.5 % is the machine's."""
    rng = np.random.default_rng(4)
    shares = [_judge(_independent(rng, 40), _independent(rng, 40) + math.log(1.15)).mean() for _ in range(50)]
    assert np.mean(shares) > 0.9
    alarms = sum(bool(_judge(_independent(rng, 40), _independent(rng, 40) + math.log(1.035)).any()) for _ in range(200))
    assert alarms < 0.05 * 200


def test_moderated_variances_are_those_of_a_known_prior() -> None:
    """Variances drawn from a scaled inverse chi-square: the estimate finds its degrees of freedom and its scale."""
    rng = np.random.default_rng(5)
    prior, scale, own = 10.0, 0.0009, 8.0
    true = scale * prior / rng.chisquare(prior, 4000)
    drawn = true * rng.chisquare(own, 4000) / own
    moderated, degrees = moderate(drawn, np.full(4000, own))
    assert degrees[0] - own == pytest.approx(prior, rel=0.15)
    assert np.mean((moderated - true) ** 2) < 0.6 * np.mean((drawn - true) ** 2)


def test_the_mean_of_a_percentiles_values_is_the_percentile() -> None:
    """And their variance is that of percentiles of such runs, measured again and again."""
    rng = np.random.default_rng(6)

    def run() -> list[NDArray[np.float64]]:
        return list(calls(rng, count=100))

    values = [percentile(run(), 95) for _ in range(300)]
    one = run()
    assert math.exp(percentile(one, 95).mean) == pytest.approx(float(np.percentile(np.concatenate(one), 95)))
    measured = np.var([value.mean for value in values])
    assert np.mean([value.values.var(ddof=1) / 5 for value in values]) == pytest.approx(measured, rel=0.35)


# Whole documents.


def _pair(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> tuple[Path, Path]:
    return write(before, tmp_path / "before.json"), write(after, tmp_path / "after.json")


def _many(rng: np.random.Generator, factors: dict[int, float] | None = None, **fields: Any) -> list[dict[str, Any]]:
    return [
        measurement(f"m{index}", calls(rng, factor=(factors or {}).get(index, 1.0)), batch=index + 1, **fields)
        for index in range(12)
    ]


def _open_loop(samples: NDArray[np.float64], **fields: Any) -> dict[str, Any]:
    return {
        "id": "o", "what": "waveform -> vector", "precision": "fp32", "backend": "ort-cpu", "threads": 2, "rate": 2.0,
        "arrivals": "poisson", "achieved_rate": 1.98, "saturated": False, "service": {"mean_ms": 100.0},
        "samples_ms": samples.ravel().tolist(),
    } | fields  # fmt: skip


def _cold(samples: NDArray[np.float64], peak: int) -> dict[str, Any]:
    return {"id": "c", "what": "process start -> first vector", "samples_ms": samples.tolist(), "peak_host_bytes": peak}


def _against(rng: np.random.Generator, ours: float) -> dict[str, Any]:
    return {
        "id": "a", "what": "waveform -> vector", "peer": "transformers", "unit": "ms",
        "ours": calls(rng, ours, 15, 1)[:, 0].tolist(), "theirs": calls(rng, 240, 15, 1)[:, 0].tolist(),
    }  # fmt: skip


def _scaling(factor: float) -> dict[str, Any]:
    points = [
        {"x": x, "median_ms": 50.0 * x * factor, "spread_ms": [49.5 * x * factor, 51.0 * x * factor]} for x in (1, 2, 4)
    ]
    return {"id": "s", "what": "waveform -> vector", "axis": "batch", "points": points}


def _of(found: Comparison, figure: str, name: str = "") -> Change:
    return next(one for one in found.changes if one.figure == figure and one.id.startswith(name))


def test_every_figure_is_compared_in_its_own_sense(tmp_path: Path) -> None:
    """A run that is 40 % slower in all: longer is worse, fewer per second is worse, a lower ratio is worse."""
    rng = np.random.default_rng(7)

    def document(factor: float, peak: int) -> dict[str, Any]:
        samples = [calls(rng, factor=factor, count=120) for _ in range(12)]
        return speed(
            [
                measurement(f"m{i}", one, peak_host_bytes=peak, peak_device_bytes=2 * peak)
                for i, one in enumerate(samples)
            ],
            cold_start=[_cold(calls(rng, 600 * factor, 9, 1)[:, 0], peak)],
            open_loop=[_open_loop(calls(rng, 100 * factor**4, 1, 600), service={"mean_ms": 100 * factor})],
            scaling=[_scaling(factor)],
            against=[_against(rng, 100 * factor)],
        )

    paths = _pair(tmp_path, document(1.0, 200_000_000), document(1.4, 260_000_000))
    found = compare(*paths)
    figures = (
        "median",
        "throughput",
        "p90",
        "p95",
        "cold start",
        "ratio to the peer",
        "peak memory",
        "peak GPU memory",
    )
    assert {figure: _of(found, figure).verdict for figure in figures} == dict.fromkeys(figures, "worse")
    assert _of(found, "median", "s/4").verdict == _of(found, "p95", "o").verdict == "worse"
    assert _of(found, "median").change == pytest.approx(0.4, abs=0.1)
    assert _of(found, "throughput").change == pytest.approx(-0.28, abs=0.07)
    assert _of(found, "throughput").before == pytest.approx(
        1000 / np.mean(json.loads(paths[0].read_text())["measurements"][0]["samples_ms"]), rel=0.01
    )
    reverse = compare(paths[1], paths[0])
    assert {figure: _of(reverse, figure).verdict for figure in figures} == dict.fromkeys(figures, "better")
    same = compare(paths[0], paths[0], 0.0)
    assert {one.verdict for one in same.changes} == {"unchanged"}
    assert not same.failed


def test_a_loop_that_keeps_up_no_more_is_worse(tmp_path: Path) -> None:
    """However little fewer it serves; and latencies of a loop that grows without end are not judged."""
    rng = np.random.default_rng(8)
    samples = calls(rng, 100, 1, 600)
    paths = _pair(
        tmp_path, speed([], open_loop=[_open_loop(samples)]), speed([], open_loop=[_open_loop(samples, saturated=True)])
    )
    found = compare(*paths, 0.5)
    assert (_of(found, "served").verdict, _of(found, "p99").verdict, found.failed) == ("worse", "not judged", True)
    assert not compare(paths[1], paths[0], 0.5).failed


def test_what_cannot_be_judged_says_why(tmp_path: Path) -> None:
    """One repeat, too few requests, another batch under the same id: no verdict."""
    rng = np.random.default_rng(9)
    once = measurement("once", calls(rng, repeats=1))
    short = _open_loop(calls(rng, 100, 1, 60))
    other = measurement("other", calls(rng), batch=4)
    paths = _pair(
        tmp_path,
        speed([once, other], open_loop=[short]),
        speed([once, {**other, "batch": 8, "threads": 1}], open_loop=[short]),
    )
    notes = {(one.id, one.figure): one.note for one in compare(*paths).changes if one.verdict == "not judged"}
    assert "one repeat" in notes["once", "median"]
    assert "too few requests" in notes["o", "p99"]
    assert "batch, threads differ" in notes["other", "median"]


def test_ids_in_one_result_only_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    first, second, third = (measurement(name, calls(rng)) for name in "abc")
    found = compare(*_pair(tmp_path, speed([first, second]), speed([second, third])))
    assert (found.only_before, found.only_after) == (("a",), ("c",))
    with pytest.raises(ResultError, match="no measurement in common"):
        compare(*_pair(tmp_path, speed([first]), speed([third])))


@pytest.mark.parametrize(
    ("part", "changes", "field", "note"),
    [
        ("machine", {"processor": "Intel Xeon"}, "machine.processor", "different machines"),
        ("machine", {"governor": "powersave"}, "machine.governor", "different machines"),
        ("machine", {"gpu": {"name": "L4"}}, "machine.gpu.name", "different machines"),
        ("machine", {"versions": {"claprt": "0.2.0"}}, "machine.versions.claprt", ""),
        ("method", {"threads": 1}, "method.threads", "different ways"),
        ("bundle", {"weights_sha256": "00" * 32}, "bundle.weights_sha256", "different models"),
        ("bundle", {"space_id": "f" * 16}, "bundle.space_id", "different models"),
        ("noise", {"quiet": False, "why_noisy": ["others used 0.8 cores"]}, "", "not quiet: others used 0.8 cores"),
    ],
)
def test_other_circumstances_are_said(
    tmp_path: Path, part: str, changes: dict[str, Any], field: str, note: str
) -> None:
    """Each field that differs by its name; noise and other machines widen what is called unchanged, versions do not."""
    document = speed(_many(np.random.default_rng(11)))
    other = speed(document["measurements"], **{part: document[part] | changes})
    found = compare(*_pair(tmp_path, document, other))
    assert [one for one in found.differences if one.field == field] or not field
    assert any(note in warning for warning in found.warnings) or not note
    assert found.floor == pytest.approx(0.06 if part in ("noise", "method") or "machines" in note else 0.03)


def test_a_check_that_fails_now_fails_the_comparison(tmp_path: Path) -> None:
    """Fast and wrong is a regression; one that failed before too is none."""
    document = speed(_many(np.random.default_rng(12)))
    failing = speed(document["measurements"], checks=[{"what": "int8, audio", "passed": False}])
    good, bad = _pair(tmp_path, document, failing)
    found = compare(good, bad, 0.1)
    assert found.failed
    assert any("int8, audio" in warning for warning in found.warnings)
    assert not compare(good, bad).failed
    assert not compare(bad, bad, 0.1).failed


# Evaluations.


def test_metrics_are_compared_with_their_intervals(tmp_path: Path) -> None:
    """20 points of 250 items are a change, 2 points are not; a bootstrap of certain success is not certain."""
    before = evaluation({"fp32": {"top1": (0.96, 0.936, 0.98), "map": (0.97, 0.95, 0.99), "top5": (1.0, 1.0, 1.0)}})
    after = evaluation({"fp32": {"top1": (0.76, 0.706, 0.81), "map": (0.95, 0.93, 0.97), "top5": (0.996, 0.988, 1.0)}})
    paths = _pair(tmp_path, before, after)
    found = compare(*paths, 0.1)
    assert {one.figure: one.verdict for one in found.changes} == {
        "top1": "worse", "map": "unchanged", "top5": "unchanged",
    }  # fmt: skip
    assert found.failed
    assert not compare(*paths, 0.3).failed
    assert not compare(paths[1], paths[0], 0.1).failed


def test_metrics_raise_few_alarms() -> None:
    """Two evaluations of the same accuracy on other items, with the intervals that a bootstrap gives: few alarms."""
    from claprt_bench.comparing.compare import _metric_changes
    from claprt_bench.comparing.fields import Fields
    from claprt_bench.comparing.quantities import metric_quantities

    rng = np.random.default_rng(13)

    def run(accuracies: Sequence[float]) -> Any:
        metrics = {}
        for index, accuracy in enumerate(accuracies):
            value = rng.binomial(250, accuracy) / 250
            low, high = np.quantile(rng.binomial(250, value, 400) / 250, [0.025, 0.975])
            metrics[f"m{index}"] = (float(value), float(low), float(high))
        return metric_quantities(Fields(evaluation({"fp32": metrics}), "x: "))

    accuracies = (0.5, 0.9, 0.96, 0.98, 0.995, 0.7)
    alarms = 0
    for _ in range(300):
        pairs = list(zip(run(accuracies), run(accuracies), strict=True))
        alarms += any(change.verdict != "unchanged" for change in _metric_changes(pairs))
    assert alarms < 0.05 * 300


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("bundle", {"weights_sha256": "00" * 32}, "other weights"),
        ("bundle", {"space_id": "f" * 16}, "another space"),
        ("dataset", {"sha256": "cd" * 32}, "other sounds or labels"),
    ],
)
def test_other_models_and_data_are_no_before_and_after(
    tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    document = evaluation({"fp32": {"top1": (0.96, 0.936, 0.98)}})
    with pytest.raises(ResultError, match=message):
        compare(*_pair(tmp_path, document, document | {part: document[part] | changes}))


def test_kinds_and_tasks_are_not_mixed(tmp_path: Path) -> None:
    document = evaluation({"fp32": {"top1": (0.96, 0.936, 0.98)}})
    with pytest.raises(ResultError, match=r"different kinds: .*'evaluation'.*'speed'"):
        compare(*_pair(tmp_path, document, speed(_many(np.random.default_rng(14)))))
    with pytest.raises(ResultError, match="different tasks: 'zero-shot' and 'probe'"):
        compare(*_pair(tmp_path, document, document | {"task": "probe"}))


# The command.


def _run(
    before: Path, after: Path, capsys: pytest.CaptureFixture[str], *, fail_on: str = "", as_json: bool = False
) -> tuple[int, str]:
    capsys.readouterr()
    code = run_compare(argparse.Namespace(before=before, after=after, fail_on=fail_on or None, json=as_json))
    return code, capsys.readouterr().out


def test_the_table_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is worse stands first; only a limit makes the command fail, and only one that is exceeded."""
    rng = np.random.default_rng(15)
    paths = _pair(tmp_path, speed(_many(rng)), speed(_many(rng, {3: 1.5, 5: 0.5})))
    code, out = _run(*paths, capsys)
    assert code == 0
    assert out.index("batch 4") < out.index("batch 6")
    assert "worse" in out
    assert "figures are unchanged" in out
    assert _run(*paths, capsys, fail_on="10%")[0] == 1
    assert _run(*paths, capsys, fail_on="200%")[0] == 0
    code, out = _run(*paths, capsys, fail_on="10%", as_json=True)
    document = json.loads(out)
    assert code == 1
    assert document["failed"]
    worse = {one["id"] for one in document["changes"] if one["verdict"] == "worse"}
    assert worse == {"m3"}
    assert len(document["changes"]) == len({(one["id"], one["figure"]) for one in document["changes"]})
    same = _run(paths[0], paths[0], capsys, fail_on="0%")
    assert same[0] == 0
    assert "Nothing changed beyond noise." in same[1]


def test_what_is_not_judged_is_no_pass(tmp_path: Path, cli: Cli) -> None:
    """With one repeat nothing is known of the times: a limit is an error then, and nothing is called unchanged."""
    rng = np.random.default_rng(23)
    once = [measurement(name, calls(rng, repeats=1), peak_host_bytes=10**9) for name in "ab"]
    paths = _pair(tmp_path, speed(once), speed(once))
    found = compare(*paths, 0.1)
    assert found.nothing_judged
    assert found.undecided == found.not_judged == 4
    assert found.to_json()["nothing_judged"] is True
    failed = cli("bench", "compare", *paths, "--fail-on", "10%")
    assert failed.code == 2
    assert failed.err.startswith("claprt: error: no time could be judged, so --fail-on 10% tests nothing: one repeat")
    assert failed.err.count("\n") == 1
    assert "Nothing that could be judged changed beyond noise." in failed.out
    assert "Nothing changed" not in failed.out
    assert cli("bench", "compare", *paths, "--fail-on", "10%", "--json").code == 2
    assert cli("bench", "compare", *paths).code == 0
    times = speed([measurement("a", calls(rng, repeats=1))])
    assert "Nothing could be judged." in cli("bench", "compare", *_pair(tmp_path, times, times)).out
    # One that can be judged makes the limit a test; the others are said.
    both = speed([measurement("a", calls(rng)), once[1]])
    paths = _pair(tmp_path, both, both)
    passed = cli("bench", "compare", *paths, "--fail-on", "200%")
    assert (passed.code, compare(*paths, 2.0).undecided) == (0, 2)
    assert "2 figures were not judged: whether they got worse is not known." in passed.out
    worse = speed(once) | {"checks": [{"what": "x", "value": 1, "bound": 0, "passed": False}]}
    assert cli("bench", "compare", *_pair(tmp_path, speed(once), worse), "--fail-on", "10%").code == 1


def test_pipes_and_devices_are_not_read(tmp_path: Path, cli: Cli) -> None:
    """Nobody writes into the one, the other never ends."""
    good = write(speed([_ONE]), tmp_path / "a.json")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero"):
        assert f"{path}: it is a" in cli("bench", "compare", path, good).error
        assert f"{path}: it is a" in cli("bench", "compare", good, path).error
        assert f"{path}: it is a" in cli("bench", "report", path, "-o", tmp_path / "r.html").error


def test_the_limit_is_on_the_change_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A regression counts when it is beyond noise and its estimate is above the limit, wherever its interval ends."""
    rng = np.random.default_rng(16)
    paths = _pair(tmp_path, speed(_many(rng)), speed(_many(rng, {3: 1.2})))
    worst = max((one for one in compare(*paths).changes if one.verdict == "worse"), key=lambda one: abs(one.change))
    assert worst.low is not None
    assert worst.high is not None
    assert min(abs(worst.low), abs(worst.high)) < 0.9 * abs(worst.change)
    assert _run(*paths, capsys, fail_on=f"{100 * abs(worst.change) - 0.5:.1f}%")[0] == 1
    assert _run(*paths, capsys, fail_on=f"{100 * abs(worst.change) + 0.5:.1f}%")[0] == 0


@pytest.mark.parametrize(
    ("text", "value"), [("10%", 0.1), ("10", 0.1), ("10 %", 0.1), ("0.5%", 0.005), ("0", 0.0), ("7.5", 0.075)]
)
def test_percentages(text: str, value: float) -> None:
    assert percentage(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["0.1", "", "%", "-5%", "ten", "1e1", "nan", "inf", "10%%", "10 percent", "１０%", " 10", "99999"]
)
def test_bad_percentages(text: str) -> None:
    """0.1 may mean 10 % or 0.1 %: it is refused, with both spelled out."""
    with pytest.raises(OptionError, match=r"0\.1% or 10%" if text == "0.1" else "pass a percentage"):
        percentage(text)


def test_the_command_line(tmp_path: Path, cli: Cli) -> None:
    """`claprt bench compare` as users call it: its exit codes, and errors of one line."""
    rng = np.random.default_rng(19)
    before, after = _pair(tmp_path, speed(_many(rng)), speed(_many(rng, {3: 1.5})))
    assert cli("bench", "compare", before, after).code == 0
    assert cli("bench", "compare", before, after, "--fail-on", "10%").code == 1
    for arguments, said in (
        ((before, after, "--fail-on", "0.1"), "pass 0.1% or 10%"),
        ((before, tmp_path / "none.json"), "No such file"),
        ((before, write(evaluation({"fp32": {"top1": (0.9, 0.8, 0.95)}}), tmp_path / "e.json")), "different kinds"),
    ):
        failed = cli("bench", "compare", *arguments)
        assert (failed.code, failed.out, failed.err.count("\n")) == (2, "", 1)
        assert said in failed.err


# Files that are not what they seem.

_ONE = measurement("a", np.full((5, 20), 100.0))


def _with(**fields: Any) -> dict[str, Any]:
    return speed([{**_ONE, **fields}])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (_with(id=None), r"measurements\[0\]\.id is None, not a line"),
        (_with(id="\x1b[31mred"), r"measurements\[0\]\.id is .*, not a line"),
        (_with(id="x" * 5000), r"measurements\[0\]\.id"),
        (_with(batch="1"), r"measurements\[0\]\.batch is '1', not an integer"),
        (_with(batch=True), r"measurements\[0\]\.batch is True"),
        (_with(batch=0), r"measurements\[0\]\.batch is 0"),
        (_with(batch=10**400), r"measurements\[0\]\.batch is a huge integer"),
        (_with(threads=[2]), r"measurements\[0\]\.threads is a list of 1"),
        (_with(samples_ms=[]), r"samples_ms is a list of 0, not a list of at least one repeat"),
        (_with(samples_ms=[[]]), r"samples_ms\[0\] is a list of 0, not a list of at least one number"),
        (_with(samples_ms=[[1.0, 0.0]]), r"samples_ms\[0\]\[1\] is 0\.0, not a positive number"),
        (_with(samples_ms=[[1.0], [-3]]), r"samples_ms\[1\]\[0\] is -3"),
        (_with(samples_ms=[[1.0, "2"]]), r"samples_ms\[0\]\[1\] is '2'"),
        (_with(samples_ms=[[1.0, None]]), r"samples_ms\[0\]\[1\] is None"),
        (_with(samples_ms=[[10**400]]), r"samples_ms\[0\]\[0\] is a huge integer"),
        (_with(samples_ms=[[1.0]] * 2000), r"samples_ms is a list of 2000, not at most 1000 repeats"),
        (_with(peak_host_bytes=1.5), r"peak_host_bytes is 1\.5"),
        (speed([_ONE, _ONE]), r"'a' is there twice"),
        (speed([_ONE]) | {"measurements": {}}, r"measurements is a dict of 0, not a list"),
        (speed([1]), r"measurements\[0\] is 1, not an object"),  # type: ignore[list-item]
        (speed([_ONE], noise={}), r"noise\.quiet is missing"),
        (speed([_ONE], noise={"quiet": "yes"}), r"noise\.quiet is 'yes', not true or false"),
        (speed([_ONE], machine=None), r"machine is None, not an object"),
        (speed([_ONE], checks=[{"what": "x"}]), r"checks\[0\]\.passed is missing"),
        (speed([_ONE], scaling=[{**_scaling(1.0), "points": [{"x": 1, "median_ms": 1, "spread_ms": [2, 1]}]}]),
         r"spread_ms is a list of 2, not two numbers, the lower one first"),
        (speed([_ONE], against=[{"id": "a", "what": "w", "peer": "p", "unit": "ms", "ours": [1], "theirs": [1, 2]}]),
         r"theirs is a list of 2, not a list of 1"),
        (evaluation({"fp32": {"top1": (1.2, 0.9, 1.0)}}), r"metrics\.top1\.value is 1\.2, not a number from 0 to 1"),
        (evaluation({"fp32": {"top1": (0.9, 0.99, 0.95)}}), r"metrics\.top1\.low is 0\.99"),
        (evaluation({"fp32": {"a\nb": (0.9, 0.8, 0.95)}}), r"name of a metric is 'a\\nb'"),
        (evaluation({"fp32": {"top1": (0.9, 0.8, 0.95)}}, method={"confidence": 2}), r"method\.confidence is 2"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    path = write(document, tmp_path / "a.json")
    with pytest.raises(ResultError, match=message) as raised:
        compare(path, path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_every_missing_field_is_an_error_or_not_needed(tmp_path: Path) -> None:
    """Whatever field is left out or replaced, compare answers or refuses; nothing else comes out."""
    rng = np.random.default_rng(17)
    document = speed(
        [measurement("a", calls(rng, count=10), peak_host_bytes=1000)],
        cold_start=[_cold(calls(rng, 600, 9, 1)[:, 0], 1000)],
        open_loop=[_open_loop(calls(rng, 100, 1, 600))],
        scaling=[_scaling(1.0)],
        against=[_against(rng, 100)],
    )
    tried = 0
    for whole in (document, evaluation({"fp32": {"top1": (0.96, 0.936, 0.98)}})):
        good = write(whole, tmp_path / "good.json")
        replacements: tuple[Any, ...] = ("gone", None, -1, [], "x", 1e300)
        for path in _paths(whole):
            for replacement in replacements:
                changed = json.loads(json.dumps(whole))
                *parents, last = path
                target = changed
                for key in parents:
                    target = target[key]
                if replacement == "gone" and isinstance(target, dict):
                    del target[last]
                else:
                    target[last] = replacement
                bad = write(changed, tmp_path / "bad.json")
                tried += 1
                with contextlib.suppress(ResultError):
                    json.dumps(compare(good, bad, 0.1).to_json(), allow_nan=False)
    assert tried > 700


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every field, and of the first items of lists."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else []
    return [found for key, item in items for found in [(*path, key), *_paths(item, (*path, key))]]


def test_extreme_numbers_come_out_as_json(tmp_path: Path) -> None:
    """The largest and smallest numbers that a result may hold."""
    first = speed([measurement("a", np.array([[1e-9] * 3, [1e18] * 3])), measurement("b", np.full((2, 3), 1e-9))])
    second = speed([measurement("a", np.full((2, 3), 1e18)), measurement("b", np.full((2, 3), 1e18))])
    found = compare(*_pair(tmp_path, first, second), 0.1)
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("depth", [100, 900, 1000, 100_000])
def test_deep_nesting_is_no_traceback(tmp_path: Path, depth: int) -> None:
    good = write(speed([_ONE]), tmp_path / "b.json")
    deep = tmp_path / "a.json"
    deep.write_text(good.read_text().replace('"AMD EPYC"', '{"a":' * depth + "1" + "}" * depth))
    if depth < 1000:
        with contextlib.suppress(ResultError):
            compare(deep, good)
    else:
        with pytest.raises(ResultError, match=r"nested too deeply|recursion"):
            compare(deep, good)


def test_a_machine_that_was_busy_hides_changes(tmp_path: Path) -> None:
    """Others used half of the cores: what looks like 40 % slower may be them, and it is not called a change."""
    rng = np.random.default_rng(18)
    before = speed(_many(rng))
    busy = {"others": 1.0, "stolen": 0.0, "quiet": False, "why_noisy": ["others"], "yardstick_ms": [2.0, 2.1]}
    after = speed(_many(rng, {3: 1.4}), noise=busy)
    assert "worse" not in {one.verdict for one in compare(*_pair(tmp_path, before, after)).changes}
    quiet = after | {"noise": before["noise"]}
    assert "worse" in {one.verdict for one in compare(*_pair(tmp_path, before, quiet)).changes}


@pytest.mark.parametrize(("block", "limit", "undecided"), [(0.002, 0.1, False), (0.15, 0.1, True), (0.002, 0.02, True)])
def test_what_noise_hides_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], block: float, limit: float, undecided: bool
) -> None:
    """A limit of 10 % is met for certain in 0.2 % of noise, not in 15 %; one of 2 % never, it is below the floor."""
    rng = np.random.default_rng(19)
    runs = [speed([measurement("a", calls(rng, block=block, call=0.0))]) for _ in range(2)]
    paths = _pair(tmp_path, runs[0], runs[1])
    found = compare(*paths, limit)
    median = _of(found, "median")
    assert median.verdict == "unchanged"
    assert median.worst == median.high
    assert (median.worst is not None and max(median.worst, found.floor) > limit) == undecided
    assert (found.undecided > 0) == undecided
    assert not found.failed
    code, out = _run(*paths, capsys, fail_on=f"{100 * limit:g}%")
    assert code == 0
    assert ("noise hides changes of that size: raise --duration" in out) == undecided


def test_what_few_sounds_hide_is_said(tmp_path: Path) -> None:
    """96 % of 250 sounds, twice: 10 % worse would show, 1 % worse would not. Shares are of the value, not points."""
    paths = _pair(tmp_path, *[evaluation({"fp32": {"top1": (0.5, 0.44, 0.56)}})] * 2)
    (change,) = compare(*paths, 0.5).changes
    assert change.worst == pytest.approx(-2 * change.low)  # type: ignore[operator]
    assert compare(*paths, 0.5).undecided == 0
    assert compare(*paths, 0.01).undecided == 1
