"""Which layers of a tower must stay in higher precision for a bound to hold.

A layer's contribution is what 1 - cosine is when it alone is rounded. Contributions add up about, so the smallest set
of worst layers is taken out at once, then tested, and enlarged while the bound is still missed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from claprt_export.precision.data import Batch, join, select

# Contributions are measured on the inputs that came out worst.
_WORST_INPUTS = 6

Rounding = Callable[[Sequence[str]], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Kept:
    """The outcome of a search.

    Attributes:
        names: what stays high, worst first.
        contributions: 1 - cosine of each of them, rounded alone.
        error: 1 - cosine of the worst input with all others rounded.
    """

    names: tuple[str, ...]
    contributions: tuple[float, ...]
    error: float


def errors(tower: Callable[..., Tensor], inputs: Sequence[Batch], reference: Tensor) -> Tensor:
    """1 - cosine between the tower's vectors of all inputs, in order, and `reference`, (n, dim). NaN counts as 2."""
    with torch.no_grad():
        found = torch.cat([tower(*batch) for batch in inputs]).double()
    cosine = nn.functional.cosine_similarity(found, reference.double(), dim=1)
    return torch.nan_to_num(1 - cosine, nan=2.0)


def keep_high(
    tower: nn.Module,
    names: Sequence[str],
    roundings: Sequence[Rounding],
    inputs: Sequence[Batch],
    reference: Tensor,
    budget: float,
    tick: Callable[[str], None] = lambda text: None,
) -> Kept:
    """Search.

    Args:
        tower: in FP32.
        names: layers that may be rounded.
        roundings: contexts in which the named layers are, one for each form that the decision is for. Two forms of INT8
            tell more about which layer is delicate than each alone does.
        inputs: arguments of the tower.
        reference: the vectors they should give, (n, dim).
        budget: 1 - cosine that the worst input may have.
        tick: called with a text while it takes long.
    """

    def error_of(rounded: Sequence[str], inputs: Sequence[Batch], reference: Tensor) -> Tensor:
        found = []
        for rounding in roundings:
            with rounding(rounded):
                found.append(errors(tower, inputs, reference))
        return torch.stack(found).amax(0)

    each = error_of(names, inputs, reference)
    if float(each.max()) <= budget:
        return Kept((), (), float(each.max()))
    worst = each.argsort(descending=True)[:_WORST_INPUTS].tolist()
    some, wanted = select(inputs, worst), reference[worst]
    if not some[0][0].is_floating_point():  # texts are short: at once they take hardly longer than one
        some = [join(some)]
    alone: dict[str, float] = {}
    for number, name in enumerate(names):
        tick(f"layer {number + 1} of {len(names)}")
        alone[name] = float(error_of([name], some, wanted).max())
    order = sorted(names, key=lambda name: -alone[name])
    total = sum(alone.values())
    # What the contributions predict, scaled to what was really found with all of them.
    scale = float(each.max()) / max(total, 1e-30)
    count, left = 0, total
    while count < len(order) and left * scale > budget:
        left -= alone[order[count]]
        count += 1
    count = max(count, 1)
    while True:
        tick(f"{count} of {len(names)} layers kept")
        error = float(error_of(order[count:], inputs, reference).max())
        if error <= budget or count == len(order):
            break
        count = min(len(order), count + max(1, len(order) // 16))
    kept = order[:count]
    return Kept(tuple(kept), tuple(alone[name] for name in kept), error)
