"""`python -m claprt_bench.parity -o FILE.json`: how far bundles are from transformers, for every architecture.

Builds the demo checkpoints and random full-size ones of unit gain in all variants, and records what each build's own
verification measured, how long the build took and how much memory. Needs claprt[export] and half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from claprt_bench.errors import BenchError
from claprt_bench.machine import describe

# (name of the row, source or size of a random checkpoint, fusion)
_RANDOM = (
    ("clap-htsat-unfused (random weights)", "htsat-tiny", False),
    ("clap-htsat-fused (random weights)", "htsat-tiny", True),
    ("larger_clap_* (random weights)", "htsat-base", False),
)
_DEMO = (("demo (trained)", "demo"), ("demo-fused (trained)", "demo-fused"))
_PRECISIONS = "fp32,fp16,int8"


def measure(recordings: Path | None, full: bool) -> list[dict[str, Any]]:
    """One row for each checkpoint: its name, what its build cost, and the report of its bundle.

    Raises:
        BenchError: a build failed; its message is on stderr.
    """
    from claprt_export.random_checkpoint import save_random_checkpoint

    rows = []
    with tempfile.TemporaryDirectory() as directory:
        jobs = [(name, source) for name, source in _DEMO]
        for name, size, fusion in _RANDOM if full else ():
            path = save_random_checkpoint(Path(directory) / f"{size}-{fusion}", size, fusion)
            jobs.append((name, str(path)))
        for index, (name, source) in enumerate(jobs):
            print(f"== {name}", file=sys.stderr, flush=True)
            bundle = Path(directory) / f"bundle-{index}"
            cost = _build(source, bundle, recordings)
            report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
            rows.append(
                {"checkpoint": name, "build": cost, "calibration": report["calibration"]}
                | {"variants": report["variants"]}
            )
    return rows


def _build(source: str, bundle: Path, recordings: Path | None) -> dict[str, float]:
    """Build in a process of its own; seconds and peak resident megabytes."""
    command = [sys.executable, "-m", "claprt", "build", source, "-o", str(bundle), "--precision", _PRECISIONS]
    if recordings is not None:
        command += ["--audio", str(recordings)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"a build failed: {source}: exit code {process.returncode}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {"seconds": round(time.perf_counter() - start, 1), "peak_mb": round(kilobytes * 1024 / 1e6)}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure how far bundles are from transformers.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--audio", type=Path, metavar="DIR", help="verify on the recordings in DIR too")
    parser.add_argument("--demo-only", action="store_true", help="leave out the full-size checkpoints")
    args = parser.parse_args()
    try:
        rows = measure(args.audio, not args.demo_only)
    except BenchError as error:
        print(f"claprt_bench: {error}", file=sys.stderr)
        return 2
    result = {"machine": describe(("torch", "transformers", "onnxruntime", "numpy")), "rows": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['checkpoint']}: built in {row['build']['seconds']:.0f} s, {row['build']['peak_mb']:.0f} MB")
        for name, variant in row["variants"].items():
            accuracy = variant["demo_accuracy"]
            print(
                f"  {name:9} "
                + ", ".join(
                    f"{tower} {variant['bytes'][tower] / 1e6:6.1f} MB, 1 - worst cosine "
                    f"{1 - variant[tower]['worst_cosine']:.1e}, kept {_kept(variant, tower)}"
                    for tower in ("audio", "text")
                )
                + f", top-1 {variant['agreement']['top1']:.3f} (decided: {variant['agreement']['top1_decided']:.3f})"
                + ("" if accuracy is None else f", accuracy {100 * accuracy:.2f} %")
            )
    return 0


def _kept(variant: dict[str, Any], tower: str) -> int:
    choice = variant["choices"].get(tower)
    return 0 if choice is None else len(choice["kept"])


if __name__ == "__main__":
    sys.exit(main())
