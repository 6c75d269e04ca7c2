"""Random checkpoints of unit gain and their exported towers, made once per size."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import onnxruntime as ort
import pytest

from claprt_export import graph
from claprt_export.checkpoint import load_checkpoint
from claprt_export.random_checkpoint import save_random_checkpoint
from tests.export.helpers import Exported


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Exported]:
    """`exported(size, fusion)`: the random checkpoint of that size, exported."""

    @lru_cache(maxsize=1)  # full-size models are large: keep one
    def make(size: str, fusion: bool) -> Exported:
        directory = tmp_path_factory.mktemp(f"{size}-{'fused' if fusion else 'unfused'}")
        checkpoint = load_checkpoint(str(save_random_checkpoint(directory / "checkpoint", size, fusion)))
        graph.export_audio_tower(checkpoint, directory / "audio.fp32.onnx")
        graph.export_text_tower(checkpoint, directory / "text.fp32.onnx")
        audio, text = (
            ort.InferenceSession(str(directory / f"{tower}.fp32.onnx"), providers=["CPUExecutionProvider"])
            for tower in ("audio", "text")
        )
        return Exported(checkpoint, directory, audio, text)

    return make
