"""Which interval an activation is quantised in: five methods of the literature, one signature.

Values beyond the interval are clipped, values inside are rounded to one of 255 or 256 steps; a narrower interval clips
more and rounds finer. All methods look at a sample of rows, (n, features), and at the extremes of everything seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

RangeMethod = Literal["max", "percentile", "entropy", "mse", "output"]

# Shares of the full interval that the searching methods try.
_SHARES = tuple(1.0 - 0.04 * step for step in range(18))
_PERCENTILE = 99.99


def quantised(x: Tensor, low: float, high: float, steps: int) -> Tensor:
    """Round to `steps` equal steps from `low` to `high`, and back. Zero is always one of the values.

    Symmetric INT8 is low = -high with 254 steps (-127..127), asymmetric UINT8 any interval around 0 with 255.
    """
    scale = (high - low) / steps
    zero = round(-low / scale)
    return (torch.clamp(torch.round(x / scale) + zero, 0, steps) - zero) * scale


def choose_range(
    method: RangeMethod, rows: Tensor, low: float, high: float, weight: Tensor, *, symmetric: bool
) -> tuple[float, float]:
    """The interval for one layer's input.

    Args:
        method: "max" takes all that was seen; "percentile" the 99.99th; "entropy" minimises the Kullback-Leibler
            divergence of the histogram (Migacz 2017); "mse" the squared error of the input; "output" the squared error
            of the layer's output (as in OMSE, Choukroun et al. 2019, but behind the product).
        rows: a sample of the input, (n, features).
        low, high: extremes of all that was seen.
        weight: (out, features), only "output" looks at it.
        symmetric: -a..a in 254 steps; otherwise low..high in 255, around zero.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    if high - low < 1e-12:
        return (-1e-6, 1e-6) if symmetric else (0.0, 1e-6)
    if method == "max":
        return low, high
    if method == "percentile":
        return _percentile(rows, low, high, symmetric)
    if method == "entropy":
        share = _entropy_share(rows, max(-low, high))
        return low * share, high * share
    steps = 254 if symmetric else 255
    score: Callable[[Tensor], float]
    if method == "mse":
        score = lambda error: float((error**2).sum())  # noqa: E731
    else:
        score = lambda error: float(((error @ weight.T) ** 2).sum())  # noqa: E731
    best, best_score = (low, high), math.inf
    for share in _SHARES:
        found = score(quantised(rows, low * share, high * share, steps) - rows)
        if found < best_score:
            best, best_score = (low * share, high * share), found
    return best


def _percentile(rows: Tensor, low: float, high: float, symmetric: bool) -> tuple[float, float]:
    values = rows.reshape(-1).abs() if symmetric else rows.reshape(-1)
    values = values.sort().values
    top = max(float(values[min(len(values) - 1, int(len(values) * _PERCENTILE / 100))]), 1e-6)
    if symmetric:
        return -top, top
    return min(float(values[int(len(values) * (1 - _PERCENTILE / 100))]), 0.0), top


def _entropy_share(rows: Tensor, magnitude: float, bins: int = 2048, levels: int = 128) -> float:
    """The share of `magnitude` at which 128 levels tell least wrong about the histogram of |x|."""
    histogram = torch.histc(rows.abs().float(), bins=bins, min=0.0, max=magnitude).double()
    histogram[0] = 0  # exact zeros cost nothing
    best, best_divergence = bins, math.inf
    for kept in range(levels, bins + 1, 16):
        reference = histogram[:kept].clone()
        reference[-1] += histogram[kept:].sum()
        groups = torch.arange(kept) * levels // kept
        filled = (histogram[:kept] > 0).double()
        total = torch.zeros(levels, dtype=torch.double).index_add_(0, groups, histogram[:kept])
        count = torch.zeros(levels, dtype=torch.double).index_add_(0, groups, filled)
        spread = (total / count.clamp_min(1))[groups] * filled
        p, q = reference / reference.sum(), spread / spread.sum().clamp_min(1e-300)
        mask = p > 0
        divergence = float((p[mask] * torch.log(p[mask] / q[mask].clamp_min(1e-12))).sum())
        if divergence < best_divergence:
            best, best_divergence = kept, divergence
    return best / bins
