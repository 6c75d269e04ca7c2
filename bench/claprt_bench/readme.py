"""`python -m claprt_bench.readme [--check]`: figures of the README and of docs/, from bench/results alone.

A table, with the sentences beside it that have figures, stands between `<!-- table: NAME -->` and `<!-- /table -->`.
What is between is made here; wording is changed here too. `--check` changes nothing, and exit code 1 says that a table
differs.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from claprt.errors import ClaprtError
from claprt_bench.document import write_whole
from claprt_bench.errors import ResultError
from claprt_bench.install_size import ROOT
from claprt_bench.readme_results import Results
from claprt_bench.readme_speed import against, speed
from claprt_bench.readme_tables import cpu, evaluation, log_mel_resources, parity, variants

Table = Callable[[Results], str]
TABLES: dict[str, dict[str, Table]] = {
    "README.md": {
        "parity": parity,
        "variants": variants,
        "cpu": cpu,
        "speed": speed,
        "against": against,
        "eval-fsdd": evaluation,
    },
    "docs/log-mel-kernel.md": {"log-mel-resources": log_mel_resources},
}
_BLOCK = re.compile(r"<!-- table: ([^ ]*) -->\n(.*?)<!-- /table -->", re.DOTALL)
_BEGIN = re.compile(r"<!-- table: |<!-- /table -->")


def made(root: Path) -> dict[Path, tuple[str, str]]:
    """The text of each document as it is, and as the results make it.

    Raises:
        ResultError: a marker or a result is missing, or a result lacks what a table shows.
    """
    texts = {}
    for name, tables in TABLES.items():
        path = root / name
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ResultError(
                f"no document: {path}: {error.strerror}; run this in a clone of the repository"
            ) from error
        texts[path] = (text, _filled(text, name, tables, Results(root / "bench" / "results")))
    return texts


def _filled(text: str, name: str, tables: dict[str, Table], results: Results) -> str:
    found = [block[1] for block in _BLOCK.finditer(text)]
    if len(_BEGIN.findall(text)) != 2 * len(found):
        raise ResultError(f"a marker without its other end: {name}; write <!-- table: NAME --> … <!-- /table -->")
    for table in tables:
        if found.count(table) != 1:
            raise ResultError(
                f"table {table!r} is {found.count(table)} times in {name}; it must be once: <!-- table: {table} --> … "
                "<!-- /table -->"
            )
    for table in found:
        if table not in tables:
            raise ResultError(f"an unknown table: {table!r} in {name}; choose of {', '.join(tables)}")
    return _BLOCK.sub(
        lambda block: f"<!-- table: {block[1]} -->\n\n{tables[block[1]](results)}\n\n<!-- /table -->", text
    )


def differing(old: str, new: str) -> list[str]:
    """Names of the tables that differ."""
    pairs = zip(_BLOCK.finditer(old), _BLOCK.finditer(new), strict=True)
    return [before[1] for before, after in pairs if before[2] != after[2]]


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 the documents say what the results say; 1 with --check: one does not; 2 error."""
    parser = argparse.ArgumentParser(prog="python -m claprt_bench.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a table differs")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    options = parser.parse_args(arguments)
    try:
        texts = made(options.root)
    except ClaprtError as error:
        print(f"claprt_bench: {error}", file=sys.stderr)
        return 2
    code = 0
    for path, (old, new) in texts.items():
        if old == new:
            continue
        names = ", ".join(differing(old, new))
        if options.check:
            print(f"{path.relative_to(options.root)}: not what bench/results says: {names}; run make readme")
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "written", "results", lineterm="", n=0)
            print("\n".join(lines))
            code = 1
        else:
            write_whole(path, new.encode())
            print(f"{path.relative_to(options.root)}: written: {names}")
    return code


if __name__ == "__main__":
    sys.exit(main())
