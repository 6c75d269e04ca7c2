"""Intervals and comparisons of variants: against closed forms, scikit-learn's weights and exact tests."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from claprt_bench.evaluation.bootstrap import (
    BalancedAccuracy,
    Bootstrap,
    MeanAveragePrecision,
    Share,
    Statistic,
    mcnemar,
)


def bools(*ones: int, count: int) -> NDArray[np.bool_]:
    result = np.zeros(count, dtype=bool)
    result[list(ones)] = True
    return result


def scored(seed: int, count: int = 40, classes: int = 5, levels: int = 8) -> MeanAveragePrecision:
    """Scores with many ties, several labels, and a class without sounds."""
    rng = np.random.default_rng(seed)
    truth = rng.random((count, classes)) < 0.3
    truth[:, -1] = False
    return MeanAveragePrecision(rng.integers(0, levels, (count, classes)) / levels, truth)


@pytest.mark.parametrize("levels", [1, 2, 8, 10**6])
def test_mean_average_precision_with_weights_is_scikit_learns(levels: int) -> None:
    """Every sample: ties of any size, sounds that were not drawn, classes of which none was."""
    rng = np.random.default_rng(levels)
    for seed in range(5):
        statistic = scored(seed, levels=levels)
        weights = rng.integers(0, 3, (6, 40)).astype(float)
        weights[-1, statistic.truth[:, 0]] = 0  # a sample without the first class
        expected = [
            np.mean(
                [
                    average_precision_score(right, scores, sample_weight=row)
                    for right, scores in zip(statistic.truth.T, statistic.scores.T, strict=True)
                    if row[right].sum()
                ]
            )
            for row in weights
        ]
        np.testing.assert_allclose(statistic.resampled(weights), expected, atol=1e-12)
        assert statistic.value == pytest.approx(statistic.resampled(np.ones((1, 40)))[0], abs=1e-12)


def test_classes_without_sounds_have_no_average_precision() -> None:
    statistic = scored(0)
    found = statistic.by_class()
    assert found[-1] is None
    assert statistic.value == pytest.approx(np.mean([value for value in found if value is not None]))


def test_balanced_accuracy_with_weights_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 60))
    statistic = BalancedAccuracy(truth == predicted, truth)
    weights = rng.integers(0, 3, (8, 60)).astype(float)
    weights[-1, truth == 2] = 0
    for row, value in zip(weights, statistic.resampled(weights), strict=True):
        drawn = row > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a class was drawn nowhere
            expected = balanced_accuracy_score(truth[drawn], predicted[drawn], sample_weight=row[drawn])
        assert value == pytest.approx(expected)
    assert statistic.value == pytest.approx(balanced_accuracy_score(truth, predicted))


@pytest.mark.parametrize(("right", "count", "confidence"), [(240, 250, 0.95), (30, 40, 0.9), (3, 500, 0.99)])
def test_the_interval_of_a_share_is_that_of_the_binomial(right: int, count: int, confidence: float) -> None:
    """Resamples of a share are binomial draws: the percentiles are known without drawing."""
    bootstrap = Bootstrap(confidence, resamples=20_000)
    statistic = Share.of(bools(*range(right), count=count))
    found = bootstrap.interval(statistic, bootstrap.distribution(statistic))
    tail = (1 - confidence) / 2
    expected = binom.ppf([tail, 1 - tail], count, right / count) / count
    assert found["value"] == right / count
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=1.01 / count)


def test_samples_draw_as_many_sounds_as_there_are() -> None:
    """Every sample's weights add up to n, whatever blocks they come in, and each sound is drawn as often as others."""

    rows: list[NDArray[np.float64]] = []

    class Sums:
        count, value = 50, 0.5

        def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
            rows.append(weights)
            result: NDArray[np.float64] = weights.sum(axis=1)
            return result

    bootstrap = Bootstrap(resamples=100_000)  # more than a block
    assert set(bootstrap.distribution(Sums())) == {50.0}
    drawn = np.concatenate(rows)
    assert len(rows) > 1
    assert drawn.shape == (100_000, 50)
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.02)
    np.testing.assert_allclose(drawn.var(axis=0), 1 - 1 / 50, atol=0.03)  # of a multinomial


