"""`claprt info`."""

from __future__ import annotations

import argparse
import json

from claprt.bundle import open_bundle
from claprt.cli.output import print_json
from claprt.engines.tensorrt.survey import survey
from claprt.printable import printable


def run_info(args: argparse.Namespace) -> int:
    """Check every file of the bundle and print what it is."""
    bundle = open_bundle(args.bundle)
    manifest = bundle.manifest
    audio, text = manifest.audio, manifest.text
    entries = [entry for tower in (audio, text) for variant in tower.variants.values() for entry in variant.files] + [
        text.tokenizer
    ]
    for entry in entries:
        bundle.verified(entry)
    if args.json:
        print_json(json.loads(manifest.to_json()))
        return 0
    spec = audio.log_mel
    scale = f"{spec.mel_scale}, norm {spec.mel_norm}"
    rows = [
        ("bundle", str(bundle.path)),
        ("source", manifest.model.source + (f" @ {manifest.model.revision}" if manifest.model.revision else "")),
        ("weights", f"sha256 {manifest.model.weights_sha256}"),
        ("vectors", f"{manifest.model.embedding_dim} x float32, space {manifest.model.space_id}"),
        ("logit scale", f"{manifest.model.logit_scale:.4f}"),
        ("precisions", ", ".join(manifest.precisions)),
        (
            "sounds",
            f"{spec.sampling_rate} Hz, clips of {audio.clip_seconds:g} s, default recipe '{audio.default_recipe}'",
        ),
        ("fusion", "yes: long sounds as one clip of four log-Mels" if audio.fusion else "no"),
        ("log-Mel", f"{audio.frames} frames x {spec.n_mels} mels ({scale}), {spec.f_min:g} to {spec.f_max:g} Hz"),
        ("STFT", f"n_fft {spec.n_fft}, hop {spec.hop_length}, padding '{spec.padding}'"),
        ("texts", f"up to {text.max_tokens} tokens, vocabulary of {text.vocab_size}"),
        ("files", f"{len(entries)} with the right hashes, {sum(entry.bytes for entry in entries) / 1e6:.1f} MB"),
    ]
    engines, damaged = survey(bundle)
    if engines or damaged:
        some = f", and {len(damaged)} that cannot be used" if damaged else ""
        rows.append(("engines", f"{len(engines)} for TensorRT{some}; claprt engine {bundle.path} --list shows them"))
    for precision, result in manifest.verification.items():
        figures = result if isinstance(result, dict) else {"inputs": result}
        rows.append((f"verified {precision}", str(figures.get("inputs", ""))))
        rows += [("", f"{tower}: {_figures(figures[tower])}") for tower in ("audio", "text") if tower in figures]
    rows += [("provenance", ", ".join(f"{name} {value}" for name, value in manifest.provenance.items()))]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(printable(f"{name.ljust(width)}  {value}".rstrip()))
    return 0


def _figures(result: object) -> str:
    """A verification's figures, whatever a later version adds to them."""
    if not isinstance(result, dict):
        return str(result)
    return ", ".join(f"{name} {value:.9g}" for name, value in result.items() if isinstance(value, (int, float)))
