"""From a tower's FP32 graph to its other variants: what is rounded, how, and what stays high for a bound to hold."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from claprt.engines.ort import OrtEngine
from claprt.errors import ExportError
from claprt_export import graph
from claprt_export.on_cpu import runnable
from claprt_export.precision.data import Batch, select
from claprt_export.precision.half import module_of, to_half
from claprt_export.precision.int8 import for_cpu, for_tensorrt, with_weights_of
from claprt_export.precision.observe import observe
from claprt_export.precision.quantize import FORMS, Form, Method, QuantizedLinear, Quantizer, linear_layers
from claprt_export.precision.ranges import RangeMethod
from claprt_export.precision.search import Kept, Rounding, errors, keep_high
from claprt_export.precision.simulate import half_modules, int8_layers

Tick = Callable[[str], None]
_BLOCKS = ("WindowBlock", "PatchMerge", "TextLayer")
_FAR = 2.0  # times what may be used up
# Shares of the bound that may be used up: in simulation, as FP16 and the order of sums change some roundings; and by
# the graphs, as inputs to come may be a little worse.
_MARGIN, _GRAPH_MARGIN = 0.8, 0.95
_TRIED = 16  # sounds that are tried in the graphs: the worst of the simulation
# Ways to quantise a tower, tried in this order while the bound is missed by far; a little is left to the search.
# Of texts, what calibration saw is never clipped: a new one may have more of it, and then nothing averages the error.
_WAYS: dict[str, tuple[tuple[bool, RangeMethod], ...]] = {
    "audio": ((False, "max"), (False, "mse"), (True, "max"), (True, "mse")),
    "text": ((False, "max"),),
}


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
        inputs: arguments of calls to judge by.
    """

    name: str
    module: nn.Module
    graph: Path
    calibration: Sequence[Batch]
    inputs: Sequence[Batch]

    def path(self, variant: str) -> Path:
        """Where a variant's graph goes."""
        return self.graph.with_name(f"{self.name}.{variant}.onnx")

    @cached_property
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
    budget = (1 - bound) * _MARGIN
    kept = keep_high(
        tower.module, blocks, [rounding], tower.inputs, tower.reference, budget, lambda t: tick(f"fp16: {t}")
    )
    _require(tower, "fp16", kept, bound)
    model = onnx.load(str(tower.graph))
    inside = tuple(f"{name}." for name in kept.names)
    modules = {module_of(node) for node in model.graph.node}
    high = {m for m in modules if m in kept.names or m.startswith(inside)} if kept.names else set()
    _save(to_half(model, high), tower, "fp16")
    return _choice(tower.module, blocks, kept)


def write_int8(tower: Tower, bound: float, tick: Tick) -> dict[str, Choice]:
    """Write both INT8 variants. They keep the same layers in higher precision.

    What the search finds in simulation is tried in the graphs, and more is kept where they err more.

    Raises:
        ExportError: the bound is missed with every layer in higher precision.
    """
    layers, budget = linear_layers(tower.module), (1 - bound) * _MARGIN
    done = 0

    def observed() -> None:
        nonlocal done
        done += 1
        tick(f"int8: calibrating, {done} of {len(tower.calibration)}")

    observations = observe(tower.module, layers, tower.calibration, len(tower.calibration), observed)
    way = _best_way(tower, observations, budget, tick)
    del observations
    roundings = [way.rounding(form) for form in FORMS]
    while True:
        kept = Kept((), (), way.error)
        if way.error > budget:
            kept = keep_high(
                way.module, layers, roundings, tower.inputs, tower.reference, budget, lambda t: tick(f"int8: {t}")
            )
        _require(tower, "int8", kept, bound)
        chosen = {name: way.numbers[name] for name in layers if name not in kept.names}
        for form in FORMS:
            tick(f"{form}: writing")
            model = with_weights_of(onnx.load(str(tower.graph)), way.module)
            _save(for_tensorrt(model, chosen) if form == "int8" else for_cpu(model, chosen), tower, form)
        tick("int8: running the graphs")
        if not chosen or max(_graph_error(tower, form, way) for form in FORMS) <= (1 - bound) * _GRAPH_MARGIN:
            return dict.fromkeys(FORMS, replace(_choice(way.module, layers, kept), method=way.name))
        budget /= 2


def _graph_error(tower: Tower, variant: str, way: _Way) -> float:
    """1 - cosine of the worst input, by a written graph in ONNX Runtime: of all texts, and of the worst sounds.

    Texts are quick, and one that is the worst in a graph need not be among the worst of the simulation.
    """
    inputs, reference = tower.inputs, tower.reference
    if tower.name != "text":
        worst = way.errors.argsort(descending=True)[:_TRIED].tolist()
        inputs, reference = select(inputs, worst), reference[worst]
    names = [v.name for v in onnx.load(str(tower.path(variant)), load_external_data=False).graph.input]
    with runnable(tower.path(variant), variant) as path:
        engine = OrtEngine([path], tuple(names), reference.shape[1])

        def run(*batch: Tensor) -> Tensor:
            return torch.from_numpy(engine.run(dict(zip(names, (t.numpy() for t in batch), strict=True))))

        return float(errors(run, inputs, reference).max())


@dataclass(frozen=True)
class _Way:
    """One way to quantise a tower, and the errors of its inputs, (n,), in the worse form with every layer rounded."""

    name: str
    module: nn.Module
    numbers: dict[str, QuantizedLinear]
    errors: Tensor

    @property
    def error(self) -> float:
        return float(self.errors.max())

    def rounding(self, form: Form) -> Rounding:
        return lambda names: int8_layers(self.module, self.numbers, form, names)


def _best_way(tower: Tower, observations: Any, budget: float, tick: Tick) -> _Way:
    best: _Way | None = None
    quantizers: dict[bool, tuple[nn.Module, Quantizer]] = {}
    for smooth, ranges in _WAYS[tower.name]:
        if smooth not in quantizers:
            quantizers = {smooth: _quantizer(tower, observations, replace(Method(), smooth=smooth), tick)}
        module, quantizer = quantizers[smooth]
        tick(f"int8: simulating intervals by {ranges}")
        numbers = quantizer.numbers(ranges)
        found = []
        for form in FORMS:
            with int8_layers(module, numbers, form, numbers):
                found.append(errors(module, tower.inputs, tower.reference))
        name = f"{'smooth, ' if smooth else ''}shift, compensate, correct bias, intervals by {ranges}"
        way = _Way(name, module, numbers, torch.stack(found).amax(0))
        best = way if best is None or way.error < best.error else best
        if best.error <= budget * _FAR:
            break
    assert best is not None
    return best


def _quantizer(tower: Tower, observations: Any, method: Method, tick: Tick) -> tuple[nn.Module, Quantizer]:
    """A quantizer, and the copy of the tower that it changes. The two towers share what it leaves as it is."""
    shared = {id(t): t for t in (*tower.module.parameters(), *tower.module.buffers())}
    module, rounded = copy.deepcopy(tower.module, shared), 0

    def tock() -> None:
        nonlocal rounded
        rounded += 1
        tick(f"int8: rounding layer {rounded} of {len(observations)}")

    return module, Quantizer(module, observations, method, tock)


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
