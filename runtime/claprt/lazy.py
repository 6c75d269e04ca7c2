"""Values that are made when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Lazy(Generic[_T]):
    """A value that is made once, when it is first asked for, by whichever thread comes first."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: list[_T] = []

    def get(self) -> _T:
        """The value. What making it raises is raised, and the next call tries again."""
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]
