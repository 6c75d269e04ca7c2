"""How much disk an installation takes: fresh environments, everything in them counted.

`python -m claprt_bench.install_size -o FILE` measures that alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claprt.errors import ClaprtError
from claprt_bench.errors import BenchError
from claprt_bench.machine import describe
from claprt_bench.rows import Row

TARGET = 1 / 6
BELOW_MB = 200.0
ROOT = Path(__file__).resolve().parents[2]
_CUDA = "import torch; print(torch.__version__, torch.version.cuda)"


@dataclass(frozen=True)
class InstallSizes:
    """Bytes of `claprt[cpu]` and of torch with transformers; which torch it was, and whether it brought CUDA along."""

    ours: int
    theirs: int
    torch: str
    cuda: bool


def install_sizes(pip_args: list[str]) -> InstallSizes:
    """Install both into environments without pip, as `constraints.txt` pins them. Needs the network.

    Args:
        pip_args: for pip, such as `--extra-index-url` with PyTorch's CPU wheels: elsewhere torch may bring CUDA, which
            would make the comparison too easy.

    Raises:
        BenchError: this is no clone of the repository, or pip failed.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise BenchError(f"install sizes need a clone of the repository: {ROOT} has no pyproject.toml; run it from one")
    with tempfile.TemporaryDirectory() as directory:
        ours = _environment(Path(directory) / "claprt", [f"{ROOT}[cpu]"], pip_args)
        theirs = _environment(Path(directory) / "torch", ["torch", "transformers", "soundfile"], pip_args)
        torch, cuda = _run([_python(theirs), "-c", _CUDA]).split()
        return InstallSizes(_size(ours), _size(theirs), torch, cuda != "None")


def install_row(pip_args: list[str] | None, targets: bool) -> Row:
    """Disk that an installation takes, in MB; `pip_args` None: not measured, as it needs the network and minutes."""

    def row(note: str, ours: float | None = None, theirs: float | None = None) -> Row:
        return Row(
            "install size of claprt[cpu]",
            "an environment with torch, transformers and soundfile",
            "MB",
            "smaller",
            target=TARGET if targets else None,
            below=BELOW_MB if targets else None,
            ours=() if ours is None else (ours,),
            theirs=() if theirs is None else (theirs,),
            notes=(note,),
        )

    if pip_args is None:
        return row("install sizes: not measured in this run; --install-sizes installs both afresh, from the network")
    sizes = install_sizes(pip_args)
    if sizes.cuda:  # gigabytes of libraries that a CPU does not need: no fair opponent
        note = f"torch {sizes.torch} brought CUDA along ({sizes.theirs / 1e6:.0f} MB in all): no fair ratio; name an "
        return row(note + "index of CPU wheels with --pip-args", ours=sizes.ours / 1e6)
    return row(
        f"install sizes: torch {sizes.torch}, Python {sys.version.split()[0]}", sizes.ours / 1e6, sizes.theirs / 1e6
    )


def _environment(directory: Path, requirements: list[str], pip_args: list[str]) -> Path:
    venv.create(directory, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(_python(directory))]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    _run([*pip, "install", "--quiet", *constraints, *pip_args, *requirements])
    return directory


def _python(environment: Path) -> Path:
    return environment / "bin" / "python"


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"an environment could not be made: {last}; --pip-args passes options to pip")
    return done.stdout


def _size(environment: Path) -> int:
    """Bytes of all files; links are not followed."""
    return sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 2 where an environment could not be made."""
    parser = argparse.ArgumentParser(prog="python -m claprt_bench.install_size", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--pip-args", default="", help="options for pip, in one string")
    options = parser.parse_args(arguments)
    try:
        sizes = install_sizes(shlex.split(options.pip_args))
    except ClaprtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    document = {
        "machine": describe(()),
        "claprt[cpu]_mb": round(sizes.ours / 1e6, 1),
        "torch_transformers_soundfile_mb": round(sizes.theirs / 1e6, 1),
        "torch": sizes.torch,
        "ratio": None if sizes.cuda else round(sizes.ours / sizes.theirs, 3),
        "target_ratio": round(TARGET, 3),
        "target_mb": BELOW_MB,
    }
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
