"""What the export tests share besides fixtures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.log_mel import LogMel
from claprt_export.checkpoint import Checkpoint


@dataclass(frozen=True)
class Exported:
    """A checkpoint and its two graphs in ONNX Runtime."""

    checkpoint: Checkpoint
    directory: Path
    audio: ort.InferenceSession
    text: ort.InferenceSession


def features_of(checkpoint: Checkpoint, files: list[Path], count: int) -> NDArray[np.float32]:
    """Log-Mel inputs, (count, channels, frames, mels), of clips of real recordings; fused ones with true crops."""
    spec, log_mel = checkpoint.log_mel, LogMel(checkpoint.log_mel)
    channels = 4 if checkpoint.fusion else 1
    result: list[NDArray[np.float32]] = []
    for recipe in ("fusion", "windows") if checkpoint.fusion else ("windows",):
        for file in files:
            with open_audio(file) as source:
                few = itertools.islice(recipes.clips(source, spec, recipe, channels), 3)
                result += [recipes.features(clip, log_mel, channels) for clip in few]
    assert len(result) >= count
    return np.stack(result[:count])
