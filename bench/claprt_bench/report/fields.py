"""Reading documents: what is missing is None or empty, what has a wrong type or value is an error that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from claprt_bench.errors import ResultError


class Record:
    """A JSON object, and where it stands.

    Every method raises `ResultError` where the value is neither null nor of its type.

    Attributes:
        where: for errors: "result 1 (speed): measurements[3].summary".
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "an object")
        self._value: Mapping[Any, Any] = value
        self.where = where

    def __bool__(self) -> bool:
        return bool(self._value)

    def text(self, key: str) -> str | None:
        """A string."""
        value = self._value.get(key)
        if value is None or isinstance(value, str):
            return value
        raise _wrong(self._at(key), value, "a text")

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self._value.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise _wrong(self._at(key), value, "true or false")

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        """A finite number within [least, most]."""
        value = self._value.get(key)
        return None if value is None else _number(value, self._at(key), least, most)

    def share(self, key: str) -> float | None:
        """A number from 0 to 1."""
        return self.number(key, 0.0, 1.0)

    def numbers(self, key: str, least: float = -math.inf) -> list[float]:
        """A list of numbers."""
        return [_number(value, f"{self._at(key)}[{i}]", least) for i, value in enumerate(self._list(key))]

    def span(self, key: str) -> tuple[float | None, float | None]:
        """A pair of numbers: lowest and highest."""
        values = self.numbers(key)
        if values and (len(values) != 2 or values[0] > values[1]):
            raise _wrong(self._at(key), values, "a pair, the lower one first")
        return (values[0], values[1]) if values else (None, None)

    def samples(self, key: str = "samples_ms") -> list[float]:
        """Times, not negative, of all repeats in one list."""
        found: list[float] = []
        for i, value in enumerate(self._list(key)):
            repeat = value if isinstance(value, list) else [value]
            found += [_number(each, f"{self._at(key)}[{i}]", 0.0) for each in repeat]
        return found

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        values = self._list(key)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise _wrong(f"{self._at(key)}[{i}]", value, "a text")
        return values

    def record(self, key: str) -> Record:
        """An object; an empty one if there is none."""
        value = self._value.get(key)
        return Record({} if value is None else value, self._at(key))

    def records(self, key: str) -> list[Record]:
        """A list of objects."""
        return [Record(value, f"{self._at(key)}[{i}]") for i, value in enumerate(self._list(key))]

    def counts(self, key: str, side: int) -> list[list[int]]:
        """A square matrix of whole numbers, none negative."""
        rows = self._list(key)
        wanted = f"{side} lists of {side} counts"
        if len(rows) != side or not all(isinstance(row, list) and len(row) == side for row in rows):
            raise _wrong(self._at(key), rows, wanted)
        for row in rows:
            for value in row:
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    raise _wrong(self._at(key), value, wanted)
        return rows

    def free(self) -> dict[str, object]:
        """All of it, for what has no fixed fields."""
        return {str(key): value for key, value in self._value.items()}

    def _list(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise _wrong(self._at(key), value, "a list")
        return value

    def _at(self, key: str) -> str:
        return f"{self.where}{': ' if self.where.endswith(')') else '.'}{key}"


def _number(value: object, where: str, least: float = -math.inf, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(where, value, "a number")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or not least <= result <= most:
        bounds = (
            "" if least == -math.inf else f", at least {least:g}" + ("" if most == math.inf else f", at most {most:g}")
        )
        raise _wrong(where, value, f"a finite number{bounds}")
    return result


def _wrong(where: str, value: object, wanted: str) -> ResultError:
    # Python refuses to write integers of thousands of digits.
    shown = "a huge integer" if isinstance(value, int) and abs(value) >= 10**18 else ascii(value)
    return ResultError(
        f"a result has a wrong value: {where}: {shown if len(shown) <= 60 else shown[:59] + '…'} is not {wanted}; "
        "measure again"
    )