def test_sounds_are_drawn_with_all_their_captions() -> None:
    """Captions of a sound that are right together make the interval wider than as many sounds would."""
    together = Share(np.repeat([5.0, 0.0], 20), np.full(40, 5.0))
    apart = Share.of(np.repeat([True, False], 100))
    bootstrap = Bootstrap()
    widths = []
    for statistic in (together, apart):
        found = bootstrap.interval(statistic, bootstrap.distribution(statistic))
        assert found["value"] == 0.5
        widths.append(found["high"] - found["low"])
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(5), rel=0.1)


@pytest.mark.parametrize(("kind", "value"), [("share", 0), ("share", 1), ("balanced", 0), ("balanced", 1), ("map", 1)])
def test_a_perfect_score_is_not_certain(kind: str, value: int) -> None:
    """No sample would differ; Clopper and Pearson's bound for 0 of n is 1 - (alpha/2)^(1/n)."""
    truth = np.repeat([0, 1], 20)
    statistic: Statistic
    if kind == "share":
        statistic = Share.of(np.full(40, bool(value)))
    elif kind == "balanced":
        statistic = BalancedAccuracy(np.full(40, bool(value)), truth)
    else:
        members = np.eye(2)[truth]
        statistic = MeanAveragePrecision(members + np.arange(80).reshape(40, 2) / 800, members > 0)
    bootstrap = Bootstrap(0.95)
    found = bootstrap.interval(statistic, bootstrap.distribution(statistic))
    width = 1 - 0.025 ** (1 / 40)
    assert found == {
        "value": value,
        "low": pytest.approx(1 - width if value else 0.0),
        "high": pytest.approx(1.0 if value else width),
    }


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    statistic = Share.of(np.random.default_rng(0).random(1000) < 0.7)
    a, b, c = (Bootstrap(seed=seed).distribution(statistic) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 2), (0, 8), (8, 0), (5, 15), (100, 100)])
def test_mcnemar(only_a: int, only_b: int) -> None:
    """Twice the smaller tail of a fair coin's binomial, at most 1."""
    both, count = 7, 7 + only_a + only_b + 3
    a = bools(*range(both + only_a), count=count)
    b = bools(*range(both), *range(both + only_a, both + only_a + only_b), count=count)
    differing = only_a + only_b
    expected = min(1.0, 2 * binom.cdf(min(only_a, only_b), differing, 0.5)) if differing else 1.0
    *counts, p_value = mcnemar(a, b)
    assert counts == [only_a, only_b]
    assert p_value == pytest.approx(expected)


def test_the_difference_is_paired() -> None:
    """Two variants that fail on the same sounds differ little, however wide their own intervals are."""
    rng = np.random.default_rng(0)
    first = rng.random(200) < 0.6
    second = first.copy()
    second[np.flatnonzero(~first)[:4]] = True
    bootstrap = Bootstrap()
    a, b = Share.of(first), Share.of(second)
    samples = [bootstrap.distribution(one) for one in (a, b)]
    found = bootstrap.difference(a, b, *samples)
    assert found["value"] == pytest.approx(4 / 200)
    expected = binom.ppf([0.025, 0.975], 200, 4 / 200) / 200
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=1.01 / 200)
    own = bootstrap.interval(a, samples[0])
    assert own["high"] - own["low"] > 3 * (found["high"] - found["low"])


def test_variants_that_agree_everywhere_may_still_differ() -> None:
    """0 of 250 sounds differ: up to 1.5 % may, at 95 %."""
    share = Share.of(bools(*range(240), count=250))
    bootstrap = Bootstrap()
    samples = bootstrap.distribution(share)
    found: dict[str, Any] = bootstrap.difference(share, share, samples, samples)
    width = 1 - 0.025 ** (1 / 250)
    assert found == {"value": 0.0, "low": pytest.approx(-width), "high": pytest.approx(width)}
