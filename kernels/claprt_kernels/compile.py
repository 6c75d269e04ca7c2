"""Compiles the CUDA sources: the fatbin that the wheel carries, and the shared library for C and C++ services.

    python -m claprt_kernels.compile                      the fatbin, into the installed package
    python -m claprt_kernels.compile --library DIR        libclaprt_log_mel.so and its header
    python -m claprt_kernels.compile --resources          registers, shared memory and spills on every target

Needed where a wheel was built without nvcc, or for a GPU or driver that its fatbin does not suit: Jetson with JetPack 6
takes what its own nvcc makes. Standard library only: the build hook runs this before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
SOURCES = PACKAGE / "csrc"
DATA = PACKAGE / "data"
FATBIN = DATA / "kernels.fatbin"
STAMP = DATA / "kernels.json"  # what the fatbin was made of, or why there is none

# Of libclaprt_log_mel.so.
LIBRARY = ("claprt_log_mel.cu", "claprt_resample.cu", "c_interface.cu")

FLAGS = ("-O3", "-std=c++17")
_RESOURCES = ("-Xptxas", "-v")  # says what each kernel takes
_COMPRESSED = "-Xfatbin=-compress-all"  # a quarter of the size, and every driver unpacks it
OLDEST = 75  # Turing, as the T4 is: what CUDA 13 still makes code for


class CompileError(RuntimeError):
    """There is no nvcc, or it failed; the message has its last words."""


def find_nvcc() -> Path:
    """nvcc: of CUDACXX, CUDA_HOME or CUDA_PATH, of PATH, or where the toolkit is by default.

    Raises:
        CompileError: there is none.
    """
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [
        os.environ.get("CUDACXX"),
        *(f"{home}/bin/nvcc" for home in homes),
        "nvcc",
        "/usr/local/cuda/bin/nvcc",
    ]
    for candidate in candidates:
        found = shutil.which(candidate) if candidate else None
        if found:
            return Path(found)
    raise CompileError("nvcc was not found: install a CUDA toolkit (12 or 13), or name its nvcc in CUDACXX")


def run_nvcc(nvcc: Path, *arguments: str | Path) -> str:
    """Run nvcc and return what it printed.

    Raises:
        CompileError: it failed.
    """
    done = subprocess.run(
        [str(nvcc), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise CompileError(f"{nvcc} failed with exit code {done.returncode}: {done.stdout.strip()[-1500:]}")
    return done.stdout


def cuda_root(nvcc: Path) -> Path:
    """The toolkit's directory; nvcc itself may be a script somewhere else that calls it."""
    match = re.search(r"#\$ TOP=(.+)", run_nvcc(nvcc, "--dryrun", "-E", "-x", "cu", os.devnull))
    return Path(match.group(1).strip()).resolve() if match else nvcc.resolve().parents[1]


def targets(nvcc: Path) -> list[int]:
    """The GPU generations that this toolkit makes code for, from Turing (75) on."""
    listed = run_nvcc(nvcc, "--list-gpu-code")
    return sorted({int(number) for number in re.findall(r"\bsm_(\d+)\b", listed) if int(number) >= OLDEST})


def version(nvcc: Path) -> str:
    """The toolkit's version, "13.0.88" for one."""
    match = re.search(r"\bV(\d+\.\d+\.\d+)", run_nvcc(nvcc, "--version"))
    return match.group(1) if match else "unknown"


def compile_fatbin() -> str:
    """Make the fatbin, if the one that is there was not made of the same sources by the same nvcc.

    Every target gets machine code; PTX of the oldest is for GPUs that this toolkit does not know. It appears whole or
    not at all. One process makes it; others wait, and find it there.

    Returns:
        One line about it.

    Raises:
        CompileError: there is no nvcc, or it failed.
    """
    nvcc = find_nvcc()
    found = targets(nvcc)
    flags = [*FLAGS, *_RESOURCES, *_codes(found), _COMPRESSED]
    made_of = {"sources": _sources_hash(), "nvcc": version(nvcc), "targets": found, "flags": flags}
    options = (*flags, "--threads", "0")
    DATA.mkdir(exist_ok=True)
    with _alone():
        if FATBIN.is_file() and STAMP.is_file():
            stamp = json.loads(STAMP.read_text(encoding="utf-8"))
            if {name: stamp.get(name) for name in made_of} == made_of:
                return f"{FATBIN} is up to date"
        with tempfile.TemporaryDirectory(dir=DATA) as folder:
            made = Path(folder) / FATBIN.name
            said = run_nvcc(nvcc, *options, "-fatbin", SOURCES / "kernels.cu", "-o", made)
            made.replace(FATBIN)
        STAMP.write_text(json.dumps({**made_of, "resources": _found_resources(said)}) + "\n", encoding="utf-8")
    return f"{FATBIN}: {FATBIN.stat().st_size} bytes, sm_{', sm_'.join(map(str, found))} and PTX"


