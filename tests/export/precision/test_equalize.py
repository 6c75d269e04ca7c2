"""Shifting and smoothing change what a tower's layers see, never what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from claprt_export.checkpoint import Checkpoint
from claprt_export.precision.data import text_batches
from claprt_export.precision.equalize import equalize
from claprt_export.precision.int8 import with_weights_of
from claprt_export.precision.observe import observe
from claprt_export.precision.quantize import linear_layers
from tests.export.precision.helpers import (
    TEXTS,
    TOWERS,
    Subject,
    assert_spread,
    audio_batches,
    run_onnx,
    vectors_of,
)

GetSubject = Callable[[str], Subject]


def with_outliers(module: Any) -> Any:
    """The same function with one feature a hundred times as large where smoothing may reduce it, and in V."""
    for name, part in module.named_modules():
        kind = type(part).__name__
        with torch.no_grad():
            if kind == "WindowBlock" and name.endswith("1"):
                part.norm2.weight[3] *= 100
                part.norm2.bias[3] *= 100
                part.up.weight[:, 3] /= 100
            if kind in ("WindowBlock", "TextLayer"):
                part.v.weight[5] *= 100
                part.out.weight[:, 5] /= 100
    return module


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_same_function(subject: GetSubject, name: str, shift: bool, smooth: bool) -> None:
    """In PyTorch, and in the graph that takes the weights over; and what is predicted of the inputs is so."""
    tower = subject(name)
    module = with_outliers(tower.module)
    np.testing.assert_allclose(vectors_of(module, tower.batches), tower.vectors, atol=2e-6)
    layers, count = linear_layers(module), len(tower.batches)
    before = observe(module, layers, tower.batches, count)
    predicted = equalize(module, before, shift=shift, smooth=smooth)
    np.testing.assert_allclose(vectors_of(module, tower.batches), tower.vectors, atol=1e-5)
    np.testing.assert_allclose(run_onnx(with_weights_of(tower.graph, module), tower.batches), tower.vectors, atol=1e-5)
    after = observe(module, layers, tower.batches, count)
    for layer in layers:
        size = float(before[layer].high.max() - before[layer].low.min())
        for field in ("low", "high", "mean", "rows"):
            found, expected = (getattr(seen[layer], field) for seen in (predicted, after))
            np.testing.assert_allclose(found, expected, atol=1e-4 * size, err_msg=f"{layer}: {field}")
        np.testing.assert_allclose(predicted[layer].moments, after[layer].moments, atol=1e-4 * size**2)


@pytest.mark.parametrize("name", TOWERS)
def test_shift_removes_the_means(subject: GetSubject, name: str) -> None:
    """Of all inputs but GELU's outputs, which nothing before can take up, and the pooled token's own."""
    tower = subject(name)
    module = tower.module
    layers, count = linear_layers(module), len(tower.batches)
    before = observe(module, layers, tower.batches, count)
    equalize(module, before, shift=True, smooth=False)
    after = observe(module, layers, tower.batches, count)
    text_end = f"layers.{len(getattr(module, 'layers', [])) - 1}."
    reduced = 0
    for layer in layers:
        spread = float(after[layer].high.max() - after[layer].low.min())
        if layer.endswith(".down"):
            assert float(after[layer].mean.abs().max()) > 0.01 * spread
        elif layer != f"{text_end}q":  # sees the first token only, and shares the shift of all
            assert float(after[layer].mean.abs().max()) < 1e-4 * spread, layer
            reduced += float(before[layer].mean.abs().max()) > 0.05 * spread
    assert reduced > len(layers) / 2


@pytest.mark.parametrize("name", ["audio", "fused"])
def test_smoothing_evens_out(subject: GetSubject, name: str) -> None:
    """A feature a hundred times as large as the others is so no longer, where something can take it up."""
    tower = subject(name)
    module = with_outliers(tower.module)
    layers, count = linear_layers(module), len(tower.batches)
    before = observe(module, layers, tower.batches, count)
    after = equalize(module, before, shift=True, smooth=True)

    def unevenness(seen: Any) -> float:
        sizes = torch.maximum(-seen.low, seen.high)
        return float(sizes.max() / sizes.median())

    evened = [layer for layer in layers if layer.endswith(".up") and unevenness(before[layer]) > 30]
    assert evened
    for layer in evened:
        assert unevenness(after[layer]) < 0.5 * unevenness(before[layer])
    contexts = [layer for layer in layers if layer.endswith(".out")]
    for layer in contexts:  # largest in short texts: a scale for each feature would not hold for new ones
        assert torch.equal(after[layer].high, before[layer].shifted(before[layer].mean).high)


def test_biases_that_were_not_there(subject: GetSubject) -> None:
    """Shifting makes biases up, each with an Add in the graph: V and merges have none, and Q may have none."""
    tower = subject("audio")
    module = tower.module
    layers = linear_layers(module)
    for q in (m for n, m in module.named_modules() if n.endswith(".q")):
        q.bias = None
    expected = vectors_of(module, tower.batches)
    assert_spread(expected)
    equalize(module, observe(module, layers, tower.batches, len(tower.batches)), shift=True, smooth=True)
    np.testing.assert_allclose(vectors_of(module, tower.batches), expected, atol=1e-5)
    biases = {n for n in layers if dict(module.named_modules())[n].bias is not None}
    assert biases == {n for n in layers if not n.endswith(".k")}
    whole = tower.module  # the graph's Q has its bias
    equalize(whole, observe(whole, layers, tower.batches, len(tower.batches)), shift=True, smooth=False)
    added = {node.name for node in with_weights_of(tower.graph, whole).graph.node}
    added -= {node.name for node in tower.graph.graph.node}
    assert added == {f"{n}/Add" for n in layers if n.endswith((".v", ".reduction"))}


def test_padding_after_a_shift(subject: GetSubject) -> None:
    """A shifted text tower still gives the same vector whatever the padding."""
    tower = subject("text")
    module = tower.module
    layers = linear_layers(module)
    equalize(module, observe(module, layers, tower.batches, len(tower.batches)), shift=True, smooth=True)
    ids, mask = tower.batches[0]
    padded = torch.nn.functional.pad(ids, (0, 11), value=1), torch.nn.functional.pad(mask, (0, 11))
    np.testing.assert_allclose(vectors_of(module, [padded]), tower.vectors[:1], atol=1e-5)


def test_inputs_that_were_not_observed(tiny: Callable[[bool], Checkpoint], subject: GetSubject) -> None:
    """The function is the same everywhere, not only on what was observed."""
    for name in ("audio", "text"):
        tower = subject(name)
        module = tower.module
        few = tower.batches[:1]
        equalize(module, observe(module, linear_layers(module), few, 1), shift=True, smooth=True)
        checkpoint = tiny(False)
        others = audio_batches(checkpoint) if name == "audio" else text_batches(checkpoint, TEXTS)
        expected = vectors_of(tower.original, others)
        assert_spread(expected)
        np.testing.assert_allclose(vectors_of(module, others), expected, atol=1e-5)
