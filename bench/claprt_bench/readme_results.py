"""Committed results as the README's tables read them: a figure that is missing is an error that has its name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claprt_bench.document import EVALUATION, SPEED, read_document
from claprt_bench.errors import ResultError


@dataclass(frozen=True)
class Results:
    """The folder of committed results."""

    folder: Path

    def read(self, name: str) -> Node:
        """One of them.

        Raises:
            ResultError: there is none of that name, or it is not JSON.
        """
        path = self.folder / name
        try:
            return Node(json.loads(path.read_text(encoding="utf-8")), f"bench/results/{name}")
        except OSError as error:
            raise ResultError(f"a result is missing: {path}: {error.strerror}; measure again") from error
        except ValueError as error:
            raise ResultError(f"not a result: {path}: {str(error).splitlines()[0]}; measure again") from error

    def evaluation(self, name: str) -> Node:
        """One that `claprt eval` wrote."""
        return Node(read_document(self.folder / name, EVALUATION), f"bench/results/{name}")

    def speed(self, name: str) -> Node:
        """One that `claprt bench` wrote."""
        return Node(read_document(self.folder / name, SPEED), f"bench/results/{name}")


class Node:
    """A part of a result: what is missing in it, or not a number, is an error that has its name."""

    def __init__(self, value: Any, where: str) -> None:
        self.value, self.where = value, where

    def __getitem__(self, key: str | int) -> Node:
        try:
            return Node(self.value[key], f"{self.where}: {key}")
        except (KeyError, IndexError, TypeError):
            raise ResultError(f"a result lacks a figure: {self.where} has no {key!r}; measure again") from None

    def find(self, key: str, value: str) -> Node:
        """The item of a list in which `key` has this value."""
        for item in self.items():
            if item[key].value == value:
                return item
        raise ResultError(f"a result lacks a figure: {self.where} has no item with {key} {value!r}; measure again")

    def items(self) -> list[Node]:
        """The items of a list."""
        if not isinstance(self.value, list):
            raise ResultError(f"a result lacks a figure: {self.where} is not a list; measure again")
        return [Node(item, f"{self.where}[{index}]") for index, item in enumerate(self.value)]

    @property
    def number(self) -> float:
        """The value, a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)) or not math.isfinite(self.value):
            raise ResultError(f"a result lacks a figure: {self.where} is {self.value!r}, not a number; measure again")
        return float(self.value)

    @property
    def known(self) -> float | None:
        """The number, or None where it is null."""
        return None if self.value is None else self.number

    def __str__(self) -> str:
        return str(self.value)
