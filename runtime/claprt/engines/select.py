"""Which backends exist, which can run here and why not, and which one `auto` takes."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from claprt.errors import BackendError, OptionError

# In the order in which "auto" prefers them.
BACKENDS = ("tensorrt", "tensorrt-rtx", "ort-cuda", "ort-cpu")


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here.

    Attributes:
        name: of the backend.
        usable: whether it can run.
        reason: GPU and versions where it can; all that is missing, and how to get it, where it can not.
        lacks: the same, one by one, each "fact; fix".
    """

    name: str
    usable: bool
    reason: str
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen, and why not those that "auto" likes better: (name, reason) pairs."""

    backend: str
    passed_over: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        reasons = "".join(f"; not {name}: {reason}" for name, reason in self.passed_over)
        return f"{self.backend}{reasons}"


def backend_status(name: str, device: int = 0) -> BackendStatus:
    """The state of one backend on this machine. Never raises for a known name.

    Args:
        name: one of `BACKENDS`.
        device: CUDA's number of the GPU.

    Raises:
        OptionError: there is no backend of that name.
    """
    if name not in BACKENDS:
        raise OptionError(f"unknown backend: {name!r}; choose one of auto, {', '.join(BACKENDS)}")
    if name == "ort-cpu":
        return _on_cpu()
    lacks: list[str] = []
    # The driver first: it is asked quickly, and without one the libraries are not worth loading.
    found = [_or_lack(lacks, lambda: _gpu(device))]
    found += [_or_lack(lacks, lambda: _library(name, load=not lacks)), _or_lack(lacks, _launcher)]
    if not lacks and name == "ort-cuda":
        from claprt.engines.ort_cuda import why_unusable

        reason = why_unusable(device)
        if reason is not None:
            lacks.append(reason)
    return BackendStatus(name, not lacks, "; ".join(lacks) or ", ".join(found), tuple(lacks))


def choose_backend(
    name: str, device: int = 0, why_not_ready: Callable[[str], str | None] = lambda backend: None
) -> Choice:
    """The backend that `name` stands for; "auto" takes the first usable one.

    Args:
        name: of a backend, or "auto".
        device: CUDA's number of the GPU.
        why_not_ready: why a usable backend cannot run what is wanted (there is no engine of it, say); None if it can.

    Raises:
        OptionError: no backend of that name.
        BackendError: it cannot run here, with the reason; for "auto", the reasons of all.
    """
    passed_over: list[tuple[str, str]] = []
    for candidate in BACKENDS if name == "auto" else (name,):
        state = backend_status(candidate, device)
        reason = why_not_ready(candidate) if state.usable else state.reason
        if reason is None:
            return Choice(candidate, tuple(passed_over))
        passed_over.append((candidate, reason))
    if name != "auto":
        raise BackendError(f"the backend cannot run here: {name}: {passed_over[0][1]}")
    raise BackendError(f"no backend can run here: {'; '.join(': '.join(pair) for pair in passed_over)}")


def _on_cpu() -> BackendStatus:
    name = "ort-cpu"
    if importlib.util.find_spec("onnxruntime") is None:
        return _lacking(name, "onnxruntime is not installed; pip install 'claprt[cpu]'")
    try:
        version = importlib.import_module("onnxruntime").__version__
    except Exception as error:  # a broken binary wheel raises whatever the loader says
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return _lacking(name, f"onnxruntime cannot be imported: {reason}; pip install --force-reinstall onnxruntime")
    return BackendStatus(name, True, f"onnxruntime {version}")


def _lacking(name: str, lack: str) -> BackendStatus:
    return BackendStatus(name, False, lack, (lack,))


def _or_lack(lacks: list[str], ask: Callable[[], str]) -> str:
    try:
        return ask()
    except BackendError as error:
        lacks.append(str(error))
        return ""


def _library(backend: str, load: bool) -> str:
    if backend == "ort-cuda":
        if importlib.util.find_spec("onnxruntime") is None:
            raise BackendError("onnxruntime is not installed; pip install 'claprt[gpu]'")
        return "onnxruntime"
    from claprt.engines.tensorrt.library import installed_module, load_library

    return load_library(backend).title if load else installed_module(backend)


def _gpu(device: int) -> str:
    from claprt.gpu import find_gpu

    return find_gpu(device).name


def _launcher() -> str:
    for package, module in (("cuda-bindings", "cuda.bindings"), ("PyCUDA", "pycuda")):
        try:
            if importlib.util.find_spec(module) is not None:
                return package
        except ModuleNotFoundError:  # a package above it  # noqa: PERF203
            continue
    raise BackendError("neither cuda-bindings nor PyCUDA is installed; pip install 'claprt[gpu]'")
