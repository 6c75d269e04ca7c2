"""How sure a figure is, and whether two variants differ.

Intervals are percentile bootstrap intervals (Efron, Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13): sounds
are drawn with replacement, as many as there are, and the figure is computed of each such sample. With the captions of a
sound, all of them are drawn together. Of a figure of exactly 0 or 1 no sample differs, and the bootstrap would claim
certainty: there the exact interval of Clopper and Pearson (1934) for a share of as many sounds stands (for a mean over
classes that is no more than a hint).

Two variants are compared on the same samples, and by McNemar's test (1947) in its exact form: sounds that only one of
them gets right, against a fair coin. Captions of one sound are not independent, which the test does not know: of text
to audio the interval is the better witness. The p-values are not corrected for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Elements of one block of samples' weights: bounds memory.
_BLOCK = 1 << 21
# By so much a sum of shares that is 1 may miss it.
_ROUNDING = 1e-12


class Statistic(Protocol):
    """A figure of n sounds that can be computed again with each sound counted so many times."""

    @property
    def count(self) -> int:
        """Sounds, n."""
        ...

    @property
    def value(self) -> float:
        """The figure, each sound counted once."""
        ...

    def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The figure for each of r samples; weights (r, n) say how often a sound is in a sample. NaN: not defined."""
        ...


@dataclass(frozen=True, eq=False)
class Share:
    """Right answers of all answers.

    Attributes:
        right: (n,) right answers for each sound.
        answers: (n,) answers for each sound, at least 1.
    """

    right: NDArray[np.float64]
    answers: NDArray[np.float64]

    @staticmethod
    def of(values: NDArray[Any]) -> Share:
        """Of one answer for each sound: right or wrong, or a score of 0..1."""
        return Share(values.astype(np.float64), np.ones(len(values)))

    @property
    def count(self) -> int:
        """Sounds."""
        return len(self.right)

    @property
    def value(self) -> float:
        """0..1."""
        return float(self.right.sum() / self.answers.sum())

    def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """As `Statistic`."""
        result: NDArray[np.float64] = (weights @ self.right) / (weights @ self.answers)
        return result


@dataclass(frozen=True, eq=False)
class BalancedAccuracy:
    """The mean of the classes' recalls, as scikit-learn's `balanced_accuracy_score`.

    Attributes:
        right: (n,) bool.
        truth: (n,) the class's number.
    """

    right: NDArray[np.bool_]
    truth: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Sounds."""
        return len(self.right)

    @property
    def value(self) -> float:
        """0..1."""
        return float(self.resampled(np.ones((1, self.count)))[0])

    def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """As `Statistic`; classes that a sample lacks do not count in it."""
        members = np.eye(int(self.truth.max()) + 1)[self.truth]
        there = weights @ members
        recalls = (weights * self.right) @ members / np.maximum(there, 1)
        result: NDArray[np.float64] = recalls.sum(axis=1) / (there > 0).sum(axis=1)
        return result


@dataclass(frozen=True, eq=False)
class MeanAveragePrecision:
    """The mean of the classes' average precisions, of classes that have a sound.

    A class's average precision is scikit-learn's `average_precision_score`: sounds in order of their score for the
    class, the precision at each distinct score weighted by the recall that is gained there.

    Attributes:
        scores: (n, classes).
        truth: (n, classes) bool.
    """

    scores: NDArray[np.float64]
    truth: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Sounds."""
        return len(self.scores)

    @property
    def value(self) -> float:
        """0..1."""
        known = [value for value in self.by_class() if value is not None]
        return sum(known) / len(known)

    def by_class(self) -> list[float | None]:
        """Each class's average precision; None where it has no sound."""
        from sklearn.metrics import average_precision_score

        return [
            float(average_precision_score(right, scores)) if right.any() else None
            for right, scores in zip(self.truth.T, self.scores.T, strict=True)
        ]

    def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """As `Statistic`; classes that a sample lacks do not count in it."""
        total, classes = np.zeros(len(weights)), np.zeros(len(weights))
        for right, scores in zip(self.truth.T, self.scores.T, strict=True):
            if right.any():
                precision, there = _average_precision(right, scores, weights)
                total += precision
                classes += there
        with np.errstate(invalid="ignore"):
            result: NDArray[np.float64] = total / classes
        return result


def _average_precision(
    right: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """One class's average precision in each sample, 0 where the class is not in it; and whether it is."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1  # where each distinct score ends
    places = np.flatnonzero(right[order])
    groups = np.searchsorted(ends, places, side="right")  # the distinct score of each sound of the class
    there, firsts = np.unique(groups, return_index=True)  # recall is gained at those only
    stops = ends[there]
    drawn = weights[:, order]
    seen = np.add.reduceat(drawn[:, : stops[-1]], np.append(0, stops[:-1]), axis=1).cumsum(axis=1)
    gained = np.add.reduceat(drawn[:, places], firsts, axis=1)
    hits = gained.cumsum(axis=1)
    members = hits[:, -1]
    return (gained * hits / np.maximum(seen, 1)).sum(axis=1) / np.maximum(members, 1), members > 0


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        confidence: such as 0.95.
        resamples: samples that are drawn.
        seed: of the draws: the same samples for every figure of as many sounds.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def distribution(
        self, statistic: Statistic, on_progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float64]:
        """The figure in each sample, (resamples,). `on_progress` is called with how many more are done."""
        parts = []
        for weights in self._weights(statistic.count):
            parts.append(statistic.resampled(weights))
            if on_progress is not None:
                on_progress(len(weights))
        return np.concatenate(parts)

    def interval(self, statistic: Statistic, distribution: NDArray[np.float64]) -> dict[str, float]:
        """The figure with its interval: value, low, high."""
        value = statistic.value
        if min(value, 1 - value) < _ROUNDING:
            value, width = float(round(value)), self._none_of(statistic.count)
            low, high = (0.0, width) if value == 0.0 else (1.0 - width, 1.0)
        else:
            low, high = self._percentiles(distribution)
        return {"value": value, "low": max(low, 0.0), "high": min(high, 1.0)}

    def difference(
        self, a: Share, b: Share, samples_a: NDArray[np.float64], samples_b: NDArray[np.float64]
    ) -> dict[str, float]:
        """What b has more than a, with its interval.

        Where they agree on every sound, the interval is how likely a sound on which they differ may still be.
        """
        if np.array_equal(a.right, b.right):
            width = self._none_of(a.count)
            low, high = -width, width
        else:
            low, high = self._percentiles(samples_b - samples_a)
        return {"value": b.value - a.value, "low": low, "high": high}

    def _none_of(self, count: int) -> float:
        """Clopper-Pearson: up to which probability an event may have that was seen in none of `count` trials."""
        from scipy.stats import binomtest

        return float(binomtest(0, count).proportion_ci(self.confidence, method="exact").high)

    def _percentiles(self, samples: NDArray[np.float64]) -> tuple[float, float]:
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(samples, [tail, 1 - tail])
        return float(low), float(high)

    def _weights(self, count: int) -> Iterator[NDArray[np.float64]]:
        """How often each sound is in each sample, (r, count), in blocks; always the same."""
        rng = np.random.default_rng(self.seed)
        left = self.resamples
        while left:
            rows = min(left, max(1, _BLOCK // count))
            drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
            yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
            left -= rows


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Answers that only a, and that only b, has right, and the two-sided p-value of McNemar's exact test."""
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    differing = only_a + only_b
    return only_a, only_b, float(binomtest(only_a, differing, 0.5).pvalue) if differing else 1.0
