"""Which backends exist, which can run here and why not, and which one `auto` takes."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claprt.engines.base import Engine
from claprt.errors import BackendError, OptionError

# In the order in which "auto" prefers them.
BACKENDS = ("tensorrt", "tensorrt-rtx", "ort-cuda", "ort-cpu")


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here, and the reason: a version where it can, what is missing where it can not."""

    name: str
    usable: bool
    reason: str


def backend_status(name: str) -> BackendStatus:
    """The state of one backend on this machine. Never raises for a known name.

    Raises:
        OptionError: there is no backend of that name.
    """
    if name not in BACKENDS:
        raise OptionError(f"unknown backend: {name!r}; choose one of auto, {', '.join(BACKENDS)}")
    if name != "ort-cpu":
        return BackendStatus(name, False, "not in this version of claprt")
    if importlib.util.find_spec("onnxruntime") is None:
        return BackendStatus(name, False, "onnxruntime is not installed: pip install 'claprt[cpu]'")
    try:
        version = importlib.import_module("onnxruntime").__version__
    except Exception as error:  # a broken binary wheel raises whatever the loader says
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return BackendStatus(name, False, f"onnxruntime cannot be imported: {reason}")
    return BackendStatus(name, True, f"onnxruntime {version}")


def choose_backend(name: str) -> str:
    """The backend that `name` stands for; "auto" takes the first usable one.

    Raises:
        OptionError: no backend of that name.
        BackendError: it cannot run here, with the reason; for "auto", the reasons of all.
    """
    if name == "auto":
        states = [backend_status(candidate) for candidate in BACKENDS]
        for state in states:
            if state.usable:
                return state.name
        reasons = "; ".join(f"{state.name}: {state.reason}" for state in states)
        raise BackendError(f"no backend can run here: {reasons}")
    state = backend_status(name)
    if not state.usable:
        raise BackendError(f"the backend cannot run here: {name}: {state.reason}")
    return name


def load_engine(backend: str, files: Sequence[Path], inputs: tuple[str, ...], dim: int, threads: int | None) -> Engine:
    """Make the engine of one tower, of its graph and the files of its weights, with a backend of `choose_backend`."""
    if backend == "ort-cpu":
        from claprt.engines.ort import OrtEngine

        return OrtEngine(files, inputs, dim, threads)
    raise BackendError(f"the backend cannot run here: {backend}: {backend_status(backend).reason}")
