"""What a recipe hands over: the waveform of one clip, and how it becomes the model's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.log_mel import LogMel

Samples = NDArray[Any]  # float32 of full scale 1, or int16


@dataclass(frozen=True, eq=False)
class WaveClip:
    """One clip of plain waveform, not yet padded.

    Attributes:
        waveform: float32 (n,), read-only, mono, at the model's rate; 1 ≤ n ≤ clip_samples (or less than a hop more:
            see the fusion recipe). int16 where that was asked for and the sound is so.
    """

    waveform: Samples

    @property
    def is_longer(self) -> bool:
        """The model's `is_longer` input: never for plain waveform."""
        return False


@dataclass(frozen=True, eq=False)
class FusionClip:
    """A sound longer than one clip, for a model with fusion: only the samples under the frames that are needed.

    Row i below means the frame `samples[starts[i] : starts[i] + n_fft]`. The sound's ends are already mirrored, so the
    frames need no centring.

    Attributes:
        samples: float32 (n,), read-only, mono, at the model's rate.
        starts: int64 (rows,), ascending.
        low, high: int64 (frames,), rows that output frame t of the shrunk log-Mel lies between.
        weight: float32 (frames,), weight of `high`; `low` has 1 - weight.
        crops: first row of the front, middle and back crop, each `frames` consecutive rows.
    """

    samples: NDArray[np.float32]
    starts: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]
    crops: tuple[int, int, int]

    @property
    def is_longer(self) -> bool:
        """The model's `is_longer` input: always for a fusion clip."""
        return True


@dataclass(frozen=True, eq=False)
class WholeClip:
    """A sound longer than one clip, for a model with fusion, all of it: for who computes the four channels from that.

    Attributes:
        waveform: float32 or int16 (n,), read-only, mono, at the model's rate.
    """

    waveform: Samples

    @property
    def is_longer(self) -> bool:
        """The model's `is_longer` input: always."""
        return True


Clip = WaveClip | FusionClip | WholeClip


def wave_clip(*parts: Samples) -> WaveClip:
    """A clip with its own copy of the samples: sources may hand out views of the caller's array."""
    waveform = np.concatenate(parts)
    waveform.setflags(write=False)
    return WaveClip(waveform)


def features(clip: Clip, log_mel: LogMel, channels: int = 1) -> NDArray[np.float32]:
    """The model's log-Mel input for one clip.

    Args:
        clip: from `claprt.recipes.clips`; no `WholeClip`.
        log_mel: of the same spec.
        channels: of the model's input: 1, or 4 for a model with fusion.

    Returns:
        float32 (channels, frames, n_mels), decibels. Plain waveform fills every channel with the same log-Mel; a fusion
        clip gives the shrunk log-Mel, then the front, middle and back crop.
    """
    if isinstance(clip, WaveClip):
        assert clip.waveform.dtype == np.float32
        return np.repeat(log_mel.clip(clip.waveform)[None], channels, axis=0)
    assert isinstance(clip, FusionClip)
    mel = log_mel.gather(clip.samples, clip.starts)
    weight = clip.weight[:, None]
    out = np.empty((4, clip.low.size, mel.shape[1]), dtype=np.float32)
    out[0] = mel[clip.low] * (np.float32(1.0) - weight) + mel[clip.high] * weight
    for channel, first in enumerate(clip.crops, start=1):
        out[channel] = mel[first : first + clip.low.size]
    return out
