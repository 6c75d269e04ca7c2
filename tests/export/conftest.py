"""Random checkpoints of unit gain and their exported towers, made once per size, for all workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import onnxruntime as ort
import pytest

from claprt_export import graph
from claprt_export.checkpoint import load_checkpoint
from claprt_export.random_checkpoint import save_random_checkpoint
from tests.export.helpers import Exported
from tests.once import made_once


@pytest.fixture(scope="session")
def exported_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """`exported_files(size, fusion)`: a directory with `checkpoint`, audio.fp32.onnx and text.fp32.onnx. Read only."""

    def files(size: str, fusion: bool) -> Path:
        def make(directory: Path) -> None:
            directory.mkdir()
            checkpoint = load_checkpoint(str(save_random_checkpoint(directory / "checkpoint", size, fusion)))
            graph.export_audio_tower(checkpoint, directory / "audio.fp32.onnx")
            graph.export_text_tower(checkpoint, directory / "text.fp32.onnx")

        return made_once(tmp_path_factory, f"{size}-{'fused' if fusion else 'unfused'}", make)

    return files


@pytest.fixture(scope="session")
def exported(exported_files: Callable[[str, bool], Path]) -> Callable[[str, bool], Exported]:
    """`exported(size, fusion)`: the random checkpoint of that size, exported."""

    @lru_cache(maxsize=1)  # full-size models are large: keep one
    def make(size: str, fusion: bool) -> Exported:
        directory = exported_files(size, fusion)
        audio, text = (
            ort.InferenceSession(str(directory / f"{tower}.fp32.onnx"), providers=["CPUExecutionProvider"])
            for tower in ("audio", "text")
        )
        return Exported(load_checkpoint(str(directory / "checkpoint")), directory, audio, text)

    return make
