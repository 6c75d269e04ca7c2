"""What commands print: plain aligned tables, JSON, errors; and their exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from claprt.printable import printable

EXIT_PARTIAL, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_TERMINATED = 1, 2, 130, 141, 143


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print rows in aligned columns, a header and a rule above them; columns in `right` are aligned right.

    Cells may hold anything: what a terminal would obey is escaped.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    print(line(header))
    print("  ".join("-" * width for width in widths))
    for row in rows:
        print(line(row))


def print_json(document: Any) -> None:
    """Print one JSON object. File names that are not valid Unicode come out as escapes."""
    print(json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False))


def report_note(text: str) -> None:
    """One line on stderr that is no error."""
    print(f"claprt: {one_line(text)}", file=sys.stderr)


def report_error(text: str) -> None:
    """One line on stderr."""
    print(f"claprt: error: {one_line(text)}", file=sys.stderr)


def one_line(text: str) -> str:
    """A text that is shown on one line, whatever it quotes."""
    return printable(" ".join(text.split()))