def without_fatbin(reason: str) -> None:
    """Record that the package was built without a fatbin, and why."""
    DATA.mkdir(exist_ok=True)
    FATBIN.unlink(missing_ok=True)
    STAMP.write_text(json.dumps({"missing": reason}) + "\n", encoding="utf-8")


def compile_library(folder: Path, arch: str | None = None) -> Path:
    """Make libclaprt_log_mel.so, with the CUDA runtime inside, and put its header beside it.

    Args:
        folder: where to; it is created.
        arch: what nvcc's -arch takes ("native", "sm_89"); None is every target.

    Raises:
        CompileError: there is no nvcc, or it failed.
    """
    nvcc = find_nvcc()
    folder.mkdir(parents=True, exist_ok=True)
    codes = [f"-arch={arch}"] if arch else _codes(targets(nvcc))
    library = folder / "libclaprt_log_mel.so"
    host = ("-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra", "-Xlinker", "--exclude-libs,ALL")
    shared = ("-shared", "-cudart", "static", _COMPRESSED, "--threads", "0")
    run_nvcc(nvcc, *FLAGS, *codes, *host, *shared, *(SOURCES / name for name in LIBRARY), "-o", library)
    shutil.copy(SOURCES / "claprt_log_mel.h", folder)
    return library


def resources(nvcc: Path, target: int) -> list[dict[str, int | str]]:
    """What each kernel takes on one target, as ptxas says: registers of a thread, bytes of shared memory, of spills."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernels.cubin"
        command = (*FLAGS, *_RESOURCES, f"-arch=sm_{target}", "-cubin", SOURCES / "kernels.cu", "-o", out)
        return _found_resources(run_nvcc(nvcc, *command))


def fatbin_resources() -> dict[str, Any]:
    """`resources` on every target of this toolkit: those of the fatbin, noted when it was made.

    Returns:
        `nvcc`, its version; `flags`, the compiler's; `kernels`, the rows of `resources`.

    Raises:
        CompileError: as `compile_fatbin`.
    """
    compile_fatbin()
    stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    return {"nvcc": stamp["nvcc"], "flags": list(FLAGS), "kernels": stamp["resources"]}


def _codes(found: list[int]) -> list[str]:
    """Machine code for every target, and PTX of the oldest."""
    codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in found]
    return [*codes, f"-gencode=arch=compute_{OLDEST},code=compute_{OLDEST}"]


def _found_resources(said: str) -> list[dict[str, int | str]]:
    found = re.findall(
        r"entry function '(\w+)' for 'sm_(\d+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers.*?(\d+) bytes smem",
        said,
        re.DOTALL,
    )
    return [
        {
            "target": f"sm_{target}",
            "kernel": name,
            "registers": int(registers),
            "shared_bytes": int(shared),
            "stack_bytes": int(stack),
            "spill_bytes": int(stores) + int(loads),
        }
        for name, target, stack, stores, loads, registers, shared in sorted(found, key=lambda row: int(row[1]))
    ]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While this process works on DATA, others wait: an installation, tests, builds of wheels."""
    directory = os.open(DATA, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _sources_hash() -> str:
    digest = hashlib.sha256()
    for name in ("kernels.cu", "log_mel.cu", "log_mel.cuh", "resample.cu", "resample.cuh"):
        digest.update((SOURCES / name).read_bytes())
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 2 where nothing could be compiled."""
    parser = argparse.ArgumentParser(prog="python -m claprt_kernels.compile", description="Compile the CUDA sources.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--library", type=Path, metavar="DIR", help="make libclaprt_log_mel.so and its header there")
    what.add_argument("--resources", action="store_true", help="print registers, shared memory and spills as JSON")
    parser.add_argument("--arch", help='with --library: for one GPU only, "native" or "sm_89"')
    options = parser.parse_args(arguments)
    try:
        if options.library:
            print(compile_library(options.library, options.arch))
        elif options.resources:
            print(json.dumps(fatbin_resources(), indent=1))
        else:
            print(compile_fatbin())
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
