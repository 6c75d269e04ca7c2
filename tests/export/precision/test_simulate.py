"""FP16 in PyTorch: what is rounded, and that nothing stays changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from claprt_export.precision.simulate import half_modules
from tests.export.precision.helpers import TOWERS, Subject, vectors_of, worst_error

GetSubject = Callable[[str], Subject]


def test_half_of_a_layer() -> None:
    """Input, weights and output are FP16, from their definition; a value beyond 65504 is infinite."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU())
    x, layer = torch.randn(9, 5), model[0]
    assert isinstance(layer, nn.Linear)
    with half_modules(model, ["0"]), torch.no_grad():
        found = model(x)
        assert not torch.isfinite(layer(torch.full((1, 5), 70_000.0))).any()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    product = x.numpy().astype(np.float16).astype(np.float64) @ weight.astype(np.float16).astype(np.float64).T + bias
    np.testing.assert_allclose(found, np.maximum(product.astype(np.float16), 0).astype(np.float32), rtol=1e-3)
    assert torch.equal(found, found.half().float())
    assert not torch.equal(found, model(x))


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_is_rounded_and_restored(subject: GetSubject, name: str) -> None:
    tower = subject(name)
    module = tower.module
    blocks = [n for n, m in module.named_modules() if type(m).__name__ in ("WindowBlock", "PatchMerge", "TextLayer")]
    before = {name: id(value) for name, value in module.named_parameters()}
    with half_modules(module, blocks):
        found = vectors_of(module, tower.batches)
    assert 1e-9 < worst_error(found, tower.vectors) < 1e-4
    assert {name: id(value) for name, value in module.named_parameters()} == before
    np.testing.assert_allclose(vectors_of(module, tower.batches), tower.vectors, atol=1e-6)
