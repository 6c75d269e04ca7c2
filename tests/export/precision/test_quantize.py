"""The numbers of each layer: integers and scales, errors made good, biases; recomputed here from their definitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from claprt.errors import ExportError
from claprt_export.precision.observe import Observation, observe
from claprt_export.precision.quantize import FORMS, Method, QuantizedLinear, Quantizer, linear_layers
from claprt_export.precision.simulate import int8_layers
from tests.export.precision.helpers import TOWERS, Subject

GetSubject = Callable[[str], Subject]
PLAIN = Method(shift=False, smooth=False, compensate=False, correct_bias=False)


class Layers(nn.Module):
    """One Linear layer, under the name it would have in a tower."""

    def __init__(self, inputs: int = 48, outputs: int = 32, last: str = "up") -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.ModuleDict({last: nn.Linear(inputs, outputs)})

    def forward(self, x: Tensor) -> Tensor:
        (layer,) = self.layers.values()
        result: Tensor = layer(x)
        return result


def correlated(rows: int = 4000, inputs: int = 48, rank: int = 8, seed: int = 3) -> Tensor:
    """Features that are mixtures of few sources, as activations are, with means of their own."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank, inputs, generator=torch.Generator().manual_seed(5))
    means = torch.randn(inputs, generator=torch.Generator().manual_seed(6))
    noise = 0.05 * torch.randn(rows, inputs, generator=generator)
    return torch.randn(rows, rank, generator=generator) @ mixing + noise + means


def quantized(model: Layers, method: Method, x: Tensor, last: str = "up") -> QuantizedLinear:
    name = f"layers.{last}"
    return Quantizer(model, observe(model, [name], [(x,)], 1), method).numbers("max")[name]


def weight_of(model: Layers) -> NDArray[np.float64]:
    (layer,) = model.layers.values()
    assert isinstance(layer, nn.Linear)
    return np.asarray(layer.weight.detach().double().numpy())


def error_of(weight: NDArray[np.float64], found: QuantizedLinear, x: Tensor) -> float:
    """Mean squared error of the output that rounding the weights alone makes, in float64."""
    stored = found.weight.double().numpy() * found.weight_scale.double().numpy()[:, None]
    return float(((x.double().numpy() @ (stored - weight).T) ** 2).mean())


@pytest.mark.parametrize("compensate", [False, True])
def test_weights(compensate: bool) -> None:
    """Symmetric integers; scales that FP16 represents, barely larger than needed; plain rounding is to nearest."""
    model, x = Layers(), correlated()
    weight = weight_of(model)
    found = quantized(model, Method(False, False, compensate, False), x)
    scale = found.weight_scale.double().numpy()
    assert found.weight.dtype == torch.int8
    assert found.weight.shape == weight.shape
    assert int(found.weight.min()) >= -127
    np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float64), scale)
    needed = np.abs(weight).max(1) / 127
    assert (scale >= needed * (1 - 1e-6)).all()  # nothing is clipped
    assert (scale <= needed * (1 + 2**-9)).all()
    if not compensate:
        np.testing.assert_array_equal(found.weight.numpy(), np.rint(weight / scale[:, None]))
    np.testing.assert_allclose(found.weight_values, found.weight.numpy() * scale[:, None], rtol=1e-6)


def test_compensation() -> None:
    """On inputs that vary together it makes a fraction of the error of rounding to nearest, also on inputs not seen."""
    model, x = Layers(), correlated()
    weight = weight_of(model)
    nearest, better = (quantized(model, Method(False, False, c, False), x) for c in (False, True))
    for data in (x, correlated(seed=4)):
        assert error_of(weight, better, data) < 0.4 * error_of(weight, nearest, data)


def test_compensation_of_more_inputs_than_a_block() -> None:
    """The update of later blocks works too: 300 inputs are 128 + 128 + 44."""
    model = Layers(300, 16)
    x = correlated(inputs=300, rank=40)
    weight = weight_of(model)
    nearest, better = (quantized(model, Method(False, False, c, False), x) for c in (False, True))
    assert error_of(weight, better, x) < 0.4 * error_of(weight, nearest, x)


def test_compensation_of_independent_inputs_is_rounding() -> None:
    """With nothing to make good by, each weight goes to its nearest integer."""
    model, x = Layers(), correlated()
    seen = observe(model, ["layers.up"], [(x,)], 1)["layers.up"]
    independent = Observation(seen.rows, seen.low, seen.high, seen.mean, torch.eye(48) * 3, seen.count)
    found = Quantizer(model, {"layers.up": independent}, Method(False, False, True, False)).numbers("max")["layers.up"]
    scale = found.weight_scale.double().numpy()[:, None]
    np.testing.assert_array_equal(found.weight.numpy(), np.rint(weight_of(model) / scale))


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("dead", ["outputs", "inputs", "all weights", "all inputs", "constant inputs"])
def test_dead_channels(dead: str, compensate: bool) -> None:
    """Weights or inputs that are all zero give finite numbers and the right output."""
    model, x = Layers(), correlated()
    layer = model.layers["up"]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        if dead == "outputs":
            layer.weight[3:5] = 0
        elif dead == "all weights":
            layer.weight.zero_()
    if dead == "inputs":
        x[:, 7:9] = 0
    elif dead == "all inputs":
        x.zero_()
    elif dead == "constant inputs":
        x = x[:1].repeat(len(x), 1)
    expected = model(x).detach()
    found = quantized(model, Method(False, False, compensate, True), x)
    assert (found.weight_scale > 0).all()
    assert (found.weight_scale.half() > 0).all()
    if dead in ("outputs", "all weights"):
        assert not found.weight[3:5].any()
    for form in FORMS:
        chosen = found.forms[form]
        assert chosen.scale > 0
        assert np.float16(chosen.scale) > 0 or form == "int8-cpu"
        with int8_layers(model, {"layers.up": found}, form, ["layers.up"]):
            np.testing.assert_allclose(model(x).detach(), expected, atol=0.15)


