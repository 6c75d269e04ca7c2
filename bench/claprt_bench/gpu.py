"""`python -m claprt_bench.gpu`, `make gpu-check`: everything that only a GPU can show, into one JSON.

Each step is "passed", "failed" or "not run", with the reason. It runs in processes of its own, and the JSON is written
whenever something is known: what crashes or hangs, or an end before the last step, takes nothing from the others. A
file that is there is brought up to date: each step has its own date and versions. Needs nvcc and NumPy; of PyTorch,
CuPy, cuda-bindings or PyCUDA, pytest and compute-sanitizer it uses what it finds.
Exit codes: 0 no step failed; 1 one did; 2 bad options, no GPU, or no nvcc.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from claprt_bench.errors import BenchError
from claprt_bench.gpu_child import run_unit
from claprt_bench.gpu_record import PACKAGES, Record
from claprt_bench.gpu_steps import STEPS
from claprt_bench.gpu_task import BACKENDS, BATCHES, FAILED, PASSED, NotRunError, Row, Settings
from claprt_bench.machine import describe
from claprt_kernels import compile as kernel_files

RESULTS = Path("bench/results")
WORK = Path("build/gpu-check")
_FIELDS = ("name", "compute_cap", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.memory", "power.limit")
_SMI_SECONDS = 60
_SHOWN = 400  # characters of a reason; the JSON has all


def main(arguments: list[str] | None = None) -> int:
    """Run the steps, and write the result after each."""
    options = _options(arguments)
    names = _chosen(options.only, options.skip, options.quick)
    if options.list:
        for name in names:
            print(f"{name.ljust(18)}{STEPS[name].what}{' (not with --quick)' if STEPS[name].timed else ''}")
        return 0
    signal.signal(signal.SIGTERM, _terminated)
    try:
        nvcc = kernel_files.version(kernel_files.find_nvcc())
        device = find_device()
        output = options.output or RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', device['name'].lower()).strip('-')}.json"
        record = Record(output, device, nvcc, describe(PACKAGES))
    except (kernel_files.CompileError, NotRunError, BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    settings = Settings(
        work=str(options.work),
        compute_capability=device["compute_capability"],
        backends=options.backend,
        precisions=options.precision,
        batches=options.batch,
        bundle=_text(options.bundle),
        fused_bundle=_text(options.fused_bundle),
        checkpoint=_text(options.checkpoint),
        audio=_text(options.audio),
        seconds=options.seconds,
        clips=options.clips,
    )
    for name in names:
        _step(record, name, settings, options.step_timeout)
    print(f"written to {output}")
    return int(any(record.steps[name]["status"] == FAILED for name in names))


def find_device() -> dict[str, str]:
    """The first GPU as nvidia-smi describes it.

    Raises:
        NotRunError: there is none.
    """
    smi = shutil.which("nvidia-smi")
    if smi is None:
        raise NotRunError("there is no NVIDIA GPU here: nvidia-smi was not found")
    command = [smi, "-i", "0", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SMI_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotRunError(f"there is no NVIDIA GPU here: nvidia-smi says nothing for {_SMI_SECONDS} s") from None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode or len(values) != len(_FIELDS):
        raise NotRunError(f"there is no NVIDIA GPU here: {(done.stdout + done.stderr).strip()}")
    named = dict(zip(_FIELDS, values, strict=True))
    return {"name": named.pop("name"), "compute_capability": named.pop("compute_cap"), **named}


def _step(record: Record, name: str, settings: Settings, timeout: float) -> None:
    """Run a step, unit by unit."""
    step = STEPS[name]
    if step.units is None:
        outcome = run_unit(name, "", settings, timeout, lambda _: None)
        record.step(name, outcome)
        _say(name, outcome)
        return
    for unit in step.units(settings):
        outcome = run_unit(name, unit, settings, timeout, _keeper(record, name, unit))
        record.end(name, unit, outcome)
        _say(f"{name} {unit}", record.steps[name]["units"][unit])


def _keeper(record: Record, name: str, unit: str) -> Callable[[Row], None]:
    begun = False

    def keep(row: Row) -> None:
        nonlocal begun
        if not begun:
            record.begin(name, unit)
            begun = True
        record.row(name, unit, row)

    return keep


def _say(what: str, outcome: Row) -> None:
    reason = f": {' '.join(outcome['reason'].split())[:_SHOWN]}" if outcome["status"] != PASSED else ""
    print(f"{what.ljust(18)} {outcome['status']}{reason}", flush=True)


def _chosen(only: Sequence[str], skip: Sequence[str], quick: bool) -> list[str]:
    """The steps to do, in order."""
    return [
        name
        for name, step in STEPS.items()
        if name not in skip and (name in only if only else not (quick and step.timed))
    ]


def _options(arguments: list[str] | None) -> Any:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m claprt_bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="JSON to write; bench/results/gpu-<device>.json if left out")
    parser.add_argument("--list", action="store_true", help="list the steps that would be done, and do none")
    parser.add_argument("--only", type=_names(STEPS), default=(), metavar="STEP[,STEP]", help="these steps")
    parser.add_argument("--skip", type=_names(STEPS), default=(), metavar="STEP[,STEP]", help="not these steps")
    parser.add_argument("--quick", action="store_true", help="checks only, no timings")
    parser.add_argument(
        *("--step-timeout",), type=_positive(float), default=1800.0, metavar="S", help="for a unit of a step; 1800"
    )
    towers = parser.add_argument_group("towers")
    towers.add_argument("--backend", type=_names(BACKENDS), default=BACKENDS, metavar="NAME[,NAME]", help="these only")
    towers.add_argument(
        *("--precision",),
        type=_names(("fp32", "fp16", "int8")),
        default=("fp32", "fp16"),
        metavar="NAME[,NAME]",
        help="fp32,fp16 if left out; INT8 takes long to make",
    )
    towers.add_argument(
        "--batch", type=_numbers, default=BATCHES, metavar="N[,N]", help="1,8,64,256 if left out; engines are built so"
    )
    towers.add_argument("--bundle", type=_folder, metavar="DIR", help="to run; built from a checkpoint if left out")
    towers.add_argument("--fused-bundle", type=_folder, metavar="DIR", help="to check; a small random one if left out")
    towers.add_argument("--checkpoint", type=_folder, metavar="DIR", help="transformers' side; random if left out")
    towers.add_argument("--audio", type=_folder, metavar="DIR", help="check vectors on these recordings too")
    towers.add_argument(
        "--seconds", type=_positive(float), default=0.5, metavar="S", help="of each throughput and latency; 0.5"
    )
    towers.add_argument("--clips", type=_positive(int), default=512, metavar="N", help="of a throughput's call; 512")
    towers.add_argument("--work", type=Path, default=WORK, metavar="DIR", help=f"for what is built; {WORK} if left out")
    return parser.parse_args(arguments)


def _names(known: Sequence[str] | dict[str, Any]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return Path(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(int)(part) for part in text.split(",")}))


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return value

    return parse


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _terminated(number: int, frame: Any) -> None:
    sys.exit(128 + number)  # so that what runs is ended


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
