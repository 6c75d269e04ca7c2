"""A tower that rounds as one of its variants will, in PyTorch: fast enough to try one layer after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from claprt_export.precision.quantize import Form, QuantizedLinear
from claprt_export.precision.ranges import quantised


@contextlib.contextmanager
def int8_layers(
    tower: nn.Module, numbers: Mapping[str, QuantizedLinear], form: Form, names: Iterable[str]
) -> Iterator[None]:
    """Let the layers `names` compute in INT8 of the given form while the context lasts."""
    modules: dict[str, Any] = dict(tower.named_modules())
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(_int8(modules[name], numbers[name], form))
        yield


@contextlib.contextmanager
def _int8(layer: nn.Linear, numbers: QuantizedLinear, form: Form) -> Iterator[None]:
    chosen = numbers.forms[form]

    def rounded(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0] if chosen.shift is None else inputs[0] - chosen.shift
        return (quantised(x, chosen.low, chosen.high, chosen.steps),)

    weight, bias = layer.weight, layer.bias
    layer.weight = nn.Parameter(numbers.weight_values, requires_grad=False)
    if chosen.bias is not None:
        layer.bias = nn.Parameter(chosen.bias, requires_grad=False)
    hook = layer.register_forward_pre_hook(rounded)
    try:
        yield
    finally:
        hook.remove()
        layer.weight, layer.bias = weight, bias


@contextlib.contextmanager
def half_modules(tower: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Let modules take, hold and give FP16 values while the context lasts: Linear layers, or blocks with all of theirs.

    Sums are FP32, as on a GPU. A value beyond 65504 becomes infinite, as it would there.
    """
    modules: dict[str, Any] = dict(tower.named_modules())
    with contextlib.ExitStack() as stack:
        for name in names:
            for layer in modules[name].modules():
                if isinstance(layer, nn.Linear):
                    stack.enter_context(_half(layer))
            hook = modules[name].register_forward_hook(lambda module, inputs, output: _as_half(output))
            stack.callback(hook.remove)
        yield


def _as_half(x: Tensor) -> Tensor:
    return x.half().float()


@contextlib.contextmanager
def _half(layer: nn.Linear) -> Iterator[None]:
    weight = layer.weight
    layer.weight = nn.Parameter(_as_half(weight), requires_grad=False)
    hooks = (
        layer.register_forward_pre_hook(lambda module, inputs: (_as_half(inputs[0]),)),
        layer.register_forward_hook(lambda module, inputs, output: _as_half(output)),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        layer.weight = weight
