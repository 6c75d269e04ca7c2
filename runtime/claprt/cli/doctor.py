"""`claprt doctor`."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from claprt._version import __version__
from claprt.cli.output import print_json, print_table
from claprt.engines import BACKENDS, backend_status
from claprt.engines.ort import default_threads

_REQUIRED = ("numpy", "tiktoken", "soundfile", "soxr", "tqdm")
_OPTIONAL = {
    "av": "sounds in MP4, WebM and other containers: pip install 'claprt[av]'",
    "torch": "claprt build: pip install 'claprt[export]'",
    "transformers": "claprt build: pip install 'claprt[export]'",
    "onnx": "claprt build: pip install 'claprt[export]'",
    "onnxscript": "claprt build: pip install 'claprt[export]'",
}


def run_doctor(args: argparse.Namespace) -> int:
    """Print what can run here; exit code 1 when no backend can."""
    from claprt_kernels import why_unavailable

    backends = [backend_status(name) for name in BACKENDS]
    kernel = why_unavailable()
    packages = {name: _version(name) for name in (*_REQUIRED, *_OPTIONAL)}
    system = {
        "claprt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "usable cores": default_threads(),
    }
    if args.json:
        states = [{"name": state.name, "usable": state.usable, "reason": state.reason} for state in backends]
        kernels = {"log_mel": {"usable": kernel is None, "reason": kernel or "usable"}}
        print_json({"system": system, "backends": states, "cuda_kernels": kernels, "packages": packages})
    else:
        for name, value in system.items():
            print(f"{name.ljust(14)}{value}")
        print()
        rows = [[state.name, "yes" if state.usable else "no", state.reason] for state in backends]
        print_table(["backend", "usable", "reason"], rows)
        print()
        print_table(["CUDA kernel", "usable", "reason"], [["log-Mel", "no" if kernel else "yes", kernel or ""]])
        print()
        rows = [
            [name, version or "-", "" if version else _OPTIONAL.get(name, "")] for name, version in packages.items()
        ]
        print_table(["package", "version", "needed for"], rows)
    return 0 if any(state.usable for state in backends) else 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
