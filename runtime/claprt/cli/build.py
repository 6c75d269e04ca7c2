"""`claprt build`: the one command that needs the export package."""

from __future__ import annotations

import argparse
import importlib.util
import json

from claprt.cli.output import print_json
from claprt.errors import MissingExtraError

_NEEDS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


def run_build(args: argparse.Namespace) -> int:
    """Build a bundle and print what was verified."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"claprt build needs packages that are not installed: {', '.join(missing)}; pip install 'claprt[export]'"
        )
    build = importlib.import_module("claprt_export.build").build
    manifest = build(
        args.source,
        args.output,
        revision=args.revision,
        recordings=args.audio,
        replace=args.force,
        tokenizer=args.tokenizer,
        int16=args.int16,
    )
    if args.json:
        print_json({"bundle": str(args.output), "manifest": json.loads(manifest.to_json())})
        return 0
    print(f"{args.output}: {manifest.model.source}, {manifest.model.embedding_dim} dimensions")
    for precision, result in manifest.verification.items():
        print(f"verified {precision} against transformers on {result['inputs']}:")
        for tower in ("audio", "text"):
            figures = result[tower]
            print(f"  {tower.ljust(6)} worst cosine {figures['worst_cosine']:.9f}, max abs {figures['max_abs']:.1e}")
    return 0
