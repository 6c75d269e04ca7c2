"""Rewrites a tower so that INT8 rounds its activations better, without changing what it computes.

Shift: a feature's mean wastes steps of a symmetric interval, and in CLAP's towers much of an activation is mean. It is
subtracted where it arises, in the norm's bias or V's, and comes back in the bias behind the product, and in that of the
residual where the norm feeds one (Outlier Suppression+, Wei et al. 2023).

Smooth: a feature's scale moves from the activation into the weights that read it (SmoothQuant, Xiao et al. 2023). Only
behind norms that nothing but Linear layers reads, which is Swin's; RoBERTa's also feed the residual. Not behind V:
what attention averages is largest in short texts, and features of new ones exceed any interval made for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from claprt_export.precision.observe import Observation
from claprt_export.precision.ranges import quantised


@dataclass(frozen=True)
class _Value:
    """A value inside a tower: what makes it, which layers read it, and whose bias joins the residual it feeds."""

    source: str
    readers: tuple[str, ...]
    residual: str | None = None
    smoothable: bool = False


def _values(tower: nn.Module) -> Iterator[_Value]:
    before = "norm"  # of a text layer: the embeddings' norm, then the layer's before
    for name, module in tower.named_modules():
        kind = type(module).__name__
        if kind == "WindowBlock":
            yield _Value(f"{name}.norm1", (f"{name}.k", f"{name}.q", f"{name}.v"), smoothable=True)
            yield _Value(f"{name}.v", (f"{name}.out",))
            yield _Value(f"{name}.norm2", (f"{name}.up",), smoothable=True)
        elif kind == "PatchMerge":
            yield _Value(f"{name}.norm", (f"{name}.reduction",), smoothable=True)
        elif kind == "TextLayer":
            yield _Value(before, (f"{name}.k", f"{name}.q", f"{name}.v"), residual=f"{name}.out")
            yield _Value(f"{name}.v", (f"{name}.out",))
            yield _Value(f"{name}.norm1", (f"{name}.up",), residual=f"{name}.down")
            before = f"{name}.norm2"


def equalize(
    tower: nn.Module, observations: Mapping[str, Observation], *, shift: bool, smooth: bool
) -> dict[str, Observation]:
    """Change a tower in place.

    Args:
        tower: an `AudioTower` or `TextTower`.
        observations: of all its block and merge layers.
        shift: subtract means.
        smooth: move scales.

    Returns:
        What the layers would see now.
    """
    modules: dict[str, Any] = dict(tower.named_modules())
    seen = dict(observations)
    with torch.no_grad():
        for value in _values(tower):
            if shift:
                _shift(modules, seen, value)
            if smooth and value.smoothable:
                _smooth(modules, seen, value)
    return seen


def _add_to_bias(layer: Any, amount: Tensor) -> None:
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(layer.out_features), requires_grad=False)
    layer.bias = nn.Parameter(layer.bias + amount, requires_grad=False)


def _replace(seen: dict[str, Observation], names: Sequence[str], change: Callable[[Observation], Observation]) -> None:
    """Change observations; what shares one object goes on doing so."""
    changed = {id(seen[name]): change(seen[name]) for name in names}
    seen.update({name: changed[id(seen[name])] for name in names})


def _shift(modules: Mapping[str, Any], seen: dict[str, Observation], value: _Value) -> None:
    mean = seen[value.readers[0]].mean
    _add_to_bias(modules[value.source], -mean)
    for name in value.readers:
        if not name.endswith(".k"):  # softmax does not see a bias of K
            _add_to_bias(modules[name], modules[name].weight @ mean)
    _replace(seen, value.readers, lambda observation: observation.shifted(mean))
    if value.residual is not None:
        _add_to_bias(modules[value.residual], mean)


def _smooth(modules: Mapping[str, Any], seen: dict[str, Observation], value: _Value) -> None:
    first = seen[value.readers[0]]
    weights = [modules[name].weight for name in value.readers]
    activation = torch.maximum(-first.low, first.high).clamp_min(1e-6)
    largest = torch.stack([w.abs().amax(0) for w in weights]).amax(0).clamp_min(1e-6)
    best, best_error = torch.ones_like(activation), float("inf")
    for exponent in (None, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0):
        scale = torch.ones_like(activation)
        if exponent is not None:
            scale = activation**exponent / largest ** (1 - exponent)
            scale = scale / scale.log().mean().exp()
        error = sum(_output_error(first.divided(scale), weight * scale) for weight in weights)
        if error < best_error * (1.0 if exponent is None else 0.98):  # only where it clearly helps
            best, best_error = scale, error
    source = modules[value.source]
    source.weight = nn.Parameter(source.weight / best, requires_grad=False)
    if source.bias is not None:
        source.bias = nn.Parameter(source.bias / best, requires_grad=False)
    for name in value.readers:
        modules[name].weight = nn.Parameter(modules[name].weight * best, requires_grad=False)
    _replace(seen, value.readers, lambda observation: observation.divided(best))


def _output_error(observation: Observation, weight: Tensor) -> float:
    """Squared error of a layer's output with everything rounded to the nearest of the full interval."""
    high = max(float(torch.maximum(-observation.low, observation.high).max()), 1e-6)
    step = weight.abs().amax(1).clamp_min(1e-12) / 127
    rounded = torch.round(weight / step[:, None]) * step[:, None]
    rows = observation.rows
    return float(((quantised(rows, -high, high, 254) @ rounded.T - rows @ weight.T) ** 2).sum())
