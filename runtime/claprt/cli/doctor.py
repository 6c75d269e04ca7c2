"""`claprt doctor`."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict

from claprt._version import __version__
from claprt.cli.output import print_json, print_table
from claprt.engines import BACKENDS, BackendStatus, backend_status
from claprt.engines.ort import default_threads
from claprt.errors import BackendError
from claprt.extras import EXTRAS
from claprt.gpu import Gpu, find_gpu

_REQUIRED = ("numpy", "tiktoken", "soundfile", "soxr", "tqdm")
_ENGINES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13-bindings", "cuda-bindings", "pycuda")
# What lacks an engine, onnxruntime among them, is said above that table.
_NEEDED_FOR = {
    name: f"{use}: {extra.install}" for extra in EXTRAS for name, use in extra.packages.items() if name not in _ENGINES
}


def run_doctor(args: argparse.Namespace) -> int:
    """Print what can run here; exit code 1 when no backend can."""
    from claprt_kernels import why_unavailable

    gpu, no_gpu = _gpu(args.device)
    backends = [backend_status(name, args.device) for name in BACKENDS]
    kernel = why_unavailable(args.device)
    packages = {name: _version(name) for name in (*_REQUIRED, *_ENGINES, *_NEEDED_FOR)}
    system = {
        "claprt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "usable cores": default_threads(),
    }
    if args.json:
        states = [
            {"name": state.name, "usable": state.usable, "reason": state.reason, "lacks": list(state.lacks)}
            for state in backends
        ]
        kernels = {"log_mel": {"usable": kernel is None, "reason": kernel or "usable"}}
        device = {"found": gpu is not None, "reason": no_gpu} if gpu is None else {"found": True, **asdict(gpu)}
        print_json({"system": system, "gpu": device, "backends": states, "cuda_kernels": kernels, "packages": packages})
        return _code(backends)
    for name, value in system.items():
        print(f"{name.ljust(14)}{value}")
    if gpu is None:
        _print_state("GPU", False, [no_gpu])
    else:
        memory = f"{gpu.memory_bytes / (1 << 30):.0f} GiB"
        print(
            f"{'GPU'.ljust(14)}{gpu.name}, compute capability {gpu.compute_capability}, {memory}, driver {gpu.driver}, "
            f"CUDA {gpu.cuda}"
        )
    print("\nbackends, and what they lack")
    for state in backends:
        lacks = ["a GPU, see above" if lack == no_gpu else lack for lack in state.lacks]
        _print_state(state.name, state.usable, lacks or [state.reason])
    lacking = "a GPU, see above" if kernel is not None and gpu is None else kernel
    _print_state("log-Mel kernel", kernel is None, [lacking or "ready"])
    print()
    rows = [[name, version or "-", "" if version else _NEEDED_FOR.get(name, "")] for name, version in packages.items()]
    print_table(["package", "version", "needed for"], rows)
    return _code(backends)


def _code(backends: Sequence[BackendStatus]) -> int:
    return 0 if any(state.usable for state in backends) else 1


def _gpu(device: int) -> tuple[Gpu | None, str]:
    try:
        return find_gpu(device), ""
    except BackendError as error:
        return None, str(error)


def _print_state(name: str, usable: bool, lines: Sequence[str]) -> None:
    """A name, whether it can be used, and facts with their fixes, each on a line of its own."""
    mark = f"{name.ljust(14)} {'yes' if usable else 'no '} "
    for text in lines:
        fact, _, fix = text.partition("; ")
        print(f"{mark} {fact}")
        mark = " " * len(mark)
        if fix:
            print(f"{mark}   -> {fix}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
