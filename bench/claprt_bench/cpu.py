"""`python -m claprt_bench.cpu`: how fast claprt is on a CPU, against transformers and against the stock ONNX export.

Two threads, the full-size architecture of clap-htsat-unfused with random weights of unit gain, clips of 10 s. Sides
take turns in one process, with a pause before each run (cold starts: processes in turn); values are checked first.
Writes every sample to JSON and prints medians, ratios and the targets, met or not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claprt.errors import ClaprtError, OptionError

if TYPE_CHECKING:
    from claprt_bench.cpu_rows import Options
    from claprt_bench.prepare import Prepared
    from claprt_bench.rows import Row

THREADS = 2
GROUPS = ("waveform", "graph", "log-mel", "text", "cold-start")
RESULTS = Path("bench/results")
WORK = Path("build/bench")
# Fewer runs than these are a look, not a result.
MIN_REPEATS, MIN_STARTS, MIN_PAUSE = 11, 5, 0.15

# Other processes that use more than this make timings of two threads on two cores doubtful.
_BUSY_CORES = 0.1

# Libraries read these when they are loaded, so they must stand before Python starts.
ENVIRONMENT = {
    name: str(THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
}


def measure(
    prepared: Prepared,
    options: Options,
    groups: tuple[str, ...] = GROUPS,
    profile: bool = False,
    pip_args: list[str] | None = None,
) -> tuple[dict[str, Any], list[Row]]:
    """Measure everything asked for; returns the document that is written, and its rows.

    Args:
        prepared: what is measured.
        options: how.
        groups: of `GROUPS`, in any order.
        profile: add ONNX Runtime's profile of the audio graphs.
        pip_args: measure install sizes with these arguments of pip; None leaves them out.

    Raises:
        BenchError: a side gives wrong values, or the comparison would not be valid.
    """
    from claprt_bench.cpu_rows import Contest
    from claprt_bench.install_size import install_row
    from claprt_bench.machine import Neighbours, describe, load_average

    before, neighbours = load_average(), Neighbours()
    contest = Contest(prepared, options)
    rows: list[Row] = []
    floor: dict[str, Any] | None = None
    for batch in options.batches:
        if "waveform" in groups:
            _say(f"waveform -> vector, batch {batch}")
            rows += contest.waveform(batch)
    for batch in options.batches:
        if "graph" in groups:
            _say(f"audio graph alone, batch {batch}")
            found, at_batch = contest.graph(batch)
            rows += found
            floor = floor or at_batch
    if "log-mel" in groups:
        _say("log-Mel alone")
        rows += contest.log_mel_alone()
    if "text" in groups:
        _say("texts")
        rows += contest.text()
    if "cold-start" in groups:
        _say("cold start")
        rows += contest.cold_start()
    used, after = neighbours.cores(), load_average()
    if pip_args is not None:
        _say("install sizes")
    rows.append(install_row(pip_args, options.targets))
    manifest = contest.manifest
    document: dict[str, Any] = {
        "machine": describe(("torch", "transformers", "onnxruntime", "numpy", "tiktoken", "soundfile")),
        "load_average": {"before": before, "after": after},
        "cores_used_meanwhile": used,
        "threads": {"every side": options.threads, "environment": {name: os.environ.get(name) for name in ENVIRONMENT}},
        "method": {
            "repeats": options.repeats,
            "starts": options.starts,
            "pause_s": options.pause,
            "warm_up": options.warm_up,
            "order": "sides in turn in one process, the first one of a round changes; cold starts: processes in turn",
            "ratio": "of medians; pairwise_ratio: median of the ratios of each round",
            "subnormals": "flushed for claprt and for both ONNX graphs, not for transformers (its default)",
            "audio": contest.inputs,
        },
        "model": {
            "weights_sha256": manifest.model.weights_sha256,
            "precisions": list(manifest.precisions),
            "embedding_dim": manifest.model.embedding_dim,
            "parameters": contest.parameters(),
        },
        "rows": [row.to_json() for row in rows],
        "fp32_floor": floor and floor | {"needed_ms_per_clip": needed(rows)},
    }
    if profile:
        _say("profiles")
        document["profile"] = {
            name: [asdict(operator) for operator in operators] for name, operators in contest.profiles().items()
        }
    return document, rows


def needed(rows: list[Row]) -> dict[str, float]:
    """Milliseconds a clip at which each FP32 row of the audio tower would meet its target, by row."""
    return {
        row.what: statistics.median(row.theirs) / row.target
        for row in rows
        if row.target is not None and row.theirs and row.unit == "ms/clip" and "FP32" in row.what
    }


def report(document: dict[str, Any], rows: list[Row]) -> str:
    """The document as text: where, on what, the table, the floor, the profiles."""
    from claprt_bench.graphs import Operator, profile_table
    from claprt_bench.rows import table

    machine, load, method = document["machine"], document["load_average"], document["method"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['processor']} ({', '.join(machine['cpu_flags'])})",
        f"{machine['usable_cores']} cores, {THREADS} threads; {machine['system']}, {machine['date']}",
        f"{versions}, Python {machine['python']}",
        f"{method['audio']}; medians of {method['repeats']} runs ({method['starts']} cold starts), "
        f"{method['pause_s']:g} s pause",
        f"load average {load['before'][0]} before, {load['after'][0]} after",
        "",
        table(rows),
    ]
    used = document["cores_used_meanwhile"]
    if used and used["others"] + used["stolen"] > _BUSY_CORES:
        lines += [
            "",
            f"NOT A QUIET MACHINE: other processes used {used['others']:.2f} cores meanwhile, the host "
            f"{used['stolen']:.2f}. Ratios are doubtful:",
            "threads that wait for each other lose most then, and the sides do that more or less.",
        ]
    if document["fp32_floor"]:
        lines += ["", *_floor_lines(document["fp32_floor"])]
    for name, operators in document.get("profile", {}).items():
        lines += ["", f"{name}, batch 1", profile_table([Operator(**operator) for operator in operators])]
    return "\n".join(lines)


def _floor_lines(floor: dict[str, Any]) -> list[str]:
    peak, floors, measured = floor["peak_gflop_per_s"], floor["floor_ms_per_clip"], floor["measured_ms_per_clip"]
    m, k, n = floor["product"]
    lines = [
        f"FP32 floor: {floor['gflop_per_clip']:.2f} GFLOP a clip in products and convolutions; a {m}x{k}x{n} product "
        f"runs at {peak['median']:.0f} GFLOP/s here (best {peak['best']:.0f}):",
        f"  at that speed alone {floors['at_median_peak']:.1f} ms a clip (best {floors['at_best_peak']:.1f}); "
        f"the FP32 graph took {measured['median']:.1f} (best {measured['minimum']:.1f})",
    ]
    for what, milliseconds in floor["needed_ms_per_clip"].items():
        out_of_reach = milliseconds < floors["at_best_peak"]
        remark = ": below the floor, out of reach for FP32 arithmetic here" if out_of_reach else ""
        lines.append(f"  {what}: the target needs {milliseconds:.1f} ms{remark}")
    return lines


def _say(what: str) -> None:
    print(f"== {what}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    from claprt_bench.prepare import FULL_SIZE

    parser = argparse.ArgumentParser(prog="claprt_bench.cpu", description="Measure claprt on this CPU.")
    parser.add_argument("--name", help="of the result, bench/results/cpu-NAME.json (default: from the processor)")
    parser.add_argument("-o", "--output", type=Path, help="the JSON file to write instead")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")
    parser.add_argument(
        "--audio", type=Path, metavar="DIR", help="recordings to measure on (default: those of the tests)"
    )
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of each side (default: 15)")
    parser.add_argument("--starts", type=int, default=7, help="timed cold starts of each side (default: 7)")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds before each run (default: 0.2)")
    parser.add_argument("--only", metavar="GROUPS", default=",".join(GROUPS), help=f"of {','.join(GROUPS)}")
    parser.add_argument("--size", default=FULL_SIZE, help=f"size of the random checkpoint (default: {FULL_SIZE})")
    parser.add_argument("--profile", action="store_true", help="add ONNX Runtime's profile of the audio graphs")
    parser.add_argument(
        "--install-sizes", action="store_true", help="install both sides afresh and weigh them (network)"
    )
    parser.add_argument("--pip-args", default="", help="for --install-sizes: options for pip, in one string")
    parser.add_argument("--rebuild", action="store_true", help="make checkpoint, bundle and stock graph again")
    return parser


def _groups(text: str) -> tuple[str, ...]:
    groups = tuple(part for part in text.split(",") if part)
    unknown = [group for group in groups if group not in GROUPS]
    if unknown or not groups:
        raise OptionError(f"unknown group: {text!r}; choose of {', '.join(GROUPS)}")
    return groups


def output_of(args: argparse.Namespace, processor: str) -> Path:
    """Where the JSON goes: a result only from a whole run of the full size; a look goes to the build directory."""
    from claprt_bench.prepare import FULL_SIZE

    if args.output is not None:
        return Path(args.output)
    whole = args.size == FULL_SIZE and set(_groups(args.only)) == set(GROUPS)
    enough = args.repeats >= MIN_REPEATS and args.starts >= MIN_STARTS and args.pause >= MIN_PAUSE
    name = args.name or re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-")
    return (RESULTS if whole and enough else WORK) / f"cpu-{name}.json"


def _run(args: argparse.Namespace, groups: tuple[str, ...]) -> tuple[dict[str, Any], list[Row]]:
    from claprt_bench.cpu_rows import Options
    from claprt_bench.inputs import default_recordings
    from claprt_bench.prepare import FULL_SIZE, prepare_in_child

    recordings = args.audio or default_recordings()
    prepared = prepare_in_child(WORK, args.size, recordings, args.rebuild)
    options = Options(
        args.repeats, args.starts, args.pause, threads=THREADS, recordings=recordings, targets=args.size == FULL_SIZE
    )
    pip_args = shlex.split(args.pip_args) if args.install_sizes else None
    document, rows = measure(prepared, options, groups, args.profile, pip_args)
    document["model"]["weights"] = f"random, of unit gain: claprt_export.random_checkpoint, size {args.size}"
    return document, rows


def main(argv: list[str]) -> int:
    """Command line. Missed targets are a result, not a failure: exit code 0."""
    args = _parser().parse_args(argv)
    try:
        groups = _groups(args.only)
        if args.repeats < 1 or args.starts < 1 or args.pause < 0:
            raise OptionError("--repeats and --starts must be at least 1, --pause at least 0")
        if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
            sys.stdout.flush()
            os.execve(sys.executable, [sys.executable, "-m", "claprt_bench.cpu", *argv], os.environ | ENVIRONMENT)
        document, rows = _run(args, groups)
    except ClaprtError as error:
        print(f"claprt_bench: {error}", file=sys.stderr)
        return 2
    output = output_of(args, document["machine"]["processor"])
    text = json.dumps(document, indent=2) + "\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(text if args.json else report(document, rows))
    print(f"written: {output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
