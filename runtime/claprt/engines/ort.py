"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.engines.paths import utf8_path
from claprt.errors import BackendError, BundleError
from claprt.lazy import Lazy

_ERRORS_ONLY = 3
_QUANTIZES_HALF = (1, 30)
_CPU_INFO = Path("/proc/cpuinfo")


def default_threads() -> int:
    """Cores this process may use (its CPU affinity), at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def quantizes_half() -> bool:
    """Whether this ONNX Runtime quantizes FP16 right on a CPU, as the variant "int8" does everywhere.

    Before 1.30 its QuantizeLinear of FP16 cuts the fraction off instead of rounding (microsoft/onnxruntime#32452).
    """
    import onnxruntime as ort

    return tuple(int(part) for part in ort.__version__.split(".")[:2]) >= _QUANTIZES_HALF


class OrtEngine:
    """A graph in ONNX Runtime's CPU provider. Thread-safe: `run` may be called from several threads.

    The threads share the work of one run, which gives a single clip's vector soonest. Many clips are done sooner by as
    many runs side by side as there are threads, each on one thread: they never wait for each other, as the threads of
    one run do at every operator. Such runs go through `lane`, which has a session of its own.

    Each session is made when it is first needed. A process that needs both holds the packed weights twice (190 MB more
    for a full-size audio tower in FP32), and each run side by side has its own activations (40 MB).

    ONNX Runtime gives rows and columns of a product to threads, never parts of one sum, so that the number of threads
    does not change a bit of a vector.
    """

    def __init__(self, files: Sequence[Path], inputs: tuple[str, ...], dim: int, threads: int | None = None) -> None:
        """Describe the engine; the graph is loaded when it is first run.

        Args:
            files: path of the ONNX file, then those of weights beside it, if any.
            inputs: the inputs that the bundle format gives this tower.
            dim: length of the vectors that must come out.
            threads: threads of one run; None takes the cores that this process may use.

        Raises:
            BundleError: a file is not there.
        """
        self._files, self._graph, self._inputs, self._dim = tuple(files), files[0], inputs, dim
        self._threads = threads or default_threads()
        self._stamp = _stamp(self._files)
        self._session: Lazy[Any] = Lazy(self._load)
        self._lane = Lazy(self._make_lane)

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `Engine.inputs`."""
        return self._inputs

    @property
    def lanes(self) -> int:
        """See `Engine.lanes`: as many as there are threads."""
        return self._threads

    def lane(self) -> OrtEngine:
        """See `Engine.lane`: an engine of one thread; this one, if it has only one."""
        return self if self._threads == 1 else self._lane.get()

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        session = self._session.get()
        try:
            result: NDArray[np.float32] = session.run(None, dict(inputs))[0]
        except Exception as error:
            shapes = {name: value.shape for name, value in inputs.items()}
            raise BackendError(f"ONNX Runtime failed on inputs of shape {shapes}: {first_line(error)}") from error
        return result

    def _make_lane(self) -> OrtEngine:
        lane = OrtEngine(self._files, self._inputs, self._dim, threads=1)
        lane._stamp = self._stamp
        # Now, in the caller's thread: ONNX Runtime turns subnormals off in the thread that makes the process's first
        # session, and threads inherit that from the one that starts them.
        lane._session.get()
        return lane

    def _load(self) -> Any:
        import onnxruntime as ort

        if _stamp(self._files) != self._stamp:
            raise BundleError(f"the graph changed since the bundle was loaded: {self._graph}; load the bundle again")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Masked attention scores must not cost subnormal arithmetic, whoever wrote the graph.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if _saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            with utf8_path(self._graph) as path:
                session: Any = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load the graph: {self._graph}: {first_line(error)}; "
                "build the bundle again, or install a newer onnxruntime"
            ) from error
        check_tower(session, self._graph, self._inputs, self._dim)
        return session


def check_tower(session: Any, graph: Path, inputs: tuple[str, ...], dim: int) -> None:
    """Check that a session's graph has the inputs and the output of a tower.

    Raises:
        BundleError: it has others.
    """
    found = tuple(value.name for value in session.get_inputs())
    outputs = session.get_outputs()
    if found != inputs or len(outputs) != 1 or outputs[0].shape[-1:] != [dim]:
        raise BundleError(
            f"the graph is not the tower that the manifest describes: {graph}: inputs {found}, outputs "
            f"{[value.shape for value in outputs]}; expected {inputs} and one output of {dim}"
        )


def _saturates() -> bool:
    """Whether INT8 products would be wrong here: x86 without VNNI adds them up in 16 bits, clipped.

    The entry that avoids it makes weights unsigned. ONNX Runtime's header calls it effective on such processors alone,
    but it is on every x86, and where there is VNNI it only costs time (INT8 took half as long again).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = _CPU_INFO.read_text(encoding="utf-8", errors="replace").split()
    except OSError:  # not Linux: exact rather than fast
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def _stamp(files: Sequence[Path]) -> list[tuple[int, ...]]:
    """What tells files from others put in their place: two sessions of one engine must have the same weights."""
    stamps: list[tuple[int, ...]] = []
    for path in files:
        try:
            found = path.stat()
        except OSError as error:
            raise BundleError(f"the graph cannot be read: {path}: {error.strerror}; build the bundle again") from error
        stamps.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    return stamps


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for quoting in ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
