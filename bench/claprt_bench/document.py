"""Results as files: JSON documents with a kind, written whole, read with every field that is used checked.

`claprt bench` writes the kind "speed", `claprt eval` the kind "evaluation". A report, a comparison and the README's
tables are made from these files alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claprt import files
from claprt_bench.errors import ResultError

FORMAT = "claprt-result"
SCHEMA_VERSION = 1
SPEED, EVALUATION = "speed", "evaluation"
_MAX_BYTES = 256 << 20
_WHAT = "the result"
# A list of numbers as `json.dumps` indents it. In a string no line ends, so none of it is inside of one.
_NUMBERS = re.compile(r"\[\n\s+[-0-9.eE+]+(?:,\n\s+[-0-9.eE+]+)*\n\s+\]")


def new_document(kind: str) -> dict[str, Any]:
    """The fields that begin every document."""
    return {"format": FORMAT, "schema_version": SCHEMA_VERSION, "kind": kind}


def write_document(document: Mapping[str, Any], path: Path) -> None:
    """Write a document as JSON. It appears whole or not at all.

    Raises:
        OptionError: the file cannot be written.
    """
    write_whole(path, to_text(document).encode())


def to_text(document: Mapping[str, Any]) -> str:
    """A document as JSON text, lists of numbers on one line. NaN and infinity are no JSON and must not be in it."""
    text = json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False)
    return _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        OptionError: it cannot be written.
    """
    files.write_whole(path, _WHAT, lambda stream: stream.write(content))


def check_writable(path: Path) -> None:
    """Find out before hours of measuring that a result could not be written.

    Raises:
        OptionError: there is no such directory, or it or the file cannot be written.
    """
    files.check_target(path, _WHAT)


def read_document(path: Path, kind: str | None = None) -> dict[str, Any]:
    """Read a result.

    Args:
        path: of the JSON file.
        kind: that it must be of; None takes any.

    Raises:
        ResultError: there is no such file, or it is not a result of this version and kind.
    """
    try:
        document = json.loads(files.read_regular(path, _MAX_BYTES).decode(), parse_constant=_refuse)
    except OSError as error:
        raise ResultError(f"the result cannot be read: {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"not a result: {path}: {str(error).splitlines()[0]}; write one with claprt bench") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ResultError(f"not a result: {path}: its format is not {FORMAT!r}; write one with claprt bench")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ResultError(
            f"a result of another version: {path}: schema {document.get('schema_version')!r}, this claprt reads "
            f"{SCHEMA_VERSION}; measure again"
        )
    if document.get("kind") not in (SPEED, EVALUATION) or kind not in (None, document["kind"]):
        wanted = kind or f"{SPEED} or {EVALUATION}"
        raise ResultError(f"a result of another kind: {path}: {document.get('kind')!r}; this takes {wanted}")
    return document


def finite(value: float) -> float | None:
    """A figure for a document: None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
