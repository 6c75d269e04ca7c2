"""ONNX Runtime's CUDA provider: a tower on a GPU that needs no engine to be built."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from claprt.engines.device import Shape
from claprt.engines.ort import check_tower, first_line
from claprt.engines.paths import utf8_path
from claprt.errors import BackendError, BundleError, ClaprtWarning

_PROVIDER = "CUDAExecutionProvider"
_TYPES = {
    "input_features": np.dtype(np.float32),
    "is_longer": np.dtype(np.bool_),
    "input_ids": np.dtype(np.int64),
    "attention_mask": np.dtype(np.int64),
}
# What a batch may be: there is nothing to build for it, so these only say how memory is asked for.
STEPS = (1, 8, 64)
_TOKENS = 77  # of a row, on average at most
_ERRORS_ONLY = 3
# What it says when the GPU's memory is short: its own arena, CUDA, cuBLAS, cuDNN.
_MEMORY = re.compile(r"failed to allocate memory|out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED", re.IGNORECASE)
_LIBRARIES = "it needs CUDA and cuDNN of its version: pip install 'onnxruntime-gpu[cuda,cudnn]'"
_OF_WEIGHT = {
    *(
        "Attention",
        "BiasGelu",
        "Conv",
        "Erf",
        "FastGelu",
        "FusedMatMul",
        "Gelu",
        "Gemm",
        "LayerNormalization",
        "MatMul",
    ),
    *("MatMulInteger", "QLinearMatMul", "SkipLayerNormalization", "Softmax"),
}
_preloading = threading.Lock()
# A graph of one Identity of a float: `onnx.helper` made it.
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02"
    "080142040a00100d"
)


@cache
def why_unusable(device: int = 0) -> str | None:
    """Why ONNX Runtime cannot compute on a GPU here; None if it can. It lists providers that do not start."""
    try:
        import onnxruntime as ort
    except Exception as error:  # a broken binary wheel raises whatever the loader says
        return f"onnxruntime cannot be imported: {first_line(error)}; pip install 'claprt[gpu]'"
    if _PROVIDER not in ort.get_available_providers():
        return (
            f"onnxruntime {ort.__version__} is without CUDA; pip uninstall onnxruntime, then pip install 'claprt[gpu]' "
            "(the two share one module)"
        )
    try:
        start_session(ort, _IDENTITY, {"device_id": str(device)})
    except BackendError as error:
        return str(error)
    return None


def start_session(ort: Any, graph: str | bytes, options: Mapping[str, str]) -> Any:
    """A session on the CUDA provider, or an error: ONNX Runtime itself would go on without it.

    Raises:
        BackendError: the provider does not start.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    missing = _preload(ort)
    if missing:
        raise BackendError(f"onnxruntime {ort.__version__} lacks libraries: {', '.join(missing)}; {_LIBRARIES}")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    made = ort.InferenceSession(graph, settings, providers=[(_PROVIDER, dict(options))])
    if made.get_providers()[0] != _PROVIDER:
        raise BackendError(f"onnxruntime {ort.__version__} cannot start CUDA; {_LIBRARIES}")
    left = left_on_cpu(made)
    if left:
        named = ", ".join(f"{count} {operation}" for operation, count in left.items())
        warnings.warn(
            f"onnxruntime {ort.__version__} computes a part of the graph on the CPU: {named}; another version may have "
            "them for CUDA",
            ClaprtWarning,
            stacklevel=2,
        )
    return made


