"""What differs between two runs beyond noise.

A measurement has a few repeats: blocks of calls, each in a fresh process, interleaved with the blocks of all others.
The calls of one block share whatever state the machine was in, so they are not independent; blocks are what counts
(Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013). One figure of a block, such as the log of its
median, is one value here; the change of a measurement is the difference of the means of its values: a ratio of
geometric means.

Five values are too few to know the spread of one measurement by them alone: resampling them (a bootstrap) gives
intervals that are too narrow, and Student's t ones so wide that 10 % would not be found among 40 measurements. So
variances are moderated by those of all measurements (Smyth, "Linear models and empirical Bayes methods for assessing
differential expression", 2004): s̃² = (d₀s₀² + ds²) / (d₀ + d), where s₀² and d₀, how alike the variances are, come from
all of them by the moments of log s²; t = difference / (s̃ √(1/n + 1/n)) then has d₀ + d degrees of freedom, but never
more than all measurements together have. An outlier among the values widens its measurement's interval.

Runs differ as a whole too: clocks, neighbours, addresses. Where many measurements moved together by little, that median
change is taken for the machine's, and what counts is a change beyond it. The intervals hold all together with the
confidence asked for (Bonferroni), and a change below a floor is never called one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.extras import BENCH

# With fewer measurements, the median of their changes says too little about the machine.
_MANY = 10
# Standard deviation of a logarithm below which no two blocks agree but by rounding.
_RESOLUTION = 0.002
# Parts of which one is left out at a time.
_MOST_GROUPS = 20
# Larger factors than e^20 are written as that.
_LIMIT = 20.0
# Expected range of n normal values in standard deviations (Tippett 1925), n = 2 to 10.
_RANGE = (1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.970, 3.078)


@dataclass(frozen=True, eq=False)
class Blocks:
    """The values of a quantity in one run.

    Attributes:
        values: (n,) logarithms, one for each block.
    """

    values: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Their mean: the logarithm of the geometric mean."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Judged:
    """A change, as logarithms of after / before.

    Attributes:
        change: the estimate.
        low, high: its interval.
        beyond: whether it is beyond noise.
    """

    change: float
    low: float
    high: float
    beyond: bool


def judge(
    before: Sequence[Blocks], after: Sequence[Blocks], error: float, floors: Sequence[float], drift: float
) -> tuple[list[Judged], float | None]:
    """Judge quantities of one kind, measured in the same blocks.

    Args:
        before, after: the values of each quantity, at least two in each run.
        error: the chance of a false alarm that each quantity may have, of both sides.
        floors: of each, as a logarithm: a smaller change is never called one.
        drift: as a logarithm: a smaller change of all together is taken for the machine's. Where there are too few to
            tell, no smaller change of any is called one.

    Returns:
        One judgement each, and by how much they all moved together; None where there are too few to tell.
    """
    if not before:
        return [], None
    special = _special()
    changes = np.array([b.mean - a.mean for a, b in zip(before, after, strict=True)])
    together = float(np.median(changes)) if len(changes) >= _MANY else None
    removed = together if together is not None and abs(together) < drift else None
    # The number of blocks may differ. The smaller one is taken for both, which errs on the side of more noise.
    blocks = np.array([min(len(a.values), len(b.values)) for a, b in zip(before, after, strict=True)], dtype=np.float64)
    variances = (_variances(before, removed is not None) + _variances(after, removed is not None)) / 2
    moderated, degrees = moderate(variances, 2 * (blocks - 1))
    errors = moderated * 2 / blocks
    if removed is not None:
        # That median is an estimate too, of variance π/2 v / m, and each has its part in it: covariance √(v v') / m.
        usual = float(np.median(errors))
        errors = errors + (math.pi / 2 * usual - 2 * np.sqrt(errors * usual)) / len(errors)
    reach = special.stdtrit(degrees, 1 - error / 2) * np.sqrt(errors)
    least = np.maximum(floors, 0.0 if together is not None else drift)
    beside = changes - (removed or 0.0)
    beyond = (np.abs(beside) > np.maximum(reach, least)) & (np.abs(changes) >= least) & (beside * changes > 0)
    return [
        Judged(float(change), _limited(change - one), _limited(change + one), bool(is_beyond))
        for change, one, is_beyond in zip(changes, reach, beyond, strict=True)
    ], together


def moderate(
    variances: NDArray[np.float64], degrees: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances that borrow strength from each other, and their degrees of freedom (Smyth 2004, sections 4 and 6).

    Args:
        variances: (m,), of quantities whose noise is of a kind.
        degrees: (m,), of each.
    """
    variances = np.maximum(variances, _RESOLUTION**2)
    if len(variances) < 2:
        return variances, degrees
    special = _special()
    logs = np.log(variances) - special.digamma(degrees / 2) + np.log(degrees / 2)
    excess = float(logs.var(ddof=1) - special.polygamma(1, degrees / 2).mean())
    if excess > 1e-6:
        prior = 2 * _inverse_trigamma(excess)
        common = math.exp(float(logs.mean()) + special.digamma(prior / 2) - math.log(prior / 2))
    else:  # no more different than variances of the same noise are
        prior, common = math.inf, math.exp(float(logs.mean()))
    weight = np.minimum(prior, degrees.sum() - degrees)
    return (weight * common + degrees * variances) / (weight + degrees), weight + degrees


