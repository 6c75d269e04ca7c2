"""Which engines a bundle has, and which of them are damaged: for people. Nothing is loaded from what is found here."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

from claprt.bundle import Bundle
from claprt.engines.tensorrt import cache
from claprt.engines.tensorrt.cache import EngineRecord
from claprt.errors import BackendError


@dataclass(frozen=True)
class DamagedEngine:
    """An engine that is there and cannot be used.

    Attributes:
        folder: its directory, relative to the bundle.
        reason: what is wrong and how to get rid of it, one line.
    """

    folder: str
    reason: str


def survey(bundle: Bundle) -> tuple[list[EngineRecord], list[DamagedEngine]]:
    """The engines whose record and plan are whole, and the others, both by name of directory. Hashes every plan.

    A directory without a record is damaged too: what a killed process left. While a process builds engines it may be
    the one that is just being written, and is passed over.
    """
    whole: list[EngineRecord] = []
    damaged: list[DamagedEngine] = []
    with _unchanging(bundle) as unchanging:
        for name in cache.names(bundle):
            try:
                record, _ = cache.read_engine(bundle, cache.read_record(bundle, name))
                whole.append(record)
            except BackendError as error:  # noqa: PERF203
                if unchanging or cache.has_record(bundle, name):
                    damaged.append(DamagedEngine(f"{cache.ENGINES_DIR}/{name}", str(error)))
    return whole, damaged


@contextlib.contextmanager
def _unchanging(bundle: Bundle) -> Iterator[bool]:
    """Whether no other process writes engines; none begins to before the end of this block.

    A bundle without a lock has never been written to here: it was copied, or is only read.
    """
    try:
        lock = os.open(bundle.path / cache.ENGINES_DIR / cache.LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(lock)
