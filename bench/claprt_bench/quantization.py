"""What each technique of INT8 is worth: every Linear layer of a tower rounded, one technique after the other.

    python -m claprt_bench.quantization -o bench/results/quantization.json --audio ../shared/audio

Towers: the trained demo's, and the full-size architecture with random weights of unit gain. Figures are 1 - cosine of
the worst input against the same tower in FP32, simulated in PyTorch; nothing is kept in higher precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from claprt_bench.machine import describe
from claprt_export.checkpoint import Checkpoint, load_checkpoint
from claprt_export.comparison import verification_sounds, verification_texts
from claprt_export.precision.data import Batch, by_length, calibration_set, text_batches, waveform_batches
from claprt_export.precision.observe import observe
from claprt_export.precision.quantize import FORMS, Method, Quantizer, linear_layers
from claprt_export.precision.ranges import RangeMethod
from claprt_export.precision.search import errors
from claprt_export.precision.simulate import int8_layers
from claprt_export.random_checkpoint import save_random_checkpoint
from claprt_export.towers import AudioTower, TextTower

_NEAREST = Method(shift=False, smooth=False, compensate=False, correct_bias=False)
TECHNIQUES: tuple[tuple[str, Method, RangeMethod], ...] = (
    ("nearest, full interval", _NEAREST, "max"),
    ("nearest, 99.99th percentile", _NEAREST, "percentile"),
    ("nearest, entropy", _NEAREST, "entropy"),
    ("nearest, MSE", _NEAREST, "mse"),
    ("nearest, MSE of the output", _NEAREST, "output"),
    ("SmoothQuant", Method(shift=False, smooth=True, compensate=False, correct_bias=False), "mse"),
    ("bias correction", Method(shift=False, smooth=False, compensate=False, correct_bias=True), "mse"),
    ("shift", Method(shift=True, smooth=False, compensate=False, correct_bias=False), "mse"),
    ("compensated rounding", Method(shift=False, smooth=False, compensate=True, correct_bias=True), "mse"),
    ("shift, compensated rounding, MSE", Method(), "mse"),
    ("shift, compensated rounding, full interval", Method(), "max"),
    ("the same with SmoothQuant, MSE", Method(smooth=True), "mse"),
)


def measure(tower: nn.Module, calibration: Sequence[Batch], inputs: Sequence[Batch]) -> list[dict[str, Any]]:
    """One row for each technique: 1 - cosine of the worst and of the mean input, by form."""
    layers = linear_layers(tower)
    with torch.no_grad():
        reference = torch.cat([tower(*batch) for batch in inputs])
    observations = observe(tower, layers, calibration, len(calibration))
    rows = []
    for name, method, ranges in TECHNIQUES:
        module = copy.deepcopy(tower)
        numbers = Quantizer(module, observations, method).numbers(ranges)
        row: dict[str, Any] = {"technique": name}
        for form in FORMS:
            with int8_layers(module, numbers, form, layers):
                found = errors(module, inputs, reference)
            row[form] = {"worst": float(found.max()), "mean": float(found.mean())}
        rows.append(row)
    return rows


def measure_checkpoint(checkpoint: Checkpoint, recordings: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Both towers of a checkpoint, calibrated on claprt's own set, judged on the verification's."""
    data = calibration_set(checkpoint, None)
    _, waveforms = verification_sounds(checkpoint.log_mel, recordings)
    audio = AudioTower(checkpoint.model, checkpoint.log_mel.frames).eval()
    text = TextTower(checkpoint.model).eval()
    return {
        "audio": measure(audio, data.audio, waveform_batches(checkpoint, waveforms)),
        "text": measure(text, data.text, by_length(text_batches(checkpoint, verification_texts()))),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure what each technique of INT8 is worth.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--audio", type=Path, metavar="DIR", help="judge on the recordings in DIR too")
    parser.add_argument("--demo-only", action="store_true", help="leave out the full-size checkpoint")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": describe(("torch", "transformers", "numpy")), "checkpoints": {}}
    with tempfile.TemporaryDirectory() as directory:
        jobs = {"demo (trained)": "demo"}
        if not args.demo_only:
            jobs["clap-htsat-unfused (random weights)"] = str(save_random_checkpoint(Path(directory), "htsat-tiny"))
        for name, source in jobs.items():
            result["checkpoints"][name] = measure_checkpoint(load_checkpoint(source), args.audio)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, towers in result["checkpoints"].items():
        for tower, rows in towers.items():
            print(f"{name}, {tower} tower, 1 - cosine of the worst input:")
            for row in rows:
                print(f"  {row['technique']:44} " + "  ".join(f"{f} {row[f]['worst']:.1e}" for f in FORMS))


if __name__ == "__main__":
    main()
