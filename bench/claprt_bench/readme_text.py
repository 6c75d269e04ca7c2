"""Markdown as the README has it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_WIDTH = 125


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0].replace("|  |", "| |"), "|" + "---|" * len(header), *lines[1:]])


def paragraph(text: str) -> str:
    """After a blank line, in lines of the README's width."""
    return "\n\n" + textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
