"""From a tower's FP32 graph to its other variants: what is rounded, how, and what stays high for a bound to hold."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from claprt.errors import ExportError
from claprt_export import graph
from claprt_export.precision.data import Batch
from claprt_export.precision.half import module_of, to_half
from claprt_export.precision.int8 import for_cpu, for_tensorrt, with_weights_of
from claprt_export.precision.observe import observe
from claprt_export.precision.quantize import FORMS, Form, Method, QuantizedLinear, Quantizer, linear_layers
from claprt_export.precision.ranges import RangeMethod
from claprt_export.precision.search import MARGIN, Kept, errors, keep_high
from claprt_export.precision.simulate import half_modules, int8_layers

Tick = Callable[[str], None]
_BLOCKS = ("WindowBlock", "PatchMerge", "TextLayer")
_RANGES: tuple[RangeMethod, ...] = ("max", "mse")


@dataclass(frozen=True)
class Choice:
    """What was decided for one variant of a tower.

    Attributes:
        layers: layers (INT8) or blocks (FP16) that could be rounded.
        kept: the ones that were not, worst first, and what each contributes to 1 - cosine.
        weights_kept: how many weights those have.
        simulated_error: 1 - cosine of the worst input, in PyTorch.
        method: how INT8 was calibrated.
    """

    layers: int
    kept: tuple[str, ...]
    contributions: tuple[float, ...]
    weights_kept: int
    simulated_error: float
    method: str = ""


@dataclass
class Tower:
    """A tower to make variants of.

    Attributes:
        name: "audio" or "text".
        module: the FP32 tower.
        graph: its FP32 graph, whose `<name>.fp32.onnx` the others are named after.
        calibration: arguments of calls to calibrate on.
        inputs: arguments of calls to judge by, one input each.
    """

    name: str
    module: nn.Module
    graph: Path
    calibration: Sequence[Batch]
    inputs: Sequence[Batch]

    def path(self, variant: str) -> Path:
        """Where a variant's graph goes."""
        return self.graph.with_name(f"{self.name}.{variant}.onnx")

    def reference(self) -> Tensor:
        """The vectors of `inputs`, (n, dim)."""
        with torch.no_grad():
            return torch.cat([self.module(*batch) for batch in self.inputs])


def write_half(tower: Tower, bound: float, tick: Tick) -> Choice:
    """Write the FP16 variant.

    Raises:
        ExportError: the bound is missed with every block in FP32.
    """
    blocks = [name for name, module in tower.module.named_modules() if type(module).__name__ in _BLOCKS]

    def rounding(names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        return half_modules(tower.module, names)

    tick("fp16: simulating")
    kept = keep_high(
        tower.module, blocks, rounding, tower.inputs, tower.reference(), bound, lambda t: tick(f"fp16: {t}")
    )
    _require(tower, "fp16", kept, bound)
    model = onnx.load(str(tower.graph))
    inside = tuple(f"{name}." for name in kept.names)
    modules = {module_of(node) for node in model.graph.node}
    high = {m for m in modules if m in kept.names or m.startswith(inside)} if kept.names else set()
    _save(to_half(model, high), tower, "fp16")
    return _choice(tower.module, blocks, kept)


def write_int8(tower: Tower, bound: float, tick: Tick) -> dict[str, Choice]:
    """Write both INT8 variants.

    Raises:
        ExportError: the bound is missed with every layer in higher precision.
    """
    layers, reference = linear_layers(tower.module), tower.reference()
    done = 0

    def observed() -> None:
        nonlocal done
        done += 1
        tick(f"int8: calibrating, {done} of {len(tower.calibration)}")

    observations = observe(tower.module, layers, tower.calibration, len(tower.calibration), observed)
    candidates: dict[Form, _Candidate] = {}
    for smooth in (False, True):
        candidates = _better(
            candidates, _candidates(tower, observations, replace(Method(), smooth=smooth), reference, tick)
        )
        if all(candidate.error <= (1 - bound) * MARGIN for candidate in candidates.values()):
            break
    del observations
    choices: dict[str, Choice] = {}
    for form in FORMS:
        best = candidates[form]

        def rounding(names: Sequence[str], form: Form = form, best: _Candidate = best) -> Any:
            return int8_layers(best.module, best.numbers, form, names)

        def say(text: str, form: Form = form) -> None:
            tick(f"{form}: {text}")

        if best.error <= (1 - bound) * MARGIN:
            kept = Kept((), (), best.error)
        else:
            kept = keep_high(best.module, layers, rounding, tower.inputs, reference, bound, say)
        _require(tower, form, kept, bound)
        tick(f"{form}: writing")
        chosen = {name: best.numbers[name] for name in layers if name not in kept.names}
        model = with_weights_of(onnx.load(str(tower.graph)), best.module)
        _save(for_tensorrt(model, chosen) if form == "int8" else for_cpu(model, chosen), tower, form)
        choices[form] = replace(_choice(best.module, layers, kept), method=best.method)
    return choices


@dataclass(frozen=True)
class _Candidate:
    """One way to quantise a tower, and the error it makes with every layer rounded."""

    module: nn.Module
    numbers: dict[str, QuantizedLinear]
    method: str
    error: float


def _candidates(
    tower: Tower, observations: Any, method: Method, reference: Tensor, tick: Tick
) -> dict[Form, _Candidate]:
    module, rounded = copy.deepcopy(tower.module), 0

    def tock() -> None:
        nonlocal rounded
        rounded += 1
        tick(f"int8: rounding layer {rounded} of {len(observations)}")

    quantizer = Quantizer(module, observations, method, tock)
    result: dict[Form, _Candidate] = {}
    for ranges in _RANGES:
        tick(f"int8: simulating intervals by {ranges}")
        numbers = quantizer.numbers(ranges)
        for form in FORMS:
            with int8_layers(module, numbers, form, numbers):
                error = float(errors(module, tower.inputs, reference).max())
            if form not in result or error < result[form].error:
                name = f"{'smooth, ' if method.smooth else ''}shift, compensate, correct bias, intervals by {ranges}"
                result[form] = _Candidate(module, numbers, name, error)
    return result


def _better(a: dict[Form, _Candidate], b: dict[Form, _Candidate]) -> dict[Form, _Candidate]:
    return {form: min((c[form] for c in (a, b) if form in c), key=lambda one: one.error) for form in b}


def _require(tower: Tower, variant: str, kept: Kept, bound: float) -> None:
    if kept.error > 1 - bound:
        raise ExportError(
            f"{variant} cannot hold its bound: {tower.name} tower: 1 - cosine is {kept.error:.2e} with all "
            f"{len(kept.names)} layers in higher precision, the bound is {1 - bound:.1e}; leave it out (--precision)"
        )


def _choice(module: nn.Module, names: Sequence[str], kept: Kept) -> Choice:
    modules = dict(module.named_modules())
    weights = sum(p.numel() for name in kept.names for p in modules[name].parameters())
    return Choice(len(names), kept.names, kept.contributions, weights, kept.error)


def _save(model: onnx.ModelProto, tower: Tower, variant: str) -> None:
    inputs, output = [v.name for v in model.graph.input], model.graph.output[0].name
    path = tower.path(variant)
    graph.save(model, path)
    graph.check(path, inputs=inputs, output=output, domains=graph.DOMAINS[variant])
