"""`claprt engine`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from claprt.cli.lists import names, steps
from claprt.cli.output import (
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    EXIT_TERMINATED,
    print_json,
    print_table,
    report_error,
)
from claprt.engines.tensorrt.build import BuildOptions, still_building
from claprt.engines.tensorrt.cache import EngineRecord
from claprt.errors import OptionError


def run_engine(args: argparse.Namespace) -> int:
    """Build engines, or verify or list those that the bundle has, and print what came of it."""
    _check_options(args)
    if args.list:
        return _list(args)
    engines = importlib.import_module("claprt_export.engines")
    if args.verify:
        return _report(args, engines.verify_engines(args.bundle, recordings=args.audio, device=args.device))
    with _ended_by_a_second_interrupt():
        results = engines.build_engines(
            args.bundle,
            rtx=args.rtx,
            precisions=names(args.precision),
            towers=names(args.tower),
            batches=steps(args.batch, "--batch"),
            tokens=steps(args.tokens, "--tokens"),
            options=BuildOptions(
                workspace_mib=args.workspace,
                optimization_level=args.optimization_level,
                hardware_compatible=args.hardware_compatible,
                version_compatible=args.version_compatible,
                compute_capabilities=names(args.compute_capability) if args.compute_capability else (),
            ),
            recordings=args.audio,
            device=args.device,
            force=args.force,
        )
    return _report(args, results)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what would have no effect."""
    if not (args.list or args.verify):
        return
    mode = "--list" if args.list else "--verify"
    if args.list and args.verify:
        raise OptionError("--list and --verify exclude each other; pass one of them")
    building = ["precision", "tower", "batch", "tokens", "compute_capability", "workspace", "optimization_level"]
    building += ["rtx", "hardware_compatible", "version_compatible", "force"]
    for name in building + ["audio", "device"] * args.list:
        if getattr(args, name) != args.defaults[name]:
            raise OptionError(f"--{name.replace('_', '-')} has no effect with {mode}; leave it out")


@contextlib.contextmanager
def _ended_by_a_second_interrupt() -> Iterator[None]:
    """End the process where the library still works on a build that was interrupted again.

    By then all of ours is undone: nothing half-written is there, and the lock is given back.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if not still_building():
            raise
        interrupted = isinstance(stop, KeyboardInterrupt)
        if interrupted:
            report_error("interrupted")
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED if interrupted else EXIT_TERMINATED)


def _report(args: argparse.Namespace, results: Sequence[Any]) -> int:
    if args.json:
        print_json({"bundle": str(args.bundle), "engines": [result.to_json() for result in results]})
        return 0
    rows = [
        [
            result.variant,
            result.tower,
            result.state,
            f"{result.record.plan.bytes / 1e6:.1f} MB",
            f"{result.seconds:.0f} s" if result.seconds else "",
            f"{result.verification['worst_cosine']:.7f}" if result.verification else "not run here",
            result.record.key.gpu or "compute capability " + ", ".join(result.record.key.compute_capabilities),
        ]
        for result in results
    ]
    print_table(["variant", "tower", "engine", "size", "built in", "worst cosine", "for"], rows, right=(3, 4))
    if any(result.verification is None for result in results):
        print(f"Not run here: claprt engine {args.bundle} --verify finishes and verifies it on the GPU that it is for.")
    return 0


def _list(args: argparse.Namespace) -> int:
    """Exit code 1 where an engine is damaged: each is a line on stderr."""
    from claprt.bundle import open_bundle
    from claprt.engines.tensorrt.survey import survey

    found, damaged = survey(open_bundle(args.bundle))
    if args.json:
        engines: list[dict[str, Any]] = [
            {
                "key": record.key.to_json(),
                "plan": record.plan.file,
                "bytes": record.plan.bytes,
                "verification": dict(record.verification),
                "provenance": dict(record.provenance),
            }
            for record in found
        ]
        spoilt = [{"directory": one.folder, "reason": one.reason} for one in damaged]
        print_json({"bundle": str(args.bundle), "engines": engines, "damaged": spoilt})
    elif found:
        _print_engines(found)
    elif not damaged:
        print(f"{args.bundle} has no engines; claprt engine {args.bundle} builds them")
    for one in damaged:
        report_error(one.reason)
    return EXIT_PARTIAL if damaged else 0


def _print_engines(found: Sequence[EngineRecord]) -> None:
    rows = [
        [
            record.key.variant,
            record.key.tower,
            f"{record.key.backend} {record.key.version}",
            f"{record.plan.bytes / 1e6:.1f} MB",
            record.key.gpu or "compute capability " + ", ".join(record.key.compute_capabilities),
            ", ".join(record.verification) or "nowhere yet",
        ]
        for record in found
    ]
    print_table(["variant", "tower", "library", "size", "for", "verified on"], rows, right=(3,))
