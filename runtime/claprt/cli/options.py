"""Options that several commands share."""

from __future__ import annotations

import argparse

from claprt.engines.select import BACKENDS
from claprt.spec import PRECISIONS, RECIPES

ENDED = "130 interrupted; 141 the reader of stdout went away; 143 terminated"
EPILOG = f"exit codes: 0 all done; 1 done, but some inputs could not be used; 2 error, nothing done; {ENDED}"

# More than any machine has cores, and fewer than what a system lets a process start.
_MAX_THREADS = 1024

Commands = argparse._SubParsersAction  # the type of what add_subparsers returns has no public name


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """--recipe."""
    parser.add_argument(
        "--recipe", choices=RECIPES, help="what is heard of a long sound (default: the bundle's own recipe)"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--backend, --precision, --threads, --device."""
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: fp32")
    parser.add_argument("--threads", metavar="N", type=threads, help="CPU threads (default: all usable cores)")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", metavar="N", type=natural, default=0, help="CUDA's number of the GPU (0)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def positive(text: str) -> int:
    """The type of an argument: an integer of at least 1."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """The type of an argument: an integer of at least 0."""
    return _integer(text, 0)


def number(text: str) -> float:
    """The type of an argument: a decimal number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_short(text)!r} is not a number") from None


def threads(text: str) -> int:
    """The type of --threads: a positive integer that is no slip of the finger."""
    found = _integer(text, 1)
    if found > _MAX_THREADS:
        raise argparse.ArgumentTypeError(
            f"{text} is too many; pass 1 to {_MAX_THREADS}, at best the cores that there are"
        )
    return found


def level(text: str) -> int:
    """TensorRT's builder optimization level, 0 to 5."""
    return _integer(text, 0, 5)


def _integer(text: str, least: int, most: int = 999_999_999) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{_short(text)!r} is not an integer from {least} to {most}")
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
