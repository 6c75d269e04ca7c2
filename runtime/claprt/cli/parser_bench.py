"""The arguments of `claprt bench` and `claprt eval`."""

from __future__ import annotations

import argparse
from pathlib import Path

from claprt.cli.intermixed import Parser
from claprt.cli.options import (
    ENDED,
    EPILOG,
    Commands,
    add_device,
    add_json,
    add_recipe,
    natural,
    number,
    positive,
    threads,
)
from claprt.engines.select import BACKENDS
from claprt.spec import PRECISIONS


def add_eval(commands: Commands[Parser]) -> None:
    """Claprt eval."""
    evaluation = commands.add_parser(
        "eval",
        help="how well a bundle does on labelled or captioned sounds (needs claprt[bench])",
        description="Evaluate a bundle on a dataset: a folder with a folder of sounds for each class, or a CSV or "
        "Parquet file of paths with labels or captions (ESC-50, Clotho, AudioCaps, FSD50K as they come). Figures "
        "have bootstrap intervals, and precisions are compared pairwise.",
        epilog=EPILOG,
    )
    evaluation.add_argument("bundle", metavar="BUNDLE", type=Path)
    evaluation.add_argument("dataset", metavar="DATASET", type=Path)
    evaluation.add_argument(
        "--task",
        choices=("zero-shot", "retrieval", "probe"),
        required=True,
        help="zero-shot: classes by their texts; retrieval: sounds by captions and back; probe: a classifier trained "
        "on the vectors",
    )
    evaluation.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    evaluation.add_argument(
        "--precision", metavar="LIST", default="fp32", help=f"of {', '.join(PRECISIONS)}, or all (default: fp32)"
    )
    evaluation.add_argument("--threads", metavar="N", type=threads, help="CPU threads (default: all usable cores)")
    add_device(evaluation)
    add_recipe(evaluation)
    evaluation.add_argument(
        "--template",
        metavar="T",
        action="append",
        help="zero-shot: prompt with {} for the class (default 'This is a sound of {}.'); several are averaged",
    )
    evaluation.add_argument(
        "--labels-file",
        metavar="F",
        type=Path,
        help="zero-shot: one class a line, after a tab what a prompt says instead (default: the dataset's classes)",
    )
    evaluation.add_argument("--split", metavar="NAME", help="take this split of the dataset only")
    evaluation.add_argument(
        "--folds", metavar="K", type=positive, help="probe: K stratified folds (default: the dataset's own)"
    )
    evaluation.add_argument(
        "--save-head",
        metavar="F",
        type=Path,
        help="probe: train on all sounds and write what claprt classify --head takes",
    )
    evaluation.add_argument("--audio-root", metavar="DIR", type=Path, help="what the paths in a table are relative to")
    evaluation.add_argument(
        "--path-column", metavar="NAME", help="columns of a table, where the usual names do not fit"
    )
    evaluation.add_argument("--label-column", metavar="NAME")
    evaluation.add_argument("--caption-column", metavar="NAME", action="append", help="may be given several times")
    evaluation.add_argument("--fold-column", metavar="NAME")
    evaluation.add_argument("--split-column", metavar="NAME")
    evaluation.add_argument("--label-separator", metavar="S", help="between several labels of a sound, such as ';'")
    evaluation.add_argument("--confidence", metavar="P", type=number, default=0.95, help="of the intervals (0.95)")
    evaluation.add_argument("--resamples", metavar="N", type=positive, default=2000, help="of the bootstrap (2000)")
    evaluation.add_argument("--seed", metavar="N", type=natural, default=0, help="of everything random (0)")
    evaluation.add_argument(
        "--json", metavar="FILE", type=Path, nargs="?", const="-", help="write the result to FILE, or print it"
    )
    evaluation.add_argument("--html", metavar="FILE", type=Path, help="write a report of one page")
    evaluation.set_defaults(run=_eval)


