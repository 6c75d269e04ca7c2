"""Checked values of results. Those are files that people send around: nothing in them is taken on trust.

What is not as it must be is a `ResultError` that names its place, `where`: "result 1 (speed): noise.quiet".
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

from claprt_bench.errors import ResultError

_MAX_ITEMS = 1_000_000
_SHOWN = 60


def number(
    value: object, where: str, low: float = -math.inf, high: float = math.inf, wanted: str | None = None
) -> float:
    """A finite number in [low, high]; `wanted` says so in an error, in other words."""
    # An integer may be larger than any float: it is compared as it is, and only then converted.
    low, high = max(low, -1e308), min(high, 1e308)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        refuse(where, value, wanted or _range(low, high))
    return float(value)


def flag(value: object, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        refuse(where, value, "true or false")
    return value


def items(value: object, where: str) -> list[Any]:
    """A list, not endless."""
    if not isinstance(value, list):
        refuse(where, value, "a list")
    if len(value) > _MAX_ITEMS:
        raise ResultError(f"a damaged result: {where} has {len(value)} items, more than {_MAX_ITEMS}; measure again")
    return value


def mapping(value: object, where: str) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        refuse(where, value, "an object")
    return value


def refuse(where: str, value: object, wanted: str) -> NoReturn:
    """Raise the error of a value that is not what is wanted."""
    if isinstance(value, (dict, list)):
        shown = f"a {type(value).__name__} of {len(value)}"
    elif isinstance(value, int) and abs(value) >= 10**18:
        shown = "a huge integer"  # Python refuses to write one of thousands of digits
    else:
        shown = ascii(value)
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
    raise ResultError(f"a damaged result: {where} is {shown}, not {wanted}; measure again")


def _range(low: float, high: float) -> str:
    if high >= 1e308:
        return "a finite number" + ("" if low <= -1e308 else f" of at least {low:g}")
    return f"a number from {low:g} to {high:g}"
