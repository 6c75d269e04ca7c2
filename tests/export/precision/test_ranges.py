"""Intervals: each method where the right answer is known, and inputs for which there hardly is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from claprt_export.precision.ranges import RangeMethod, choose_range, quantised

METHODS: tuple[RangeMethod, ...] = ("max", "percentile", "entropy", "mse", "output")
GENERATOR = torch.Generator().manual_seed(0)
NORMAL = torch.randn(512, 256, generator=GENERATOR)
IDENTITY = torch.eye(256)


def chosen(method: RangeMethod, rows: Tensor, symmetric: bool, weight: Tensor = IDENTITY) -> tuple[float, float]:
    return choose_range(method, rows, float(rows.min()), float(rows.max()), weight, symmetric=symmetric)


def rounded(x: NDArray[np.float64], low: float, high: float, steps: int) -> NDArray[np.float64]:
    """Affine quantisation from its definition, in float64."""
    scale = (high - low) / steps
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, steps) - zero) * scale)


@pytest.mark.parametrize(
    ("low", "high", "steps"), [(-2.0, 2.0, 254), (-0.17, 3.1, 255), (0.0, 1.0, 255), (-5.0, 0.0, 255)]
)
def test_rounding(low: float, high: float, steps: int) -> None:
    """From its definition; zero stays zero, not much more than half a step is lost inside, and outside is clipped."""
    x = torch.linspace(-8, 8, 16_001)
    found = quantised(x, low, high, steps)
    step = (high - low) / steps
    np.testing.assert_allclose(found, rounded(x.double().numpy(), low, high, steps), atol=step * 1.001)
    assert (np.abs(found.numpy() - rounded(x.double().numpy(), low, high, steps)) < 1e-5).mean() > 0.995
    assert float(quantised(torch.zeros(1), low, high, steps)) == 0.0
    inside = (x > low) & (x < high)
    assert float((found - x)[inside].abs().max()) <= step * 1.01
    assert float(found.min()) == pytest.approx(low, abs=step)
    assert float(found.max()) == pytest.approx(high, abs=step)
    assert len(np.unique(found.numpy())) == steps + 1


def test_max_takes_all_that_was_seen() -> None:
    """Also what is not among the sampled rows; and always zero."""
    rows = torch.tensor([[1.0, 2.0]])
    assert choose_range("max", rows, -3.0, 7.0, IDENTITY, symmetric=False) == (-3.0, 7.0)
    assert choose_range("max", rows, -3.0, 7.0, IDENTITY, symmetric=True) == (-7.0, 7.0)
    assert choose_range("max", rows, -9.0, 7.0, IDENTITY, symmetric=True) == (-9.0, 9.0)
    assert choose_range("max", rows, 1.0, 2.0, IDENTITY, symmetric=False) == (0.0, 2.0)
    assert choose_range("max", rows, -2.0, -1.0, IDENTITY, symmetric=False) == (-2.0, 0.0)


def test_percentile() -> None:
    """As NumPy counts it: eight outliers in 131,072 values are left out, two hundred are not."""
    for count, kept in ((8, False), (200, True)):
        rows = NORMAL.clone()
        rows.view(-1)[:count] = 1000.0
        low, high = chosen("percentile", rows, symmetric=True)
        assert high == -low
        assert high == pytest.approx(np.percentile(rows.abs().numpy(), 99.99), rel=0.02)
        assert (high == 1000.0) is kept
        low, high = chosen("percentile", rows, symmetric=False)
        assert low == pytest.approx(np.percentile(rows.numpy(), 0.01), rel=0.05)
        assert (high == 1000.0) is kept


def test_mse_of_a_normal_distribution() -> None:
    """3.92 standard deviations are the optimum for eight bits (Banner et al. 2019, table 1)."""
    rows = torch.randn(2048, 256, generator=GENERATOR)
    _, high = chosen("mse", rows, symmetric=True)
    assert float(rows.abs().max()) > 4.4
    assert high == pytest.approx(3.92, abs=0.2)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["mse", "output"])
def test_least_squares(method: RangeMethod, symmetric: bool) -> None:
    """No interval of a finer grid is clearly better, by float64; on skewed values and unequal weights."""
    rows = torch.nn.functional.gelu(NORMAL * 2) ** 2 * torch.linspace(0.1, 1, 256)
    weight = torch.randn(32, 256, generator=GENERATOR) * torch.linspace(2, 0.01, 256)
    low, high = chosen(method, rows, symmetric, weight)
    x, w = rows.double().numpy(), weight.double().numpy() if method == "output" else np.eye(256)

    def loss(share: float) -> float:
        top = float(rows.max())
        ends = (-top * share, top * share) if symmetric else (float(rows.min()) * share, top * share)
        return float((((rounded(x, *ends, 254 if symmetric else 255) - x) @ w.T) ** 2).sum())

    best = min(loss(share) for share in np.linspace(0.2, 1, 81))
    assert loss(high / float(rows.max())) <= 1.05 * best
    assert low == (-high if symmetric else pytest.approx(float(rows.min()) * high / float(rows.max())))


def test_output_looks_through_the_weights() -> None:
    """An outlier feature that no weight reads is clipped; one that decides the output is not."""
    rows = NORMAL.clone()
    rows[:, 0] *= 8
    deaf, eager = IDENTITY.clone(), IDENTITY.clone() * 0.01
    deaf[0, 0], eager[0, 0] = 0.0, 100.0
    full = float(rows.abs().max())
    assert chosen("output", rows, True, deaf)[1] < 0.45 * full
    assert chosen("output", rows, True, eager)[1] > 0.8 * full


def test_entropy() -> None:
    """A long thin tail is cut off, an even distribution is kept whole."""
    even = torch.rand(512, 256, generator=GENERATOR)
    assert chosen("entropy", even, symmetric=True)[1] > 0.9
    rows = NORMAL.clone()
    rows[0, 0] = 40.0
    _, high = chosen("entropy", rows, symmetric=True)
    assert 2.5 < high < 8


DEGENERATE = {
    "zeros": torch.zeros(8, 4),
    "constant": torch.full((8, 4), 3.0),
    "negative-constant": torch.full((8, 4), -3.0),
    "one-sided": torch.rand(8, 4, generator=GENERATOR),
    "negative": -torch.rand(8, 4, generator=GENERATOR),
    "one-row": torch.tensor([[0.0, -1.0, 2.0, 0.5]]),
    "one-value": torch.tensor([[0.25]]),
    "tiny": torch.full((8, 4), 1e-20),
    "huge": torch.tensor([[1e30, -1e30, 0.0, 1.0]]),
}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_inputs(kind: str, method: RangeMethod, symmetric: bool) -> None:
    """There is an interval, it has a length and zero in it, and values come out finite and near."""
    rows = DEGENERATE[kind]
    low, high = chosen(method, rows, symmetric, torch.ones(3, rows.shape[1]))
    assert low <= 0 <= high
    assert low < high
    found = quantised(rows, low, high, 254 if symmetric else 255)
    assert torch.isfinite(found).all()
    if method != "entropy":  # which does not look at distances
        assert float((found - rows).abs().max()) <= max((high - low) / 100, 1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_sample_that_missed_everything(method: RangeMethod, symmetric: bool) -> None:
    """The sampled rows are silent and what was seen was not: the interval still has a length."""
    low, high = choose_range(method, torch.zeros(8, 4), -1.0, 2.0, torch.ones(3, 4), symmetric=symmetric)
    assert low < high
    assert torch.isfinite(quantised(torch.tensor([-1.0, 0.0, 2.0]), low, high, 254)).all()
