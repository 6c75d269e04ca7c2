"""INT8 numbers for each Linear layer of a tower: integer weights, their scales, the input's interval, the bias.

Weights are symmetric, one scale for each output. Inputs have one interval for the whole tensor, in two forms:

- "int8", for TensorRT: symmetric, scales that FP16 represents exactly (its graph is typed FP16);
- "int8-cpu", for ONNX Runtime on CPUs: UINT8 with a zero point, which costs nothing there and wastes no step on one-
  sided inputs such as GELU's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from claprt.errors import ExportError
from claprt_export.precision.equalize import equalize
from claprt_export.precision.observe import Observation
from claprt_export.precision.ranges import RangeMethod, choose_range, quantised

Form = Literal["int8", "int8-cpu"]
FORMS: tuple[Form, ...] = ("int8", "int8-cpu")


@dataclass(frozen=True)
class Method:
    """What is done besides rounding.

    Attributes:
        shift: subtract the mean of each input feature before rounding and add what that takes away behind the product
            (Outlier Suppression+, Wei et al. 2023). `equalize` does it where it is free.
        smooth: migrate the scale of input features into the weights where a norm can take it up for nothing
            (SmoothQuant, Xiao et al. 2023), each time with the exponent that errs least.
        compensate: round the weights one input after another, each time correcting the ones to come for the error made
            (OPTQ, Frantar et al. 2023), instead of each to the nearest.
        correct_bias: subtract the mean error of each output from the bias (Nagel et al. 2019).
    """

    shift: bool = True
    smooth: bool = False
    compensate: bool = True
    correct_bias: bool = True


@dataclass(frozen=True)
class InputForm:
    """A layer's input in one form, and the bias that goes with it.

    Attributes:
        low, high: the interval that is divided into `steps`.
        shift: (features,), to be subtracted before; only where nothing before the layer can take it up.
        bias: (out,).
    """

    low: float
    high: float
    steps: int
    bias: Tensor | None
    shift: Tensor | None = None

    @property
    def scale(self) -> float:
        """Value of one step."""
        return (self.high - self.low) / self.steps

    @property
    def zero_point(self) -> int:
        """The step that stands for 0, counted from `low`. Symmetric INT8 counts from -127, so there it is 127."""
        return round(-self.low / self.scale)


@dataclass(frozen=True)
class QuantizedLinear:
    """One Linear layer in INT8.

    Attributes:
        weight: (out, in) int8, -127..127.
        weight_scale: (out,) float32, each representable in FP16.
        forms: the input, by form.
    """

    weight: Tensor
    weight_scale: Tensor
    forms: Mapping[Form, InputForm]

    @property
    def weight_values(self) -> Tensor:
        """What the integers stand for, (out, in) float32."""
        return self.weight.float() * self.weight_scale[:, None]


def linear_layers(tower: nn.Module) -> list[str]:
    """The layers that INT8 is for: the products inside blocks and patch merges, where all the work is.

    The fusion block, the projections and the pooler are not among them: no time to win, and nothing averages their
    error.
    """
    inside = ("steps.", "layers.")
    return [n for n, m in tower.named_modules() if isinstance(m, nn.Linear) and n.startswith(inside)]


class Quantizer:
    """INT8 numbers of a tower's observed layers.

    With `method.shift` and `method.smooth` the tower's own weights change (it still computes the same function).
    """

    def __init__(
        self,
        tower: nn.Module,
        observations: Mapping[str, Observation],
        method: Method,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Round the weights of all observed layers: the slow part. `tick` is called after each."""
        self._method = method
        self._seen = equalize(tower, observations, shift=method.shift, smooth=method.smooth)
        self._layers: dict[str, Any] = {n: m for n, m in tower.named_modules() if n in self._seen}
        self._weights: dict[str, tuple[Tensor, Tensor]] = {}
        self._order: tuple[Tensor, Tensor, Tensor] | None = None  # of the last moments: Q, K and V share them
        for name, observation in self._seen.items():
            self._weights[name] = self._round(self._layers[name].weight.detach(), observation)
            tick()

    def _round(self, weight: Tensor, observation: Observation) -> tuple[Tensor, Tensor]:
        scale = _to_half(weight.abs().amax(1).clamp_min(1e-5) / 127)
        if self._method.compensate:
            # The mean error goes into the bias, so only what varies counts.
            if self._order is None or self._order[0] is not observation.moments:
                centred = observation.shifted(observation.mean) if self._method.correct_bias else observation
                self._order = observation.moments, *_rounding_order(centred.moments)
            return _compensated(weight, scale, *self._order[1:]).to(torch.int8), scale
        return torch.clamp(torch.round(weight / scale[:, None]), -127, 127).to(torch.int8), scale

    def numbers(self, ranges: RangeMethod) -> dict[str, QuantizedLinear]:
        """All numbers, with the inputs' intervals chosen by `ranges` (see `ranges.choose_range`)."""
        intervals: dict[tuple[str, Form], tuple[float, float]] = {}
        result = {}
        for name in self._seen:
            # Q, K and V read one value, which is to be quantised once.
            block, _, last = name.rpartition(".")
            value = f"{block}.k" if last in "qkv" else name
            for form in FORMS:
                if (value, form) not in intervals:
                    intervals[value, form] = self._interval(value, form, ranges)
            forms = {form: self._form(name, form, intervals[value, form]) for form in FORMS}
            result[name] = QuantizedLinear(*self._weights[name], forms)
        return result

    def _shift(self, name: str, form: Form) -> Tensor | None:
        """What is subtracted from GELU's output. In TensorRT one more pointwise operation is free.

        On a CPU it is not, and there the zero point does most of it.
        """
        wanted = self._method.shift and form == "int8" and name.endswith(".down")
        return self._seen[name].mean if wanted else None

    def _moved(self, name: str, form: Form) -> Observation:
        shift = self._shift(name, form)
        return self._seen[name] if shift is None else self._seen[name].shifted(shift)

    def _interval(self, name: str, form: Form, ranges: RangeMethod) -> tuple[float, float]:
        moved, symmetric = self._moved(name, form), form == "int8"
        weight, scale = self._weights[name]
        low, high = float(moved.low.min()), float(moved.high.max())
        low, high = choose_range(ranges, moved.rows, low, high, weight.float() * scale[:, None], symmetric=symmetric)
        if symmetric:
            step = float(_to_half(torch.tensor(high / 127)))
            return -127 * step, 127 * step
        return low, high

    def _form(self, name: str, form: Form, interval: tuple[float, float]) -> InputForm:
        layer, moved, shift = self._layers[name], self._moved(name, form), self._shift(name, form)
        weight, scale = self._weights[name]
        steps = 254 if form == "int8" else 255
        bias = None if layer.bias is None else layer.bias.detach().clone()
        if bias is not None:
            exact = layer.weight.detach()
            if shift is not None:
                bias += exact @ shift
            if self._method.correct_bias:
                found = quantised(moved.rows, *interval, steps) @ (weight.float() * scale[:, None]).T
                bias -= (found - moved.rows @ exact.T).mean(0)
        return InputForm(*interval, steps, bias, shift)


