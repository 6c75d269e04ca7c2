"""`claprt build` and `claprt verify`: the two commands that need the export package."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claprt.cli.output import EXIT_PARTIAL, print_json, print_table
from claprt.errors import OptionError
from claprt.extras import EXPORT


def run_build(args: argparse.Namespace) -> int:
    """Build a bundle and print what was verified."""
    if args.force:
        _check_inputs(args)
    build = _export_module("build").build
    manifest = build(
        args.source,
        args.output,
        revision=args.revision,
        recordings=args.audio,
        replace=args.force,
        tokenizer=args.tokenizer,
        int16=args.int16,
        precisions=tuple(name.strip() for name in args.precision.split(",")),
        calibration=args.calibration,
    )
    if args.json:
        print_json({"bundle": str(args.output), "manifest": json.loads(manifest.to_json())})
        return 0
    print(f"{args.output}: {manifest.model.source}, {manifest.model.embedding_dim} dimensions")
    _print_verification(manifest.verification)
    report = json.loads((args.output / "report.json").read_text(encoding="utf-8"))
    for name, variant in report["variants"].items():
        for tower, choice in variant["choices"].items():
            if choice["kept"]:
                print(
                    f"{name}, {tower} tower: {len(choice['kept'])} of {choice['layers']} layers kept in higher "
                    f"precision ({choice['weights_kept']:,} weights): {', '.join(choice['kept'])}"
                )
    return 0


def _check_inputs(args: argparse.Namespace) -> None:
    """The bundle that --force replaces must not hold what the new one is made from."""
    output = args.output.resolve()
    for path in (args.source, args.audio, args.calibration, args.tokenizer):
        if path is not None and os.path.exists(path) and Path(path).resolve().is_relative_to(output):  # noqa: PTH110
            raise OptionError(f"--force would remove what is read: {path} is in {args.output}; choose another output")


def run_verify(args: argparse.Namespace) -> int:
    """Compare a bundle with its checkpoint; exit code 1 when a bound is missed."""
    verify = _export_module("verify").verify
    result = verify(
        args.bundle,
        args.against,
        revision=args.revision,
        tokenizer=args.tokenizer,
        recordings=args.audio,
        variant=args.variant,
    )
    found = {name: one.to_json() for name, one in result.items()}
    missed = {name: one["missed"] for name, one in found.items() if one["missed"]}
    if args.json:
        print_json({"bundle": str(args.bundle), "against": args.against, "variants": found})
    else:
        _print_verification(found)
        for name, bounds in missed.items():
            for bound in bounds:
                print(f"{name} misses a bound: {bound}")
    return EXIT_PARTIAL if missed else 0


def _export_module(name: str) -> Any:
    EXPORT.require(f"claprt {name}")
    return importlib.import_module(f"claprt_export.{name}")


def _print_verification(variants: Mapping[str, Any]) -> None:
    print(f"compared with transformers on {next(iter(variants.values()))['inputs']}")
    print_table(
        ("variant", "tower", "worst cosine", "max abs", "same top-1"),
        [
            (
                name,
                tower,
                f"{result[tower]['worst_cosine']:.9f}",
                f"{result[tower]['max_abs']:.1e}",
                f"{100 * result['agreement']['top1']:.1f} %" if tower == "audio" else "",
            )
            for name, result in variants.items()
            for tower in ("audio", "text")
        ],
        right=(2, 3, 4),
    )
