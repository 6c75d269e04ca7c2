"""Arguments, errors and exit codes of the `claprt` command.

Exit codes: 0 all done; 1 done, but some inputs could not be used (each is reported on stderr); 2 nothing done: wrong
usage, or an error; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from claprt._version import __version__
from claprt.cli.output import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED, report_error
from claprt.engines.select import BACKENDS
from claprt.errors import ClaprtError, ClaprtWarning
from claprt.spec import PRECISIONS, RECIPES, VARIANTS

_EPILOG = "exit codes: 0 all done; 1 done, but some inputs could not be used; 2 error, nothing done; 130 interrupted"


def run() -> None:
    """Entry point of the `claprt` command."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. `argv` is without the program's name."""
    _prepare_streams()
    try:
        try:
            args = _parser().parse_args(_joined(argv))
            with _one_line_warnings(), _terminable():
                code: int = args.run(args)
                return code
        finally:
            sys.stdout.flush()
    except ClaprtError as error:
        report_error(str(error))
        return EXIT_ERROR
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to report, and nothing more to flush.
        _discard_stdout()
        return EXIT_ERROR
    except OSError as error:  # the disk behind stdout is full, a path that the system refuses, ...
        where = "" if error.filename is None else f": {error.filename}"
        report_error(f"{error.strerror or error}{where}")
        _discard_stdout()
        return EXIT_ERROR
    except KeyboardInterrupt:
        report_error("interrupted")
        return EXIT_INTERRUPTED


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed (`>&-`)
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for the whole process)
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid in the terminal's encoding