def add_bench(commands: Commands[Parser]) -> None:
    """Claprt bench, claprt bench compare, claprt bench report."""
    bench = commands.add_parser(
        "bench",
        help="how fast a bundle is here: each stage, whole paths, cold start",
        description="Measure how fast a bundle is on this machine. Values are checked before times are taken; each "
        "repeat is a fresh process. claprt bench compare and claprt bench report take what --json writes.",
        epilog=f"exit codes: 0 measured; 1 measured, but something that was asked for could not be; 2 error; {ENDED}",
    )
    bench.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's directory (./compare if so named)")
    bench.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    bench.add_argument("--precision", metavar="LIST", default="fp32", help=f"of {', '.join(PRECISIONS)}; or all (fp32)")
    bench.add_argument("--batch", metavar="LIST", default="1,8", help="items of a call (1,8)")
    bench.add_argument("--threads", metavar="N", type=threads, help="CPU threads (default: all usable cores)")
    add_device(bench)
    bench.add_argument("--duration", metavar="S", type=number, default=5.0, help="seconds for each measurement (5)")
    bench.add_argument("--repeats", metavar="N", type=positive, default=5, help="fresh processes that share them (5)")
    bench.add_argument("--only", metavar="LIST", help="of stages, paths, cold-start (all); none for none of them")
    bench.add_argument(
        "--rate", metavar="LIST", help="open loop: so many requests per second, arriving at random, one run for each"
    )
    bench.add_argument("--scaling", metavar="LIST", help="how cost grows: of batch, threads, clip, labels; or all")
    bench.add_argument(
        "--against",
        metavar="LIST",
        help="compare with these, on the CPU: transformers, torch-compile, optimum, laion; or all; the stock ONNX "
        "export always takes part",
    )
    bench.add_argument("--checkpoint", metavar="SOURCE", help="that peers load (default: what the bundle was built of)")
    bench.add_argument("--tokenizer", metavar="DIR|ID", help="of a checkpoint that is a .pt file (roberta-base)")
    bench.add_argument(
        "--peer-python", metavar="NAME=PATH", action="append", help="the Python of an environment that has this peer"
    )
    bench.add_argument("--rounds", metavar="N", type=positive, default=15, help="runs of each side in --against (15)")
    bench.add_argument(
        "--audio", metavar="DIR", type=Path, help="measure on the recordings in DIR (default: made sounds)"
    )
    bench.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the result as JSON; to stdout without FILE"
    )
    bench.add_argument("--html", metavar="FILE", type=Path, help="write a report (needs claprt[bench])")
    bench.set_defaults(run=_bench)
    compare = commands.add_parser(
        "bench compare",
        help="what changed between two results, beyond noise",
        description="Compare two results of claprt bench, or two of claprt eval, and tell what changed beyond noise.",
        epilog="exit codes: 0 compared; 1 with --fail-on: something got worse; 2 error, or with --fail-on nothing to "
        "judge",
    )
    compare.add_argument("before", metavar="A.json", type=Path)
    compare.add_argument("after", metavar="B.json", type=Path)
    compare.add_argument("--fail-on", metavar="P%", help="exit with 1 when something got worse by more than this")
    add_json(compare)
    compare.set_defaults(run=_bench_compare)
    report = commands.add_parser(
        "bench report",
        help="one HTML page of results (needs claprt[bench])",
        description="Make one self-contained HTML page of results of claprt bench and claprt eval.",
    )
    report.add_argument(
        "documents", metavar="RESULT.json", type=Path, nargs="+", help="what claprt bench and claprt eval wrote"
    )
    report.add_argument("-o", "--output", metavar="FILE.html", type=Path, required=True, help="the page")
    add_json(report)
    report.set_defaults(run=_bench_report)


def _eval(args: argparse.Namespace) -> int:
    from claprt.cli.eval import run_eval

    return run_eval(args)


def _bench(args: argparse.Namespace) -> int:
    from claprt.cli.bench import run_bench

    return run_bench(args)


def _bench_compare(args: argparse.Namespace) -> int:
    from claprt.cli.bench_compare import run_compare

    return run_compare(args)


def _bench_report(args: argparse.Namespace) -> int:
    from claprt.cli.bench_report import run_report

    return run_report(args)
