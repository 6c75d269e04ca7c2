"""A progress bar on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """One bar on stderr. Where stderr is not a terminal it prints nothing at all."""

    def __init__(self, title: str, total: int, unit: str = "step") -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=total, desc=title, unit=unit, disable=None, dynamic_ncols=True, leave=False, file=sys.stderr
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        self._bar.update(steps)

    def extend(self, steps: int) -> None:
        """More is to do than was known."""
        self._bar.total = (self._bar.total or 0) + steps
        self._bar.refresh()

    def title(self, text: str) -> None:
        """Say at the bar's beginning what is being done."""
        self._bar.set_description(text)

    def note(self, text: str) -> None:
        """Say at the bar's end what is going on."""
        self._bar.set_postfix_str(text)
