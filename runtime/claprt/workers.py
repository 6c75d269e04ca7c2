"""Threads for the time of one call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Workers(Generic[_T]):
    """Up to `count` threads that run functions, in the order in which they were submitted.

    A context manager: leaving it drops what has not begun and waits for what has. The threads start as they are needed.
    `concurrent.futures.ThreadPoolExecutor` would do but for one thing: when the main thread has ended, it takes no more
    work from those that go on.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[tuple[Future[_T], Callable[[], _T]] | None] = SimpleQueue()
        self._dropped = False

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Run `work` in one of the threads; the future has what it returns or raises."""
        future: Future[_T] = Future()
        self._tasks.put((future, work))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, name=f"claprt-{len(self._threads)}")
            self._threads.append(thread)  # before it starts: an interrupt in between must not leave it out
            thread.start()
        return future

    def __enter__(self) -> Workers[_T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropped = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, work = task
            if not self._dropped:
                try:
                    future.set_result(work())
                except BaseException as error:  # whoever waits for the result gets it
                    future.set_exception(error)
            del task, future, work  # while this thread waits, what it worked on can be freed
