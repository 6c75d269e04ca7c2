"""Sounds for tests: noise, hours that are generated while they are read; and how to read one, or be refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from claprt.audio_io import AudioInput, open_audio
from claprt.audio_source import AudioSource
from claprt.errors import AudioError


def noise(samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Gaussian noise, about -20 dB: float32 (samples,), or (samples, channels)."""
    shape = samples if channels == 1 else (samples, channels)
    wave: np.ndarray = (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)
    return wave


class Generated(AudioSource):
    """A sound made while it is read: `samples` of a function of their index; `lengths` to change between passes."""

    def __init__(self, *lengths: int, rate: int = 1_000) -> None:
        super().__init__("generated", rate)
        self.lengths = list(lengths)
        self.passes = 0

    @staticmethod
    def at(start: int, stop: int) -> np.ndarray:
        index = np.arange(start, stop, dtype=np.uint64)
        scrambled = (index * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)  # 24 pseudo-random bits
        wave: np.ndarray = ((scrambled.astype(np.float32) / np.float32(1 << 23)) - np.float32(1)) * np.float32(0.5)
        return wave

    def _decode(self) -> Iterator[np.ndarray]:
        length = self.lengths[min(self.passes, len(self.lengths) - 1)]
        self.passes += 1
        for start in range(0, length, 65_536):
            yield self.at(start, min(start + 65_536, length))[:, None]


def read(clip: AudioInput, sampling_rate: int | None = None) -> np.ndarray:
    with open_audio(clip, sampling_rate) as source:
        return np.concatenate(list(source.blocks()))


def refused(clip: Any, sampling_rate: Any = None) -> str:
    """The one-line message of the AudioError that a clip is refused with."""
    with pytest.raises(AudioError) as caught:
        read(clip, sampling_rate)
    message = str(caught.value)
    assert "\n" not in message
    return message
