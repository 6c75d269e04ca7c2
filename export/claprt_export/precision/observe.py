"""What goes into each Linear layer of a tower while it runs over the calibration set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# Rows (tokens) of each layer's input that are kept, over all batches.
ROWS = 512


@dataclass
class Observation:
    """The input of one Linear layer, (rows, features), over a calibration set.

    Attributes:
        rows: a random sample, (<= ROWS, features).
        low, high: the smallest and the largest value of each feature, over all rows, (features,).
        mean: over all rows, (features,).
        moments: mean over all rows of row^T row, (features, features).
        count: rows seen.
    """

    rows: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    moments: Tensor
    count: int

    def shifted(self, by: Tensor) -> Observation:
        """What would have been seen had `by`, (features,), been subtracted from each row."""
        cross = torch.outer(self.mean, by)
        moments = self.moments - cross - cross.T + torch.outer(by, by)
        return Observation(self.rows - by, self.low - by, self.high - by, self.mean - by, moments, self.count)

    def divided(self, by: Tensor) -> Observation:
        """What would have been seen had each row been divided by `by`, (features,) and positive."""
        moments = self.moments / by[:, None] / by
        return Observation(self.rows / by, self.low / by, self.high / by, self.mean / by, moments, self.count)


@dataclass
class _Collector:
    rows_per_batch: int
    generator: torch.Generator
    rows: list[Tensor] = field(default_factory=list)
    low: Tensor | None = None
    high: Tensor | None = None
    total: Tensor | None = None
    gram: Tensor | None = None
    count: int = 0
    waiting: list[Tensor] = field(default_factory=list)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        low, high = x.amin(0), x.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        chosen = torch.randperm(len(x), generator=self.generator)[: self.rows_per_batch]
        self.rows.append(x[chosen].clone())
        self.count += len(x)
        self.waiting.append(x)
        if sum(len(rows) for rows in self.waiting) >= ROWS:
            self.add_up()

    def add_up(self) -> None:
        """Add what waits to the second moments. Texts have few tokens: each alone would cost a pass over the matrix."""
        if self.waiting:
            x = torch.cat(self.waiting)
            self.waiting.clear()
            self.total = x.sum(0) if self.total is None else self.total + x.sum(0)
            self.gram = x.T @ x if self.gram is None else self.gram.addmm_(x.T, x)


def observe(
    tower: nn.Module,
    layers: Sequence[str],
    batches: Iterable[tuple[Tensor, ...]],
    total: int,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Observation]:
    """Run a tower and record the inputs of its layers.

    Args:
        tower: an `AudioTower` or `TextTower`.
        layers: names of Linear layers in it.
        batches: arguments of its calls. The values of padded positions must not be in them.
        total: how many batches there are.
        tick: called after each batch.

    Returns:
        An observation for each layer. Layers that read one value, as Q, K and V mostly do, share one object.
    """
    modules = dict(tower.named_modules())
    batches = iter(batches)
    first = next(batches)
    values = _values(tower, {name: modules[name] for name in layers}, first)
    collectors = {
        name: _Collector(-(-ROWS // total), torch.Generator().manual_seed(index))
        for index, name in enumerate(dict.fromkeys(values.values()))
    }
    hooks = [modules[name].register_forward_pre_hook(collector) for name, collector in collectors.items()]
    try:
        with torch.no_grad():
            for batch in itertools.chain([first], batches):
                tower(*batch)
                tick()
    finally:
        for hook in hooks:
            hook.remove()
    seen = {}
    for name, collector in collectors.items():
        collector.add_up()
        assert collector.low is not None
        assert collector.high is not None
        assert collector.total is not None
        assert collector.gram is not None
        seen[name] = Observation(
            torch.cat(collector.rows)[:ROWS],
            collector.low,
            collector.high,
            collector.total / collector.count,
            collector.gram / collector.count,
            collector.count,
        )
    return {name: seen[value] for name, value in values.items()}


def _values(tower: nn.Module, modules: dict[str, Any], batch: tuple[Tensor, ...]) -> dict[str, str]:
    """Of each layer, the first one that reads the same value."""
    read: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: read.__setitem__(name, inputs[0])

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            tower(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: next(other for other in modules if read[other] is read[name]) for name in modules}
