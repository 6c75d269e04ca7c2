"""Options that several commands share."""

from __future__ import annotations

import argparse

from claprt.engines.select import BACKENDS
from claprt.spec import PRECISIONS, RECIPES

EPILOG = "exit codes: 0 all done; 1 done, but some inputs could not be used; 2 error, nothing done; 130 interrupted"

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
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads (default: all usable cores)")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", metavar="N", type=natural, default=0, help="CUDA's number of the GPU (0)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def positive(text: str) -> int:
    """The type of an argument: an integer of at least 1."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def natural(text: str) -> int:
    """The type of an argument: an integer of at least 0."""
    return 0 if text == "0" else positive(text)
