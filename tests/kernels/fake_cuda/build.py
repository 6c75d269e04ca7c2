"""Build the fake CUDA driver: `python build.py DIRECTORY` leaves libcuda.so.1 and libcuda.so there, in seconds."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
_SOURCES = tuple(sorted(HERE.glob("*.cpp")))
_HEADERS = tuple(sorted(HERE.glob("*.h")))
# cuda.h declares the current names, the older versions of functions, and those of per-thread default streams.
_MODES = ("CURRENT", "__CUDA_API_VERSION_INTERNAL", "CUDA_API_PER_THREAD_DEFAULT_STREAM")
_STRICT = ("-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")
_COMPILER = ("g++", "a C++ compiler")
_EXPORTS = "{ global: cu[A-Z]*; fake_cuda_*; local: *; };\n"


class CannotBuildError(RuntimeError):
    """Something that this machine does not have is needed; the message says what."""


def toolkit() -> Path:
    """The CUDA toolkit's directory: where nvcc itself is, not a wrapper or link of that name on PATH."""
    command = [_program("nvcc", "the CUDA toolkit"), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr
    found = re.search(r"^#\$ _HERE_=(.+)$", said, re.MULTILINE)
    if found is None:
        raise CannotBuildError(f"{command[0]} --dryrun does not say where it is: {said.strip()}")
    root = Path(found[1].strip()).parent
    if not (root / "include" / "cuda.h").is_file():
        raise CannotBuildError(f"the CUDA toolkit in {root} has no include/cuda.h")
    return root


def fake_driver(cache: Path) -> Path:
    """The directory of a built driver; built if none of these sources and this cuda.h is in `cache`."""
    _program(*_COMPILER)
    include = toolkit() / "include"
    key = digest(*(path.read_bytes() for path in (*_SOURCES, *_HEADERS, Path(__file__), include / "cuda.h")))
    return cached(cache / f"fake-cuda-{key}", lambda directory: build(directory, include))


def build(directory: Path, include: Path) -> None:
    """Build libcuda.so.1 in `directory`, and libcuda.so for the linker."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        stubs, exports = Path(scratch, "stubs.cpp"), Path(scratch, "exports")
        stubs.write_text(_stubs(include))
        exports.write_text(_EXPORTS)
        linking = ["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", f"-Wl,--version-script={exports}", "-ldl", "-pthread"]
        library = directory / "libcuda.so.1"
        _compile([*_STRICT, f"-I{include}", *_SOURCES, stubs, "-o", library, *linking])
    (directory / "libcuda.so").symlink_to(library.name)


def build_kernels(source: Path, library: Path, flags: Sequence[str | Path] = ()) -> Path:
    """Compile kernels that export `emulated_kernels`, for FAKE_CUDA_KERNELS. Returns `library`."""
    _compile([*_STRICT, f"-I{HERE}", *flags, source, "-o", library])
    return library


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made by `make(directory)` if it is not there: wholly or not at all, and by one process."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(path.name + ".lock")):
            if not path.is_dir():
                with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                    make(Path(scratch, path.name))
                    Path(scratch, path.name).rename(path)
    return path


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def _stubs(include: Path) -> str:
    """Every function that cuda.h declares, as one that is not supported, and tables of the functions and errors.

    The stubs are weak: where one of the sources defines a function, that one is linked.
    """
    text = "".join(_preprocessed(include, mode) for mode in _MODES)
    names = set(re.findall(r"\bCUresult\s+(cu[A-Z]\w*)\s*\(", text))
    errors = dict(re.findall(r"\bCUDA_((?:SUCCESS|ERROR)\w*)\s*=\s*(\d+)", text))
    header = (include / "cuda.h").read_text()
    renamed = dict(
        re.findall(r"^#\s*define (cu[A-Z]\w*)\s+(?:__CUDA_API_\w+\()?(cu[A-Z]\w*)\)?\s*$", header, re.MULTILINE)
    )
    symbols = {name: name for name in names} | {name: real for name, real in renamed.items() if real in names}
    if len(names) < 300 or len(errors) < 50 or "cuMemAlloc_v2" not in names:
        raise CannotBuildError(f"{include}/cuda.h is not understood: {len(names)} functions, {len(errors)} errors")
    lines = ['extern "C" int fake_cuda_unsupported(const char*);', 'extern "C" {']
    lines += [f'[[gnu::weak]] int {name}() {{ return fake_cuda_unsupported("{name}"); }}' for name in sorted(names)]
    lines += ["}", "struct Symbol { const char* name; void* address; };", "extern const Symbol symbols[] = {"]
    lines += [f'    {{"{name}", reinterpret_cast<void*>({symbols[name]})}},' for name in sorted(symbols)]
    lines += ["    {nullptr, nullptr}};", "struct Error { int code; const char *name, *text; };"]
    lines += ["extern const Error errors[] = {"]
    for name, code in errors.items():
        text = name.removeprefix("ERROR_").replace("_", " ").lower()
        lines.append(f'    {{{code}, "CUDA_{name}", "{text}"}},')
    lines += ["    {0, nullptr, nullptr}};", ""]
    return "\n".join(lines)


def _preprocessed(include: Path, mode: str) -> str:
    command = [_program(*_COMPILER), "-x", "c++", "-E", "-P", f"-D{mode}", f"-I{include}", "-"]
    source = "#include <cuda.h>\n#include <cudaProfiler.h>\n"
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


def _compile(arguments: Sequence[str | Path]) -> None:
    done = subprocess.run([_program(*_COMPILER), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"g++ failed:\n{done.stderr}")


def _program(name: str, what: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CannotBuildError(f"no {name} on PATH ({what})")
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    build(Path(sys.argv[1]), toolkit() / "include")