def _discard_stdout() -> None:
    """Let what is still buffered for stdout go nowhere: Python would fail once more to write it at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show claprt's own warnings as lines of ours; leave the others as they are."""
    show = warnings.showwarning

    def one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object, **named: object
    ) -> None:
        if issubclass(category, ClaprtWarning):
            print(f"claprt: warning: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ClaprtWarning)
        warnings.showwarning = one_line
        yield


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as SIGINT does, so that nothing half-written stays behind.

    A signal that arrives while Python runs a destructor raises in there and is lost: it is then sent once more.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_TERMINATED)

    def lost(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, (KeyboardInterrupt, SystemExit)):
            show(what)
            return
        number = signal.SIGINT if isinstance(what.exc_value, KeyboardInterrupt) else signal.SIGTERM
        again = threading.Timer(0.02, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    show = sys.unraisablehook
    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = show
        signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="claprt", description="CLAP, deployed without PyTorch.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"claprt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_build(commands)
    _add_verify(commands)
    _add_info(commands)
    _add_classify(commands)
    _add_embed(commands)
    _add_eval(commands)
    _add_engine_command(commands)
    _add_bench(commands)
    _add_doctor(commands)
    return parser


def _joined(argv: Sequence[str]) -> list[str]:
    """`bench compare` and `bench report` are commands of two words; any other word after `bench` is a bundle."""
    if len(argv) > 1 and argv[0] == "bench" and argv[1] in ("compare", "report"):
        return [f"bench {argv[1]}", *argv[2:]]
    return list(argv)


_Commands = argparse._SubParsersAction  # the type of what add_subparsers returns has no public name


def _add_build(commands: _Commands[argparse.ArgumentParser]) -> None:
    build = commands.add_parser(
        "build",
        help="export a checkpoint into a bundle (needs claprt[export])",
        description="Export a CLAP checkpoint into a bundle and verify it against transformers. The bundle appears "
        "whole and verified, or not at all.",
        epilog=_EPILOG,
    )
    build.add_argument(
        "source",
        metavar="SOURCE",
        help="'demo', 'demo-fused', a directory as transformers saves one, a hub id, or one of LAION's .pt files",
    )
    build.add_argument("-o", "--output", metavar="BUNDLE", type=Path, required=True, help="the bundle's directory")
    build.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub repository")
    build.add_argument(
        "--tokenizer", metavar="DIR|ID", help="for a .pt file, which has none: a directory or hub id (roberta-base)"
    )
    build.add_argument(
        "--int16",
        action=argparse.BooleanOptionalAction,
        help="quantise samples to int16 before the log-Mel (default: as the checkpoint was trained, so for a .pt file)",
    )
    build.add_argument("--audio", metavar="DIR", type=Path, help="verify on the recordings in DIR too")
    build.add_argument(
        "--precision",
        metavar="LIST",
        default="fp32",
        help=f"comma-separated, of {', '.join(PRECISIONS)}; fp32 is always built (default: fp32)",
    )
    build.add_argument(
        "--calibration",
        metavar="DIR",
        type=Path,
        help="recordings, and captions as lines of .txt files, to calibrate int8 on (default: made by claprt)",
    )
    build.add_argument("--force", action="store_true", help="replace a bundle that is already there")
    _add_json(build)
    build.set_defaults(run=_build)


def _add_verify(commands: _Commands[argparse.ArgumentParser]) -> None:
    verify = commands.add_parser(
        "verify",
        help="compare a bundle with its checkpoint (needs claprt[export])",
        description="Compare each variant of a bundle with the checkpoint it was built from, run by transformers. Exit "
        "code 1 when a variant misses its bound.",
        epilog=_EPILOG,
    )
    verify.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's directory")
    verify.add_argument("--against", metavar="SOURCE", required=True, help="the checkpoint, as claprt build takes it")
    verify.add_argument("--audio", metavar="DIR", type=Path, help="compare on the recordings in DIR too")
    verify.add_argument("--variant", choices=VARIANTS, help="default: all that the bundle has")
    verify.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub repository")
    verify.add_argument("--tokenizer", metavar="DIR|ID", help="for a .pt file (roberta-base)")
    _add_json(verify)
    verify.set_defaults(run=_verify)


def _add_info(commands: _Commands[argparse.ArgumentParser]) -> None:
    info = commands.add_parser(
        "info",
        help="show what a bundle is and check its files",
        description="Show what a bundle is, how it was verified, and check the hash of each of its files.",
        epilog=_EPILOG,
    )
    info.add_argument("bundle", metavar="BUNDLE", type=Path)
    _add_json(info)
    info.set_defaults(run=_info)


def _add_classify(commands: _Commands[argparse.ArgumentParser]) -> None:
    classify = commands.add_parser(
        "classify",
        help="which of these labels fits each sound",
        description="Zero-shot classification of sound files, or classification with a head that was trained on "
        "labelled sounds (claprt eval --task probe --save-head).",
        epilog=_EPILOG,
    )
    classify.add_argument("bundle", metavar="BUNDLE", type=Path)
    classify.add_argument("files", metavar="FILE", nargs="+")
    labels = classify.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", metavar="A,B,C", help="labels, separated by commas")
    labels.add_argument("--labels-file", metavar="F", type=Path, help="a UTF-8 file with one label a line")
    labels.add_argument("--head", metavar="F", type=Path, help="a trained head: its classes instead of labels")
    classify.add_argument(
        "--template",
        metavar="T",
        action="append",
        help="prompt with {} for the label (default 'This is a sound of {}.'); given several times, they are averaged",
    )
    classify.add_argument("--top", metavar="K", type=_positive, default=3, help="labels shown for each file (3)")
    _add_recipe(classify)
    _add_engine(classify)
    _add_json(classify)
    classify.set_defaults(run=_classify)


def _add_embed(commands: _Commands[argparse.ArgumentParser]) -> None:
    embed = commands.add_parser(
        "embed",
        help="write vectors of sounds or texts",
        description="Embed sound files, or the lines of a text file, into a NumPy archive with the arrays names, "
        "vectors (float32, unit length) and space_id.",
        epilog=_EPILOG,
    )
    embed.add_argument("bundle", metavar="BUNDLE", type=Path)
    embed.add_argument("files", metavar="FILE", nargs="*")
    embed.add_argument("--texts-file", metavar="F", type=Path, help="a UTF-8 file with one text a line")
    embed.add_argument("-o", "--output", metavar="OUT.npz", type=Path, required=True)
    _add_recipe(embed)
    _add_engine(embed)
    _add_json(embed)
    embed.set_defaults(run=_embed)


def _add_eval(commands: _Commands[argparse.ArgumentParser]) -> None:
    evaluation = commands.add_parser(
        "eval",
        help="how well a bundle does on labelled or captioned sounds (needs claprt[bench])",
        description="Evaluate a bundle on a dataset: a folder with a folder of sounds for each class, or a CSV or "
        "Parquet file of paths with labels or captions (ESC-50, Clotho, AudioCaps, FSD50K as they come). Figures "
        "have bootstrap intervals, and precisions are compared pairwise.",
        epilog=_EPILOG,
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
    evaluation.add_argument("--threads", metavar="N", type=_positive, help="CPU threads (default: all usable cores)")
    _add_device(evaluation)
    _add_recipe(evaluation)
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
        "--folds", metavar="K", type=_positive, help="probe: K stratified folds (default: the dataset's own)"
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
    evaluation.add_argument("--confidence", metavar="P", type=float, default=0.95, help="of the intervals (0.95)")
    evaluation.add_argument("--resamples", metavar="N", type=_positive, default=2000, help="of the bootstrap (2000)")
    evaluation.add_argument("--seed", metavar="N", type=_natural, default=0, help="of everything random (0)")
    evaluation.add_argument(
        "--json", metavar="FILE", type=Path, nargs="?", const="-", help="write the result to FILE, or print it"
    )
    evaluation.add_argument("--html", metavar="FILE", type=Path, help="write a report of one page")
    evaluation.set_defaults(run=_eval)


def _add_engine_command(commands: _Commands[argparse.ArgumentParser]) -> None:
    engine = commands.add_parser(
        "engine",
        help="build TensorRT engines of a bundle (needs claprt[tensorrt] or claprt[rtx])",
        description="Build TensorRT engines of a bundle's graphs, for the GPU here, and compare each with the FP32 "
        "graph on the CPU; one that misses its bound is not kept. With --rtx and --compute-capability no GPU is "
        "needed; --verify finishes and verifies such engines on the user's GPU.",
        epilog=_EPILOG,
    )
    engine.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's directory; engines go into it")
    engine.add_argument("--rtx", action="store_true", help="use TensorRT for RTX")
    engine.add_argument("--precision", metavar="LIST", default="fp16", help="of fp32, fp16, int8 (fp16)")
    engine.add_argument("--tower", metavar="LIST", default="audio,text", help="of audio, text (both)")
    engine.add_argument("--batch", metavar="LIST", default="1,8,64", help="batches to tune for (1,8,64)")
    engine.add_argument("--tokens", metavar="LIST", default="16,77", help="lengths of texts to tune for (16,77)")
    engine.add_argument(
        "--compute-capability", metavar="LIST", help="with --rtx: build for these, such as 8.6,8.9,12.0"
    )
    engine.add_argument("--workspace", metavar="MIB", type=_positive, help="device memory for one layer, at most")
    engine.add_argument("--optimization-level", metavar="N", type=int, help="0 to 5: how long to search")
    engine.add_argument("--hardware-compatible", action="store_true", help="run on every GPU since Ampere; slower")
    engine.add_argument(
        "--version-compatible", action="store_true", help="run on later versions too, of the same major"
    )
    engine.add_argument("--audio", metavar="DIR", type=Path, help="verify on the recordings in DIR too")
    engine.add_argument("--force", action="store_true", help="build again what is there")
    engine.add_argument(
        "--verify", action="store_true", help="finish and verify the engines that the bundle has for this GPU"
    )
    engine.add_argument("--list", action="store_true", help="list the engines that the bundle has, and build none")
    _add_device(engine)
    _add_json(engine)
    engine.set_defaults(run=_engine)


def _add_bench(commands: _Commands[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser(
        "bench",
        help="how fast a bundle is here: each stage, whole paths, cold start",
        description="Measure how fast a bundle is on this machine. Values are checked before times are taken; each "
        "repeat is a fresh process. claprt bench compare and claprt bench report take what --json writes.",
        epilog="exit codes: 0 measured; 1 measured, but something that was asked for could not be; 2 error; "
        "130 interrupted",
    )
    bench.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's directory (./compare if so named)")
    bench.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    bench.add_argument("--precision", metavar="LIST", default="fp32", help=f"of {', '.join(PRECISIONS)}; or all (fp32)")
    bench.add_argument("--batch", metavar="LIST", default="1,8", help="items of a call (1,8)")
    bench.add_argument("--threads", metavar="N", type=_positive, help="CPU threads (default: all usable cores)")
    _add_device(bench)
    bench.add_argument("--duration", metavar="S", type=float, default=5.0, help="seconds for each measurement (5)")
    bench.add_argument("--repeats", metavar="N", type=_positive, default=5, help="fresh processes that share them (5)")
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
    bench.add_argument("--rounds", metavar="N", type=_positive, default=15, help="runs of each side in --against (15)")
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
        epilog="exit codes: 0 compared; 1 with --fail-on: something got worse; 2 error",
    )
    compare.add_argument("before", metavar="A.json", type=Path)
    compare.add_argument("after", metavar="B.json", type=Path)
    compare.add_argument("--fail-on", metavar="P%", help="exit with 1 when something got worse by more than this")
    _add_json(compare)
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
    _add_json(report)
    report.set_defaults(run=_bench_report)


def _add_doctor(commands: _Commands[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what can run here, and why not",
        description="List each backend and optional part, and the reason why it can or cannot be used here.",
        epilog="exit codes: 0 at least one backend is usable; 1 none is",
    )
    _add_device(doctor)
    _add_json(doctor)
    doctor.set_defaults(run=_doctor)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", choices=RECIPES, help="what is heard of a long sound (default: the bundle's own recipe)"
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: fp32")
    parser.add_argument("--threads", metavar="N", type=_positive, help="CPU threads (default: all usable cores)")
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="N", type=_natural, default=0, help="CUDA's number of the GPU (0)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _natural(text: str) -> int:
    return 0 if text == "0" else _positive(text)


# Each command's module is loaded only when it runs: `claprt --help` needs none of them.


def _build(args: argparse.Namespace) -> int:
    from claprt.cli.build import run_build

    return run_build(args)


def _verify(args: argparse.Namespace) -> int:
    from claprt.cli.build import run_verify

    return run_verify(args)


def _info(args: argparse.Namespace) -> int:
    from claprt.cli.info import run_info

    return run_info(args)


def _classify(args: argparse.Namespace) -> int:
    from claprt.cli.sounds import run_classify

    return run_classify(args)


def _embed(args: argparse.Namespace) -> int:
    from claprt.cli.sounds import run_embed

    return run_embed(args)


def _eval(args: argparse.Namespace) -> int:
    from claprt.cli.eval import run_eval

    return run_eval(args)


def _engine(args: argparse.Namespace) -> int:
    from claprt.cli.engine import run_engine

    return run_engine(args)


def _bench(args: argparse.Namespace) -> int:
    from claprt.cli.bench import run_bench

    return run_bench(args)


def _bench_compare(args: argparse.Namespace) -> int:
    from claprt.cli.bench_compare import run_compare

    return run_compare(args)


def _bench_report(args: argparse.Namespace) -> int:
    from claprt.cli.bench_report import run_report

    return run_report(args)


def _doctor(args: argparse.Namespace) -> int:
    from claprt.cli.doctor import run_doctor

    return run_doctor(args)
