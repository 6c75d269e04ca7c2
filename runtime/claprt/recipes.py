"""From one sound to the clips that a model takes, always the same way.

transformers chooses at random and lets a clip's batch neighbours matter; here the same sound gives the same clips.

head      The first clip (10 s). transformers' "rand_trunc" crops a random 10 s instead. Decoding stops there.
windows   Clips of 10 s every 5 s, and a last one that ends where the sound ends unless the one before already does.
          transformers has nothing like it; the caller averages the unit vectors.
fusion    For models with feature fusion, as transformers' "fusion": the whole sound's log-Mel shrunk to one clip's
          frames, and three clips of it from the front, middle and back. transformers draws each crop's start at random
          from its third of the possible starts; here it is the middle element of that third (the later of two). A sound
          that fits one clip is not "longer" (transformers declares a random one longer when none is), and its log-Mel
          fills all four channels; so does that of a sound which is longer by less than a hop, computed on all of it.

A clip holds waveform, not log-Mel, so that another implementation may compute the log-Mel; `features` is NumPy's way.
Memory does not grow with the sound: the largest thing kept is 90 s of mono (fusion), so hours stream in ~50 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.audio_source import AudioSource
from claprt.clip import Clip, FusionClip, Samples, WaveClip, WholeClip, features, wave_clip
from claprt.errors import OptionError
from claprt.fusion import fusion_clip
from claprt.resample import resample_blocks
from claprt.spec import RECIPES, LogMelSpec


def clips(
    source: AudioSource,
    spec: LogMelSpec,
    recipe: str,
    channels: int = 1,
    *,
    keep_int16: bool = False,
    keep_whole: int = 0,
) -> Iterator[Clip]:
    """The clips of a sound, in order of time, read as they are asked for.

    Args:
        source: the sound; it is read from its beginning.
        spec: the model's log-Mel specification.
        recipe: one of `RECIPES`.
        channels: of the model's log-Mel input: 1, or 4 for a model with fusion.
        keep_int16: give mono int16 sounds of the model's rate as int16, which `features` does not take.
        keep_whole: with the recipe "fusion", give longer sounds of up to so many samples as a `WholeClip`, which
            `features` does not take.

    Returns:
        An iterator of at least one clip; "head" and "fusion" give exactly one.

    Raises:
        OptionError: at once, for an unknown recipe, or "fusion" for a model without it.
        AudioError: while reading, for a sound that cannot be used.
    """
    if channels not in (1, 4):
        raise OptionError(f"channels is {channels!r}; a CLAP model takes 1, or 4 with fusion")
    check_recipe(recipe, fusion=channels == 4)
    int16 = keep_int16 and source.is_int16 and source.sampling_rate == spec.sampling_rate
    samples: Iterator[Samples] = source.int16_blocks() if int16 else _resampled(source, spec)
    if recipe == "fusion":
        return _fusion(source, samples, spec, keep_whole)
    if recipe == "head":
        return _head(samples, spec)
    return _windows(samples, spec, np.dtype(np.int16 if int16 else np.float32))


def check_recipe(recipe: str, fusion: bool) -> None:
    """Check that a recipe exists and fits a model with or without fusion.

    Raises:
        OptionError: an unknown recipe, or "fusion" for a model without it.
    """
    if recipe not in RECIPES:
        raise OptionError(f"unknown recipe: {recipe!r} does not exist; use one of {', '.join(RECIPES)}")
    if recipe == "fusion" and not fusion:
        raise OptionError(
            "the recipe 'fusion' needs a checkpoint with fusion: this one has no fusion; use 'windows' or 'head'"
        )


def _resampled(source: AudioSource, spec: LogMelSpec) -> Iterator[NDArray[np.float32]]:
    return resample_blocks(source.blocks(), source.sampling_rate, spec.sampling_rate)


def _head(samples: Iterator[Samples], spec: LogMelSpec) -> Iterator[Clip]:
    parts: list[Samples] = []
    missing = spec.clip_samples
    for block in samples:
        parts.append(block[:missing])
        missing -= parts[-1].size
        if not missing:
            break
    yield wave_clip(*parts)


def _windows(samples: Iterator[Samples], spec: LogMelSpec, dtype: np.dtype[Any]) -> Iterator[Clip]:
    size = spec.clip_samples
    hop = size // 2
    window = np.empty(size, dtype=dtype)
    filled = 0
    last: WaveClip | None = None
    for block in samples:
        while block.size:
            part, block = block[: size - filled], block[size - filled :]
            window[filled : filled + part.size] = part
            filled += part.size
            if filled == size:
                last = wave_clip(window)
                yield last
                window[: size - hop] = window[hop:].copy()
                filled = size - hop
    if last is None:
        yield wave_clip(window[:filled])
    elif filled > size - hop:
        # The tail reaches back to just after `last` began: what the window no longer holds comes from there.
        missing = size - filled
        yield wave_clip(last.waveform[hop - missing : hop], window[:filled])


def _fusion(source: AudioSource, samples: Iterator[Samples], spec: LogMelSpec, keep_whole: int) -> Iterator[Clip]:
    if keep_whole:
        whole = _all(samples, keep_whole)
        if whole is not None:
            fits = spec.frames_of(whole.size) <= spec.frames
            whole.setflags(write=False)
            yield WaveClip(whole) if fits else WholeClip(whole)
            return
    yield fusion_clip(source, spec)


def _all(samples: Iterator[Samples], most: int) -> Samples | None:
    """A stream as one array; None if it has more than `most` samples."""
    parts, size = [], 0
    for block in samples:
        parts.append(block)
        size += block.size
        if size > most:
            return None
    return np.concatenate(parts)


__all__ = ["RECIPES", "Clip", "FusionClip", "WaveClip", "check_recipe", "clips", "features"]
