"""Procedurally made sounds: a kind and a seed give a clip, the same on every call.

The demo checkpoints were trained on these sounds. They also serve wherever a labelled clip is
needed and no recording is at hand: verification, calibration, tests, demos. NumPy only.

    >>> from claprt_export.demo.sounds import render
    >>> clip = render("siren", seed=7)          # float32 (n,), 48 kHz, within [-1, 1]
"""

from __future__ import annotations

import zlib

import numpy as np

from .recipes import RECIPES
from .synthesis import SAMPLING_RATE, Array, Rng, band_noise, log_uniform, samples, uniform

__all__ = ["KINDS", "SAMPLING_RATE", "render"]

KINDS: tuple[str, ...] = tuple(RECIPES)
"""The label of every kind, e.g. "siren". The order is fixed: it is the class index."""

_BACKGROUND_SECONDS = 2.0


def render(kind: str, seed: int, duration: float | None = None) -> Array:
    """Make one clip.

    kind: one of `KINDS`.
    seed: any non-negative integer. Pitch, tempo, timbre, level and background noise follow from
        it; two seeds give two different clips.
    duration: seconds, greater than 0. None draws what suits the kind, 1 to 10 s (kinds that
        live in a slow rhythm start at 3 or 5 s). Clips longer than 10 s are fine.

    Returns float32 mono (round(duration * 48000),) within [-1, 1], at 48 kHz. It depends on
    (kind, seed, duration) only.

    Raises ValueError for an unknown kind, a negative seed or a duration that is not positive.
    """
    if kind not in RECIPES:
        raise ValueError(f"Unknown kind of sound {kind!r}. Choose one of: {', '.join(KINDS)}.")
    if seed < 0:
        raise ValueError(f"The seed must not be negative, but it is {seed}.")
    recipe = RECIPES[kind]
    # the label's checksum keeps kinds apart, so adding a kind never changes the others
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed])
    drawn = uniform(rng, *recipe.durations)
    if duration is None:
        duration = drawn
    elif not duration > 0:
        raise ValueError(f"The duration must be greater than 0 s, but it is {duration}.")
    n = samples(duration)
    clip = recipe.make(rng, n)
    clip = clip / np.float32(np.abs(clip).max() + 1e-9)
    clip = clip + _background(rng, clip)
    level = log_uniform(rng, 0.1, 0.95)
    clip *= np.float32(level / (np.abs(clip).max() + 1e-9))
    return clip.astype(np.float32, copy=False)


def _background(rng: Rng, clip: Array) -> Array:
    """Room noise 20 to 60 dB below the clip's RMS, from dull to bright; same length as it."""
    n = len(clip)
    snr = uniform(rng, 20, 60)
    # a short stretch is repeated: at this level the ear cannot tell, and it saves an FFT
    noise = band_noise(rng, samples(_BACKGROUND_SECONDS), 40, 12_000, tilt=uniform(rng, 0.1, 0.9))
    rms = np.sqrt(np.mean(clip**2))
    return np.resize(noise, n) * np.float32(rms * 10 ** (-snr / 20))