def test_a_model_that_gives_no_numbers() -> None:
    """Not an endless search for a damping."""
    x = correlated()
    x[5, 5] = torch.nan
    with pytest.raises(ExportError, match="no finite numbers"):
        quantized(Layers(), Method(False, False), x)


def test_forms_of_the_input() -> None:
    """TensorRT's is symmetric with a scale that FP16 represents; the CPU's has a zero point and its whole range."""
    model = Layers()
    x = torch.nn.functional.gelu(correlated())
    forms = quantized(model, PLAIN, x).forms
    symmetric, asymmetric = forms["int8"], forms["int8-cpu"]
    top, bottom = float(x.max()), float(x.min())
    assert symmetric.low == -symmetric.high
    assert (symmetric.steps, symmetric.zero_point) == (254, 127)
    assert float(np.float16(symmetric.scale)) == symmetric.scale
    assert top <= symmetric.high <= top * (1 + 2**-9)
    assert asymmetric.low == pytest.approx(bottom)
    assert asymmetric.high == pytest.approx(top)
    assert asymmetric.steps == 255
    assert asymmetric.zero_point == round(-bottom / (top - bottom) * 255)
    assert asymmetric.scale < 0.6 * symmetric.scale


def test_bias_correction() -> None:
    """It takes away the mean error of each output, on inputs not seen too; without it the bias is the layer's own."""
    model, x, fresh = Layers(), correlated() + 2, correlated(seed=9) + 2
    with torch.no_grad():
        exact = model(fresh)
    errors = {}
    for correct in (False, True):
        found = quantized(model, Method(False, False, False, correct), x)
        for form in FORMS:
            with int8_layers(model, {"layers.up": found}, form, ["layers.up"]), torch.no_grad():
                errors[correct, form] = float((model(fresh) - exact).mean(0).abs().mean())
            if not correct:
                layer = model.layers["up"]
                assert isinstance(layer, nn.Linear)
                torch.testing.assert_close(found.forms[form].bias, layer.bias.detach())
    for form in FORMS:
        assert errors[True, form] < 0.3 * errors[False, form]


def test_shift_behind_gelu() -> None:
    """TensorRT's form subtracts each feature's mean and has what that takes away in its bias; the CPU's does not.

    The output is recomputed from the numbers alone.
    """
    model = Layers(last="down")
    x = torch.nn.functional.gelu(correlated())
    found = quantized(model, Method(shift=True, compensate=False, correct_bias=False), x, "down")
    assert found.forms["int8-cpu"].shift is None
    form = found.forms["int8"]
    assert form.shift is not None
    assert form.bias is not None
    np.testing.assert_allclose(form.shift, x.double().mean(0), atol=1e-4)
    rows = x.double().numpy()
    integers = np.clip(np.rint((rows - form.shift.double().numpy()) / form.scale), -127, 127)
    product = integers @ found.weight.double().numpy().T * form.scale * found.weight_scale.double().numpy()
    output = product + form.bias.double().numpy()
    exact = model(x).detach().double().numpy()
    assert np.abs(output - exact).max() < 0.1 * exact.std()
    with int8_layers(model, {"layers.down": found}, "int8", ["layers.down"]):
        np.testing.assert_allclose(model(x).detach(), output, atol=2e-2 * float(exact.std()))
    unshifted = quantized(Layers(last="down"), PLAIN, x, "down").forms["int8"]
    assert form.scale < 0.9 * unshifted.scale


def test_the_simulation_leaves_the_tower_as_it_was() -> None:
    """Also after a failure inside."""
    model, x = Layers(), correlated()
    found = {"layers.up": quantized(model, Method(False, False), x)}
    before = model(x)

    def fail() -> None:
        with int8_layers(model, found, "int8", found):
            assert not torch.equal(model(x), before)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("name", TOWERS)
def test_layers_of_a_tower(subject: GetSubject, name: str) -> None:
    """All products of blocks and merges and no others; Q, K and V share their input's numbers; a tick for each."""
    tower = subject(name)
    module = tower.module
    layers = linear_layers(module)
    linears = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    outside = {n for n in linears if n.startswith(("projection.", "pooler", "patch_embed."))}
    assert set(layers) == set(linears) - outside
    assert len(layers) >= 18
    ticks: list[int] = []
    seen = observe(module, layers, tower.batches, len(tower.batches))
    found = Quantizer(module, seen, Method(compensate=False), lambda: ticks.append(1)).numbers("mse")
    assert len(ticks) == len(found) == len(layers)
    for layer in (n for n in layers if n.endswith(".k")):
        block = layer.removesuffix(".k")
        for form in FORMS:
            q, k, v = (found[f"{block}.{which}"].forms[form] for which in "qkv")
            assert (q.low, q.high) == (k.low, k.high) == (v.low, v.high)