def left_on_cpu(session: Any) -> dict[str, int]:
    """Operations of weight that a session leaves to the CPU, and how many of each; {} if it cannot be asked.

    ONNX Runtime gives a provider what it has no kernel for to the CPU, and says so in its log alone. Arithmetic on
    shapes belongs there.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):  # not every version can say
        return {}
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
        if node.op_type in _OF_WEIGHT
    )


def _preload(ort: Any) -> tuple[str, ...]:
    """Load CUDA and cuDNN from where pip put them, once. Returns what is missing, which is only printed there."""
    with _preloading:  # standard output is everybody's
        return _preloaded(ort)


@cache
def _preloaded(ort: Any) -> tuple[str, ...]:
    if not hasattr(ort, "preload_dlls"):
        return ()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    # With their directory it tells of a first try, of pip's files. What counts is whether the loader then finds them.
    return tuple(re.findall(r"^Failed to load ([^/\s]+):", said.getvalue(), re.MULTILINE))


class OrtCudaTower:
    """A graph on the CUDA provider. See `DeviceTower`. Each slot has a session of its own, with the weights."""

    def __init__(
        self,
        launcher: Any,
        files: Sequence[Path],
        inputs: tuple[str, ...],
        dim: int,
        limits: Mapping[str, Shape],
        steps: tuple[int, ...] = STEPS,
    ) -> None:
        """Describe the tower; the graph is loaded with each slot.

        Args:
            launcher: of `claprt_kernels`.
            files: path of the ONNX file, then those of weights beside it.
            inputs: the inputs that the bundle format gives this tower.
            dim: length of the vectors.
            limits: largest shape of a row of each input.
            steps: batches, ascending; memory for the last one is taken.
        """
        import onnxruntime as ort

        self.launcher, self.ort, self._graph, self._limits = launcher, ort, files[0], dict(limits)
        self._steps = steps
        self._inputs, self.dim = {name: _TYPES[name] for name in inputs}, dim

    @property
    def name(self) -> str:
        """See `DeviceTower`."""
        return f"onnxruntime {self.ort.__version__}, CUDA"

    @property
    def inputs(self) -> Mapping[str, np.dtype[Any]]:
        """See `DeviceTower`."""
        return self._inputs

    @property
    def steps(self) -> tuple[int, ...]:
        """See `DeviceTower`."""
        return self._steps

    def rows(self, shapes: Mapping[str, Shape], most: int) -> int:
        """See `DeviceTower`. A run of long texts has fewer of them."""
        tokens = shapes["input_ids"][0] if "input_ids" in shapes else 1
        return max(1, min(most, _TOKENS * most // tokens))

    def largest(self, most: int) -> Mapping[str, Shape]:
        """See `DeviceTower`."""
        if "input_ids" in self._limits:
            return {name: (max(_TOKENS * most, *shape),) for name, shape in self._limits.items()}
        return {name: (most, *shape) for name, shape in self._limits.items()}

    def context(self, stream: Any) -> OrtCudaContext:
        """See `DeviceTower`."""
        return OrtCudaContext(self, stream)

    def session(self, stream: Any) -> Any:
        """The graph, loaded to compute on a stream.

        Raises:
            BackendError: the provider does not start.
            BundleError: the file is not a graph of this tower.
            DeviceMemoryError: there is not enough memory on the GPU for the weights.
        """
        from claprt_kernels import DeviceMemoryError

        options = {
            "device_id": str(self.launcher.device),
            "user_compute_stream": str(self.launcher.handle(stream)),
            "use_tf32": "0",  # FP32 is FP32
        }
        try:
            with utf8_path(self._graph) as path:
                made = start_session(self.ort, path, options)
        except BackendError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no public base class
            if _MEMORY.search(str(error)):
                raise DeviceMemoryError(f"{self.name}: loading the graph: {first_line(error)}") from error
            raise BundleError(
                f"onnxruntime {self.ort.__version__} cannot load the graph on CUDA: {self._graph}: {first_line(error)}"
                "; build the bundle again"
            ) from error
        check_tower(made, self._graph, tuple(self._inputs), self.dim)
        return made


class OrtCudaContext:
    """See `DeviceContext`."""

    def __init__(self, tower: OrtCudaTower, stream: Any) -> None:
        self._tower, self._session = tower, tower.session(stream)
        self._stream = stream  # the session uses it: it must live as long
        self._output = self._session.get_outputs()[0].name
        self._options = tower.ort.RunOptions()
        # The stream is ours: whoever needs the result waits for it there.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, shapes: Mapping[str, Shape], inputs: Mapping[str, int], output: int) -> None:
        """See `DeviceContext`."""
        from claprt_kernels import DeviceMemoryError

        tower, device = self._tower, self._tower.launcher.device
        binding = self._session.io_binding()
        for name, shape in shapes.items():
            binding.bind_input(name, "cuda", device, tower.inputs[name].type, list(shape), inputs[name])
        rows = next(iter(shapes.values()))[0]
        binding.bind_output(self._output, "cuda", device, np.float32, [rows, tower.dim], output)
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            if _MEMORY.search(str(error)):
                raise DeviceMemoryError(f"{tower.name}: {first_line(error)}") from error
            raise BackendError(f"{tower.name} failed on inputs of {dict(shapes)}: {first_line(error)}") from error
