"""The other side: transformers, and the graph that torch.onnx.export makes of it, both as they come.

Subnormal floats make this a trap. ONNX Runtime's `session.set_denormal_as_zero` also sets the thread that creates the
session, so transformers measured in the same process would run with subnormals flushed, which its users do not have
(it is faster so). `as_it_comes` and `flushed` give each side the state of a process of its own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from claprt_bench.errors import BenchError
from claprt_bench.measure import Side
from claprt_export.checkpoint import Checkpoint

TEXT_TOKENS = 77  # what CLAP was trained with, and what its original code pads every text to
OPSET = 20  # the exporter's default today, and the opset of our own graphs


class Reference:
    """ClapFeatureExtractor, the tokenizer and ClapModel in eager mode, as `from_pretrained` returns them."""

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        torch.set_num_threads(threads)
        self.checkpoint = checkpoint

    def embed_audio(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Waveforms (samples,) at the model's rate -> unit vectors (n, dim), in one batch."""
        inputs = self.checkpoint.feature_extractor(
            list(waveforms), sampling_rate=self.checkpoint.log_mel.sampling_rate, return_tensors="pt"
        )
        with torch.inference_mode():
            return np.asarray(self.checkpoint.model.get_audio_features(**inputs).pooler_output.numpy())

    def log_mel(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """One waveform -> log-Mel (frames, mels)."""
        extracted = self.checkpoint.feature_extractor(
            waveform, sampling_rate=self.checkpoint.log_mel.sampling_rate, return_tensors="np"
        )
        return np.asarray(extracted["input_features"][0, 0], dtype=np.float32)

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> unit vectors (n, dim), in one batch padded to 77 tokens."""
        inputs = self.checkpoint.tokenizer(
            list(texts), padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            return np.asarray(self.checkpoint.model.get_text_features(**inputs).pooler_output.numpy())


class _AudioTower(torch.nn.Module):
    """`get_audio_features` as a module of one input and one output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model.get_audio_features(input_features=input_features).pooler_output  # type: ignore[operator]
        return output


def export_stock(checkpoint: Checkpoint, path: Path) -> None:
    """Export transformers' own audio tower as the exporter does it: `input_features` -> `audio_embeds`."""
    log_mel = checkpoint.log_mel
    features = torch.full((2, 1, log_mel.frames, log_mel.n_mels), -30.0)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _AudioTower(checkpoint.model).eval(),
                (features,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"input_features": {0: torch.export.Dim("batch", min=1)}},
                input_names=["input_features"],
                output_names=["audio_embeds"],
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    program.save(str(path))


def as_it_comes(side: Side) -> Side:
    """Let a side compute with subnormals: the state of every process that nobody changed."""

    def run(index: int) -> object:
        torch.set_flush_denormal(False)
        return side(index)

    return run


def flushed(side: Side) -> Side:
    """Let a side flush subnormals: what a process has in which ONNX Runtime was told to."""

    def run(index: int) -> object:
        torch.set_flush_denormal(True)
        return side(index)

    return run


def check_subnormals(threads: int) -> None:
    """Check that `as_it_comes` is what it says in all of torch's threads.

    A thread inherits the state of the one that started it: torch's must have been started before any ONNX session.

    Raises:
        BenchError: some thread flushes them.
    """
    torch.set_flush_denormal(False)
    values = torch.full((threads * 4_000_000,), 1e-40) * 0.5
    lost = int((values.numpy() == 0).sum())
    if lost:
        raise BenchError(
            f"transformers would not run as it comes: {lost} of {values.numel()} subnormal products were flushed to "
            "zero; load and run it before any ONNX Runtime session"
        )
