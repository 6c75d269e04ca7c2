"""Towers with random weights of unit gain, and what the tests of their variants run on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from claprt.engines.ort import quantizes_half
from claprt_export.checkpoint import Checkpoint
from claprt_export.demo import sounds
from claprt_export.on_cpu import written_out
from claprt_export.precision.data import Batch, text_batches, waveform_batches

TOWERS = ("audio", "fused", "text")
TEXTS = (
    "a dog barking",
    "rain",
    "Thunder rolls over the sea while a church bell strikes.",
    "engine " * 12,
    "naïve 你好",
)


@dataclass(frozen=True)
class Subject:
    """A tower, its FP32 graph, and batches of inputs with clearly different vectors."""

    name: str
    checkpoint: Checkpoint
    original: nn.Module
    path: Path
    batches: Sequence[Batch]

    @property
    def module(self) -> Any:
        """A copy of the tower, to be changed at will."""
        return copy.deepcopy(self.original)

    @property
    def graph(self) -> onnx.ModelProto:
        return onnx.load(str(self.path))

    @property
    def vectors(self) -> NDArray[np.float32]:
        return vectors_of(self.original, self.batches)


def audio_batches(checkpoint: Checkpoint) -> list[Batch]:
    """Log-Mel of sounds of several lengths; where the tower fuses, one is longer than a clip."""
    lengths = (10.0, 2.5, 24.0, 0.3, 7.0)
    waveforms = [sounds.render(kind, 31 + i, lengths[i % 5]) for i, kind in enumerate(sounds.KINDS[:5])]
    return waveform_batches(checkpoint, waveforms)


def batches_of(name: str, checkpoint: Checkpoint) -> list[Batch]:
    return text_batches(checkpoint, TEXTS) if name == "text" else audio_batches(checkpoint)


def vectors_of(module: Any, batches: Sequence[Batch]) -> NDArray[np.float32]:
    """(n, dim), by PyTorch."""
    with torch.no_grad():
        return np.asarray(torch.cat([module(*batch) for batch in batches]).numpy())


def run_onnx(model: onnx.ModelProto, batches: Sequence[Batch]) -> NDArray[np.float32]:
    """(n, dim), by ONNX Runtime, which may not rewrite the graph: what is tested is what stands in it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not quantizes_half():
        model = written_out(copy.deepcopy(model))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    rows = [session.run(None, dict(zip(names, map(Tensor.numpy, batch), strict=True)))[0] for batch in batches]
    return np.concatenate(rows)


def worst_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """1 - cosine of the worst row, in float64."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())


def assert_spread(vectors: NDArray[np.float32]) -> None:
    """Different inputs have different vectors; if not, no comparison proves anything."""
    cosines = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    assert cosines.mean() < 0.95, cosines
