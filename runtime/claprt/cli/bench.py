"""`claprt bench`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from claprt.bundle import open_bundle
from claprt.cli.bundle_files import bundle_files
from claprt.cli.lists import names, numbers, steps
from claprt.cli.output import EXIT_PARTIAL
from claprt.errors import OptionError
from claprt.extras import BENCH
from claprt.files import check_outputs

_STDOUT, _ALL, _NONE = "-", "all", "none"


def run_bench(args: argparse.Namespace) -> int:
    """Measure, print the tables or the JSON, write what was asked for. Exit code 1 when something was left out."""
    document = importlib.import_module("claprt_bench.document")
    speed = importlib.import_module("claprt_bench.speed.options")
    result = None if args.json in (None, _STDOUT) else Path(args.json)
    outputs = [("--json", result), ("--html", args.html)]
    for _, path in outputs:
        if path is not None:
            document.check_writable(path)
    check_outputs(outputs, chain(bundle_files(args.bundle), _sources(args)))
    if args.html is not None:
        BENCH.require("a report", "matplotlib")
    options = speed.SpeedOptions(
        backend=args.backend,
        precisions=_precisions(args),
        batches=tuple(dict.fromkeys(steps(args.batch, "--batch"))),
        threads=args.threads,
        device=args.device,
        duration=args.duration,
        repeats=args.repeats,
        parts=_chosen(args.only, speed.PARTS, speed.PARTS),
        rates=numbers(args.rate, "--rate") if args.rate is not None else (),
        scaling=_chosen(args.scaling, speed.AXES, ()),
        recordings=args.audio,
        against=_peers(args),
        checkpoint=args.checkpoint,
        tokenizer=args.tokenizer,
        peer_pythons=_pythons(args),
        rounds=args.rounds,
    )
    found = importlib.import_module("claprt_bench.speed.measure").measure(args.bundle, options)
    if result is not None:
        document.write_document(found, result)
    if args.html is not None:
        importlib.import_module("claprt_bench.report").write_report([found], args.html)
    if args.json == _STDOUT:
        print(document.to_text(found), end="")
    else:
        print(importlib.import_module("claprt_bench.speed.table").report(found))
    # Of "all" peers, those that are not installed were not asked for.
    asked = [one for one in found["left_out"] if args.against != _ALL or not one["what"].startswith("peer ")]
    return EXIT_PARTIAL if asked else 0


def _sources(args: argparse.Namespace) -> Iterator[Path]:
    """Files that peers load, and recordings."""
    for path in (args.audio, args.checkpoint, args.tokenizer):
        if path is not None:
            yield from (Path(path), *Path(path).rglob("*"))


def _precisions(args: argparse.Namespace) -> tuple[str, ...]:
    if args.precision.strip() == _ALL:
        return tuple(open_bundle(args.bundle).manifest.precisions)
    chosen = names(args.precision)
    if not chosen:
        raise OptionError(f"there are no precisions: --precision is {args.precision!r}; pass fp32, or all")
    return chosen


def _chosen(text: str | None, known: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    """Of the names known: all, none, or a list."""
    if text is None:
        return default
    if text.strip() in (_ALL, _NONE):
        return known if text.strip() == _ALL else ()
    return names(text)


def _peers(args: argparse.Namespace) -> tuple[str, ...]:
    if args.against is None:
        for option, value in (("--checkpoint", args.checkpoint), ("--peer-python", args.peer_python)):
            if value is not None:
                raise OptionError(f"{option} is for peers, and there are none: {value}; pass --against too")
        return ()
    if args.against == _ALL:
        return tuple(importlib.import_module("claprt_bench.peers.catalogue").PEERS)
    return names(args.against)


def _pythons(args: argparse.Namespace) -> dict[str, Path]:
    found = {}
    for text in args.peer_python or ():
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise OptionError(f"bad --peer-python: {text!r}; pass NAME=PATH, such as laion=peers/laion/bin/python")
        found[name] = Path(path)
    return found