def _to_half(values: Tensor) -> Tensor:
    """The next larger values that FP16 represents, in FP32: rounded up, nothing is clipped that was not to be."""
    half = values.half()
    return torch.where(half.float() < values, torch.nextafter(half, torch.tensor(float("inf")).half()), half).float()


def _rounding_order(moments: Tensor, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """In which order `_compensated` rounds inputs, and the factor that says what errors do to those behind."""
    order = moments.diagonal().argsort(descending=True)  # what weighs most is rounded while most can still make it good
    return order, _inverse_factor(moments[order][:, order], damping)


def _compensated(weight: Tensor, scale: Tensor, order: Tensor, factor: Tensor, block: int = 128) -> Tensor:
    """Rounded weights, (out, in), each input's error made good by the inputs behind it (OPTQ, Frantar et al. 2023)."""
    features = weight.shape[1]
    left = weight[:, order].T.contiguous()  # an input's weights lie together
    result = torch.empty_like(left)
    diagonal = factor.diagonal().tolist()
    for start in range(0, features, block):
        stop = min(start + block, features)
        part = left[start:stop]
        errors = torch.empty_like(part)
        for i, value in enumerate(part):
            row = torch.clamp(torch.round(value / scale), -127, 127, out=result[start + i])
            torch.div(value - row * scale, diagonal[start + i], out=errors[i])
            part[i:].addr_(factor[start + i, start + i : stop], errors[i], alpha=-1)
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return result.T[:, order.argsort()]


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of damped moments.

    Where an input hardly varies, its mean's subtraction leaves rounding errors, which may be negative: the damping then
    grows until they do not matter.

    Raises:
        ExportError: the moments are not finite.
    """
    amount = damping * float(moments.diagonal().mean().clamp_min(0)) + 1e-8
    while math.isfinite(amount):
        lower, failed = torch.linalg.cholesky_ex(moments + torch.eye(len(moments)) * amount)
        if not failed:
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return factor
        amount *= 10
    raise ExportError("the model gives no finite numbers on the calibration set: check the checkpoint's weights")
