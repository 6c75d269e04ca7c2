"""`python -m claprt_bench.prepare`: the checkpoint, bundle and stock graph that are measured, made once and reused.

Runs in a process of its own: what building leaves behind (threads, ONNX sessions, memory) must not meet the clock.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import claprt
import claprt_export
from claprt.bundle import sha256_file
from claprt.errors import ExportError, OptionError
from claprt_bench.errors import BenchError

FULL_SIZE = "htsat-tiny"
PRECISIONS = ("fp32", "int8")
_SEED = 0
_STAMPS = "made-from.json"
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Prepared:
    """Where the things to measure lie.

    Attributes:
        checkpoint: a directory as transformers saves one. Its name is what results show as their source.
        bundle: what claprt makes of it.
        stock: what torch.onnx.export makes of transformers' audio tower.
        refused: a file that says why the bundle has no INT8; absent when it has.
    """

    checkpoint: Path
    bundle: Path
    stock: Path
    refused: Path

    @staticmethod
    def under(directory: Path, size: str) -> Prepared:
        """Their places for a size of `claprt_export.random_checkpoint.SIZES`."""
        base = directory / size
        return Prepared(base / f"random-{size}", base / "bundle", base / "stock.onnx", base / "int8-refused.txt")


def prepare_in_child(directory: Path, size: str, recordings: Path | None, rebuild: bool) -> Prepared:
    """`prepare` in another process.

    Raises:
        BenchError: it failed; what it wrote to stderr says why.
    """
    command = [sys.executable, "-m", "claprt_bench.prepare", str(directory), "--size", size]
    command += ["--audio", str(recordings)] * (recordings is not None) + ["--rebuild"] * rebuild
    if subprocess.run(command, check=False).returncode:
        raise BenchError(f"nothing to measure: preparing {directory / size} failed; see above")
    return Prepared.under(directory, size)


def prepare(directory: Path, size: str, recordings: Path | None, rebuild: bool) -> Prepared:
    """Make whatever is missing, or was made from other code, packages or inputs than today's.

    Args:
        directory: where to keep it.
        size: of the random checkpoint.
        recordings: the bundle is verified (and its INT8 calibrated) on these too.
        rebuild: make everything again.

    Raises:
        OptionError: there is no such size.
        ExportError: the bundle's FP32 misses its bounds.
    """
    from claprt_export.random_checkpoint import SIZES, save_random_checkpoint

    if size not in SIZES:
        raise OptionError(f"unknown size: {size!r}; choose one of {', '.join(SIZES)}")
    prepared = Prepared.under(directory, size)
    prepared.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    steps = _Steps(prepared.checkpoint.parent / _STAMPS, rebuild)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    torch = {name: versions[name] for name in ("torch", "transformers", "onnxscript")}

    def save_checkpoint() -> None:
        save_random_checkpoint(prepared.checkpoint, size, seed=_SEED)

    def build() -> None:
        from claprt_export.build import build

        prepared.refused.unlink(missing_ok=True)
        try:
            build(str(prepared.checkpoint), prepared.bundle, recordings=recordings, precisions=PRECISIONS)
        except ExportError as error:  # INT8 misses its bounds on these weights: FP32 can be measured all the same
            print(f"== no INT8: {error}", file=sys.stderr, flush=True)
            build(str(prepared.checkpoint), prepared.bundle, recordings=recordings)
            prepared.refused.write_text(f"{error}\n", encoding="utf-8")

    def export() -> None:
        from claprt_bench.reference import export_stock
        from claprt_export.checkpoint import load_checkpoint

        export_stock(load_checkpoint(str(prepared.checkpoint)), prepared.stock)

    export_code = Path(claprt_export.__file__).parent
    source = _hash([export_code / "random_checkpoint.py"])
    steps.run(prepared.checkpoint, {"size": size, "seed": _SEED, "source": source, **torch}, save_checkpoint)
    weights = _hash(sorted(prepared.checkpoint.iterdir()))
    code = sorted(path for path in export_code.rglob("*.py") if "demo" not in path.relative_to(export_code).parts)
    sounds = sorted(path for path in recordings.rglob("*") if path.is_file()) if recordings is not None else []
    made_from = {"weights": weights, "source": _hash(code), "sounds": _hash(sounds), "claprt": claprt.__version__}
    steps.run(prepared.bundle, made_from | versions, build)
    source = _hash([Path(__file__).with_name("reference.py")])
    steps.run(prepared.stock, {"weights": weights, "source": source, **torch}, export)
    return prepared


class _Steps:
    """Runs a step unless its result exists and was made from the same things."""

    def __init__(self, stamps: Path, rebuild: bool) -> None:
        self._file, self._rebuild = stamps, rebuild
        self._stamps: dict[str, Any] = json.loads(stamps.read_text(encoding="utf-8")) if stamps.is_file() else {}

    def run(self, result: Path, made_from: dict[str, Any], make: Callable[[], None]) -> None:
        if not self._rebuild and result.exists() and self._stamps.get(result.name) == made_from:
            return
        print(f"== making {result}", file=sys.stderr, flush=True)
        self._stamps.pop(result.name, None)
        self._write()
        if result.is_dir():
            shutil.rmtree(result)
        make()
        self._stamps[result.name] = made_from
        self._write()

    def _write(self) -> None:
        self._file.write_text(json.dumps(self._stamps, indent=2) + "\n", encoding="utf-8")


def _hash(files: Sequence[Path]) -> str:
    """One SHA-256 over the names and contents of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def main() -> None:
    """Command line; for people `python -m claprt_bench.cpu` calls it."""
    parser = argparse.ArgumentParser(description="Make the checkpoint, bundle and graph that the benchmark measures.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", default=FULL_SIZE)
    parser.add_argument("--audio", type=Path, metavar="DIR")
    parser.add_argument("--rebuild", action="store_true")
    args = parser.parse_args()
    try:
        prepare(args.directory, args.size, args.audio, args.rebuild)
    except claprt.ClaprtError as error:
        raise SystemExit(f"claprt_bench: {error}") from None


if __name__ == "__main__":
    main()
