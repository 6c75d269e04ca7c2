"""`python -m claprt_bench.parity -o FILE.json`: how far bundles are from transformers, for every architecture.

Builds the demo checkpoints and random full-size ones of unit gain, and records what each build's own verification
measured. Needs claprt[export] and some minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from claprt_bench.machine import describe

# (name of the row, source or size of a random checkpoint, fusion)
_RANDOM = (
    ("clap-htsat-unfused (random weights)", "htsat-tiny", False),
    ("clap-htsat-fused (random weights)", "htsat-tiny", True),
    ("larger_clap_* (random weights)", "htsat-base", False),
)
_DEMO = (("demo (trained)", "demo"), ("demo-fused (trained)", "demo-fused"))


def measure(recordings: Path | None, full: bool) -> list[dict[str, Any]]:
    """One row for each checkpoint: its name and the verification of its FP32 bundle."""
    from claprt_export.build import build
    from claprt_export.random_checkpoint import save_random_checkpoint

    rows = []
    with tempfile.TemporaryDirectory() as directory:
        jobs = [(name, source) for name, source in _DEMO]
        for name, size, fusion in _RANDOM if full else ():
            path = save_random_checkpoint(Path(directory) / f"{size}-{fusion}", size, fusion)
            jobs.append((name, str(path)))
        for index, (name, source) in enumerate(jobs):
            manifest = build(source, Path(directory) / f"bundle-{index}", recordings=recordings)
            rows.append({"checkpoint": name, "precision": "fp32", **manifest.verification["fp32"]})
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure how far bundles are from transformers.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--audio", type=Path, metavar="DIR", help="verify on the recordings in DIR too")
    parser.add_argument("--demo-only", action="store_true", help="leave out the full-size checkpoints")
    args = parser.parse_args()
    rows = measure(args.audio, not args.demo_only)
    result = {"machine": describe(("torch", "transformers", "onnxruntime", "numpy")), "rows": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        for tower in ("audio", "text"):
            figures = row[tower]
            print(
                f"{row['checkpoint']:40} {tower:6} {figures['count']:3} inputs, worst cosine "
                f"{figures['worst_cosine']:.9f}, max abs {figures['max_abs']:.1e}"
            )


if __name__ == "__main__":
    main()
