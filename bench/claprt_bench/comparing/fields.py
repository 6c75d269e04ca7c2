"""Checked access to a result's fields: a wrong one is an error that has the field's name.

Results are files that people send around, so nothing in them is taken on trust: types, signs, sizes, and characters
that a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from claprt_bench import values
from claprt_bench.errors import ResultError

_MAX_TEXT = 1000
# Milliseconds, bytes, rates: whatever is measured lies in here, and quotients of two such numbers are finite.
_SMALLEST, _LARGEST = 1e-9, 1e18


class Fields:
    """An object of a result.

    Args:
        value: what stands in the file.
        where: the path of the file and the field's name, for errors.

    Raises:
        ResultError: it is no object. So does every method for a field that is missing or wrong.
    """

    def __init__(self, value: object, where: str) -> None:
        self.values: dict[str, Any] = values.mapping(value, where)
        self.where = where

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(key) is not None

    def name(self, key: str) -> str:
        """The field's full name."""
        return f"{self.where}{'' if self.where.endswith(': ') else '.'}{key}"

    def fields(self, key: str) -> Fields:
        """An object in this one."""
        return Fields(self._get(key), self.name(key))

    def items(self, key: str) -> Iterator[Fields]:
        """The objects of a list."""
        for index, item in enumerate(values.items(self._get(key), self.name(key))):
            yield Fields(item, f"{self.name(key)}[{index}]")

    def text(self, key: str) -> str:
        """A string of printable characters, not empty."""
        return _text(self._get(key), self.name(key))

    def texts(self, key: str) -> list[str]:
        """A list of such strings."""
        return [
            _text(item, f"{self.name(key)}[{index}]")
            for index, item in enumerate(values.items(self._get(key), self.name(key)))
        ]

    def flag(self, key: str) -> bool:
        """True or false."""
        return values.flag(self._get(key), self.name(key))

    def number(self, key: str, low: float = _SMALLEST, high: float = _LARGEST) -> float:
        """A number in [low, high]; positive unless `low` says otherwise."""
        return _number(self._get(key), self.name(key), low, high)

    def integer(self, key: str, low: int = 1, high: int = 2**62) -> int:
        """An integer in [low, high]."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            values.refuse(self.name(key), value, f"an integer from {low} to {high}")
        return value

    def numbers(self, key: str) -> NDArray[np.float64]:
        """A list of positive numbers, at least one: (n,) float64."""
        return _numbers(self._get(key), self.name(key))

    def repeats(self, key: str) -> list[NDArray[np.float64]]:
        """A list of lists of positive numbers, none empty."""
        rows = values.items(self._get(key), self.name(key))
        if not rows:
            values.refuse(self.name(key), rows, "a list of at least one repeat")
        return [_numbers(row, f"{self.name(key)}[{index}]") for index, row in enumerate(rows)]

    def pair(self, key: str) -> tuple[float, float]:
        """A list of two positive numbers, the lower one first."""
        found = self.numbers(key)
        if len(found) != 2 or found[0] > found[1]:
            self.refuse(key, "two numbers, the lower one first")
        return float(found[0]), float(found[1])

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Raise the error of a field that is not what is wanted."""
        values.refuse(self.name(key), self._get(key), wanted)

    def _get(self, key: str) -> Any:
        if key not in self.values:
            raise ResultError(f"a damaged result: {self.name(key)} is missing; measure again")
        return self.values[key]


def _numbers(value: object, where: str) -> NDArray[np.float64]:
    found = values.items(value, where)
    if not found:
        values.refuse(where, found, "a list of at least one number")
    return np.array([_number(item, f"{where}[{index}]", _SMALLEST, _LARGEST) for index, item in enumerate(found)])


def _number(value: object, where: str, low: float, high: float) -> float:
    return values.number(value, where, low, high, "a positive number" if low == _SMALLEST else None)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT or not value.isprintable():
        values.refuse(where, value, f"a line of 1 to {_MAX_TEXT} printable characters")
    return value
