"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.errors import BackendError, BundleError

_ERRORS_ONLY = 3


def default_threads() -> int:
    """Cores this process may use (its CPU affinity), at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


class OrtEngine:
    """A graph in ONNX Runtime's CPU provider. Thread-safe: `run` may be called from several threads."""

    def __init__(self, graph: Path, inputs: tuple[str, ...], dim: int, threads: int | None = None) -> None:
        """Load `graph`.

        Args:
            graph: path of the ONNX file; external weights lie beside it.
            inputs: the inputs that the bundle format gives this tower.
            dim: length of the vectors that must come out.
            threads: threads of one run; None takes the cores that this process may use.

        Raises:
            BundleError: the file is not a graph of this tower.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or default_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Masked attention scores must not cost subnormal arithmetic, whoever wrote the graph.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        try:
            # Its paths must be UTF-8; from another one it can only take the bytes (a graph of one file, then).
            model = str(graph) if _is_utf8(graph) else graph.read_bytes()
            self._session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise BundleError(
                f"ONNX Runtime {ort.__version__} cannot load the graph: {graph}: {_first_line(error)}; "
                "build the bundle again, or install a newer onnxruntime"
            ) from error
        found = tuple(value.name for value in self._session.get_inputs())
        outputs = self._session.get_outputs()
        if found != inputs or len(outputs) != 1 or outputs[0].shape[-1:] != [dim]:
            raise BundleError(
                f"the graph is not the tower that the manifest describes: {graph}: inputs {found}, outputs "
                f"{[value.shape for value in outputs]}; expected {inputs} and one output of {dim}"
            )
        self._output: str = outputs[0].name
        self._inputs = inputs

    @property
    def inputs(self) -> tuple[str, ...]:
        """See `Engine.inputs`."""
        return self._inputs

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        try:
            result: NDArray[np.float32] = self._session.run([self._output], dict(inputs))[0]
        except Exception as error:
            shapes = {name: value.shape for name, value in inputs.items()}
            raise BackendError(f"ONNX Runtime failed on inputs of shape {shapes}: {_first_line(error)}") from error
        return result


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