def medians(repeats: Sequence[NDArray[np.float64]]) -> Blocks:
    """The median of each repeat."""
    return Blocks(np.log([np.median(repeat) for repeat in repeats]))


def means(repeats: Sequence[NDArray[np.float64]]) -> Blocks:
    """The mean of each repeat."""
    return Blocks(np.log([np.mean(repeat) for repeat in repeats]))


def percentile(repeats: Sequence[NDArray[np.float64]], percent: float) -> Blocks:
    """A percentile of all calls, as values of blocks: jackknife pseudo-values, one block left out at a time.

    A block has too few calls for a percentile of its own. Leaving out whole blocks is sound for percentiles, where
    leaving out single calls is not (Shao and Wu, "A general theory for jackknife variance estimation", 1989). The
    values are moved so that their mean is the percentile of all calls. Many repeats are left out in groups.
    """
    if len(repeats) > _MOST_GROUPS:
        groups = np.array_split(np.arange(len(repeats)), _MOST_GROUPS)
        repeats = [np.concatenate([repeats[index] for index in group]) for group in groups]
    calls = np.concatenate(repeats)
    whole = math.log(float(np.percentile(calls, percent)))
    ends = np.cumsum([len(repeat) for repeat in repeats])
    without = [
        math.log(float(np.percentile(np.concatenate([calls[: end - len(repeat)], calls[end:]]), percent)))
        for end, repeat in zip(ends, repeats, strict=True)
    ]
    left_out = np.array(without)
    return Blocks(whole + (len(repeats) - 1) * (left_out.mean() - left_out))


def from_range(median: float, low: float, high: float, blocks: int) -> Blocks:
    """Values with this median, and the spread that blocks with such a lowest and highest value have.

    The range of n normal values is on average d₂(n) standard deviations (Tippett 1925); a median is less certain than a
    mean by a factor of π/2 in its variance.
    """
    blocks = min(blocks, len(_RANGE) + 1)
    deviation = math.log(high / low) / _RANGE[blocks - 2] * math.sqrt(math.pi / 2)
    shape = np.linspace(-1, 1, blocks)
    return Blocks(math.log(median) + deviation * shape / shape.std(ddof=1))


def _variances(quantities: Sequence[Blocks], shared: bool) -> NDArray[np.float64]:
    """Variance of each quantity's blocks; with `shared`, beside what moves all quantities in the same block."""
    residuals = [one.values - one.mean for one in quantities]
    correction = 1.0
    if shared and len({len(residual) for residual in residuals}) == 1:
        table = np.stack(residuals)
        table = table - np.median(table, axis=0)
        residuals = list(table - table.mean(axis=1, keepdims=True))
        # Each residual has had its part in those medians: variances are smaller by (2 - π/2) / m.
        correction = 1 + (2 - math.pi / 2) / len(residuals)
    return correction * np.array([float(residual @ residual) / (len(residual) - 1) for residual in residuals])


def _inverse_trigamma(value: float) -> float:
    """The x of trigamma(x) = value: Newton's method on 1 / trigamma, which is nearly linear (Smyth 2004, appendix)."""
    special = _special()
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def _limited(value: float) -> float:
    return min(max(float(value), -_LIMIT), _LIMIT)


def _special() -> Any:
    """SciPy's special functions."""
    BENCH.require("claprt bench compare", "scipy")
    from scipy import special

    return special
