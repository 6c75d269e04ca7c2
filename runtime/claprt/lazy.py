"""Values that are made when they are first needed; and what must not be as it was after a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")
_S = TypeVar("_S")


class Lazy(Generic[_T]):
    """A value that is made once, when it is first asked for, by whichever thread comes first."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: list[_T] = []
        after_fork(self, Lazy._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def get(self) -> _T:
        """The value. What making it raises is raised, and the next call tries again."""
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]


_renewed: weakref.WeakKeyDictionary[object, Callable[..., None]] = weakref.WeakKeyDictionary()


def after_fork(thing: _S, renew: Callable[[_S], None]) -> None:
    """Call `renew` of a thing in every process that is forked while it lives.

    Locks that other threads held stay locked there, and those threads are no more.
    """
    _renewed[thing] = renew


def _renew_all() -> None:
    for thing, renew in list(_renewed.items()):
        renew(thing)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_all)
