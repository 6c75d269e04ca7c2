"""The arguments of every command; those of `claprt bench` and `claprt eval` are in parser_bench.py.

A command's module is loaded only when it runs: `claprt --help` needs none of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from claprt._version import __version__
from claprt.cli.intermixed import Parser
from claprt.cli.options import EPILOG, Commands, add_device, add_engine, add_json, add_recipe, level, positive
from claprt.cli.parser_bench import add_bench, add_eval
from claprt.spec import PRECISIONS, VARIANTS


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments without the program's name. `run` in what comes back is the command's function.

    Options may stand anywhere, `--` ends them, and a wrong one is an error of one line: the process then exits with 2.
    """
    words = joined(argv)
    parser, commands = _parsers()
    command = commands.get(words[0]) if words else None
    return parser.parse_args(words) if command is None else command.parse_args(command.in_order(words[1:]))


def _parsers() -> tuple[Parser, Mapping[str, Parser]]:
    """The whole command line, and the parser of each command."""
    parser = Parser(prog="claprt", description="CLAP, deployed without PyTorch.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"claprt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _add_build(commands)
    _add_verify(commands)
    _add_info(commands)
    _add_classify(commands)
    _add_embed(commands)
    add_eval(commands)
    _add_engine_command(commands)
    add_bench(commands)
    _add_doctor(commands)
    return parser, commands.choices


def joined(argv: Sequence[str]) -> list[str]:
    """`bench compare` and `bench report` are commands of two words; any other word after `bench` is a bundle."""
    if len(argv) > 1 and argv[0] == "bench" and argv[1] in ("compare", "report"):
        return [f"bench {argv[1]}", *argv[2:]]
    return list(argv)


def _add_build(commands: Commands[Parser]) -> None:
    build = commands.add_parser(
        "build",
        help="export a checkpoint into a bundle (needs claprt[export])",
        description="Export a CLAP checkpoint into a bundle and verify it against transformers. The bundle appears "
        "whole and verified, or not at all.",
        epilog=EPILOG,
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
    add_json(build)
    build.set_defaults(run=_build)


def _add_verify(commands: Commands[Parser]) -> None:
    verify = commands.add_parser(
        "verify",
        help="compare a bundle with its checkpoint (needs claprt[export])",
        description="Compare each variant of a bundle with the checkpoint it was built from, run by transformers. Exit "
        "code 1 when a variant misses its bound.",
        epilog=EPILOG,
    )
    verify.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's directory")
    verify.add_argument("--against", metavar="SOURCE", required=True, help="the checkpoint, as claprt build takes it")
    verify.add_argument("--audio", metavar="DIR", type=Path, help="compare on the recordings in DIR too")
    verify.add_argument("--variant", choices=VARIANTS, help="default: all that the bundle has")
    verify.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub repository")
    verify.add_argument("--tokenizer", metavar="DIR|ID", help="for a .pt file (roberta-base)")
    add_json(verify)
    verify.set_defaults(run=_verify)


def _add_info(commands: Commands[Parser]) -> None:
    info = commands.add_parser(
        "info",
        help="show what a bundle is and check its files",
        description="Show what a bundle is, how it was verified, and check the hash of each of its files.",
        epilog=EPILOG,
    )
    info.add_argument("bundle", metavar="BUNDLE", type=Path)
    add_json(info)
    info.set_defaults(run=_info)


def _add_classify(commands: Commands[Parser]) -> None:
    classify = commands.add_parser(
        "classify",
        help="which of these labels fits each sound",
        description="Zero-shot classification of sound files, or classification with a head that was trained on "
        "labelled sounds (claprt eval --task probe --save-head).",
        epilog=EPILOG,
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
    classify.add_argument("--top", metavar="K", type=positive, default=3, help="labels shown for each file (3)")
    add_recipe(classify)
    add_engine(classify)
    add_json(classify)
    classify.set_defaults(run=_classify)


def _add_embed(commands: Commands[Parser]) -> None:
    embed = commands.add_parser(
        "embed",
        help="write vectors of sounds or texts",
        description="Embed sound files, or the lines of a text file, into a NumPy archive with the arrays names, "
        "vectors (float32, unit length) and space_id.",
        epilog=EPILOG,
    )
    embed.add_argument("bundle", metavar="BUNDLE", type=Path)
    embed.add_argument("files", metavar="FILE", nargs="*")
    embed.add_argument("--texts-file", metavar="F", type=Path, help="a UTF-8 file with one text a line")
    embed.add_argument("-o", "--output", metavar="OUT.npz", type=Path, required=True)
    add_recipe(embed)
    add_engine(embed)
    add_json(embed)
    embed.set_defaults(run=_embed)


def _add_engine_command(commands: Commands[Parser]) -> None:
    engine = commands.add_parser(
        "engine",
        help="build TensorRT engines of a bundle (needs claprt[tensorrt] or claprt[rtx])",
        description="Build TensorRT engines of a bundle's graphs, for the GPU here, and compare each with the FP32 "
        "graph on the CPU; one that misses its bound is not kept. With --rtx and --compute-capability no GPU is "
        "needed; --verify finishes and verifies such engines on the user's GPU.",
        epilog=EPILOG,
    )
    engine.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's directory; engines go into it")
    engine.add_argument("--rtx", action="store_true", help="use TensorRT for RTX")
    engine.add_argument("--precision", metavar="LIST", default="fp16", help="of fp32, fp16, int8 (fp16)")
    engine.add_argument("--tower", metavar="LIST", default="audio,text", help="of audio, text (both)")
    engine.add_argument("--batch", metavar="LIST", default="1,8,64", help="batches to tune for (1,8,64)")
    engine.add_argument("--tokens", metavar="LIST", default="16,80", help="lengths of texts to tune for (16,80)")
    engine.add_argument(
        "--compute-capability", metavar="LIST", help="with --rtx: build for these, such as 8.6,8.9,12.0"
    )
    engine.add_argument("--workspace", metavar="MIB", type=positive, help="device memory for one layer, at most")
    engine.add_argument("--optimization-level", metavar="N", type=level, help="0 to 5: how long to search")
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
    add_device(engine)
    add_json(engine)
    engine.set_defaults(run=_engine, defaults={action.dest: action.default for action in engine._actions})


def _add_doctor(commands: Commands[Parser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what can run here, and why not",
        description="List each backend and optional part, and the reason why it can or cannot be used here.",
        epilog="exit codes: 0 at least one backend is usable; 1 none is",
    )
    add_device(doctor)
    add_json(doctor)
    doctor.set_defaults(run=_doctor)


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


def _engine(args: argparse.Namespace) -> int:
    from claprt.cli.engine import run_engine

    return run_engine(args)


def _doctor(args: argparse.Namespace) -> int:
    from claprt.cli.doctor import run_doctor

    return run_doctor(args)
