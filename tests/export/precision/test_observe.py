"""What is recorded of a layer's input, against NumPy in float64 on all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from claprt_export.precision.observe import ROWS, Observation, observe


class Two(nn.Module):
    """Two layers, the second behind something that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.relu(self.first(x)) + 2)
        return result


def batches(shapes: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, ...]]:
    torch.manual_seed(1)
    return [(torch.randn(*shape, 6) * (1 + i) + 0.5 * i,) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param([(1, 3), (4, 40), (700,), (2, 1), (1, 5)], id="unequal"),
        pytest.param([(1, 1)], id="one-row"),
        pytest.param([(2, 400), (3, 300)], id="long"),
        pytest.param([(1, 2)] * 600, id="more-batches-than-rows"),
    ],
)
def test_statistics(shapes: list[tuple[int, ...]]) -> None:
    model, data = Two(), batches(shapes)
    seen = observe(model, ["first", "second"], data, len(data))
    with torch.no_grad():
        inputs = {
            "first": torch.cat([x.reshape(-1, 6) for (x,) in data]),
            "second": torch.cat([torch.relu(model.first(x)).reshape(-1, 9) + 2 for (x,) in data]),
        }
    for name, value in inputs.items():
        x, found = value.double().numpy(), seen[name]
        assert found.count == len(x)
        np.testing.assert_allclose(found.low, x.min(0), rtol=1e-6)
        np.testing.assert_allclose(found.high, x.max(0), rtol=1e-6)
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.moments, x.T @ x / len(x), rtol=1e-4, atol=1e-4)
        assert 1 <= len(found.rows) <= ROWS
        distances = np.abs(found.rows.double().numpy()[:, None] - x[None]).max(2)
        assert distances.min(1).max() < 1e-5  # each is one that was there


def test_the_sample_is_of_all_batches() -> None:
    """Each batch has its share of the rows, and they are not just its first."""
    data = [(torch.full((400, 6), float(i)) + torch.arange(400)[:, None] / 1000,) for i in range(8)]
    rows = observe(Two(), ["first"], data, 8)["first"].rows[:, 0]
    assert len(rows) == ROWS
    assert [int((rows.floor() == i).sum()) for i in range(8)] == [ROWS // 8] * 8
    assert (rows % 1).max() > 0.35
    assert (rows % 1).min() < 0.05


def test_nothing_is_left_in_the_tower() -> None:
    """No hooks afterwards, not even after a failure; each batch ticks once."""
    model, ticks = Two(), []
    observe(model, ["first"], batches([(2,), (3,)]), 2, lambda: ticks.append(1))
    assert len(ticks) == 2
    with pytest.raises(RuntimeError):
        observe(model, ["first"], [(torch.zeros(2, 5),)], 1)
    assert not model.first._forward_pre_hooks


@pytest.mark.parametrize("how", ["shifted", "divided"])
def test_changed_inputs(how: str) -> None:
    """What would have been seen is what is seen."""
    model, data = Two(), batches([(5, 7), (300,)])
    by = torch.tensor([0.3, 2.0, 1.0, 0.01, 5.0, 0.7])
    changed = [(x - by if how == "shifted" else x / by,) for (x,) in data]
    before, after = (observe(model, ["first"], d, 2)["first"] for d in (data, changed))
    found: Observation = getattr(before, how)(by)
    for field in ("rows", "low", "high", "mean", "moments", "count"):
        np.testing.assert_allclose(getattr(found, field), getattr(after, field), rtol=1e-4, atol=1e-4)
