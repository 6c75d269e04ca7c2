"""Reading documents: what is missing is None or empty, what has a wrong type or value is an error that names it."""

from __future__ import annotations

import math
from typing import Any

from claprt_bench import values


class Record:
    """A JSON object, and where it stands.

    Every method raises `ResultError` where the value is neither null nor of its type.

    Attributes:
        where: for errors: "result 1 (speed): measurements[3].summary".
    """

    def __init__(self, value: object, where: str) -> None:
        self._value = values.mapping(value, where)
        self.where = where

    def __bool__(self) -> bool:
        return bool(self._value)

    def text(self, key: str) -> str | None:
        """A string."""
        value = self._value.get(key)
        if value is not None and not isinstance(value, str):
            values.refuse(self._at(key), value, "a text")
        return value

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self._value.get(key)
        return None if value is None else values.flag(value, self._at(key))

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        """A finite number within [least, most]."""
        value = self._value.get(key)
        return None if value is None else values.number(value, self._at(key), least, most)

    def share(self, key: str) -> float | None:
        """A number from 0 to 1."""
        return self.number(key, 0.0, 1.0)

    def numbers(self, key: str, least: float = -math.inf) -> list[float]:
        """A list of numbers."""
        return [values.number(value, f"{self._at(key)}[{i}]", least) for i, value in enumerate(self._list(key))]

    def span(self, key: str) -> tuple[float | None, float | None]:
        """A pair of numbers: lowest and highest."""
        found = self.numbers(key)
        if found and (len(found) != 2 or found[0] > found[1]):
            values.refuse(self._at(key), found, "a pair, the lower one first")
        return (found[0], found[1]) if found else (None, None)

    def samples(self, key: str = "samples_ms") -> list[float]:
        """Times, not negative, of all repeats in one list."""
        found: list[float] = []
        for i, value in enumerate(self._list(key)):
            repeat = value if isinstance(value, list) else [value]
            found += [values.number(each, f"{self._at(key)}[{i}]", 0.0) for each in repeat]
        return found

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        found = self._list(key)
        for i, value in enumerate(found):
            if not isinstance(value, str):
                values.refuse(f"{self._at(key)}[{i}]", value, "a text")
        return found

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
            values.refuse(self._at(key), rows, wanted)
        for row in rows:
            for value in row:
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    values.refuse(self._at(key), value, wanted)
        return rows

    def free(self) -> dict[str, object]:
        """All of it, for what has no fixed fields."""
        return {str(key): value for key, value in self._value.items()}

    def _list(self, key: str) -> list[Any]:
        value = self._value.get(key)
        return [] if value is None else values.items(value, self._at(key))

    def _at(self, key: str) -> str:
        return f"{self.where}{': ' if self.where.endswith(')') else '.'}{key}"
