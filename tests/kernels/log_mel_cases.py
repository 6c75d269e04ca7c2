"""What every log-Mel implementation is tried on, and how near to float64 it must come."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from claprt.spec import LogMelSpec
from claprt_kernels.reference import fusion_reference, log_mel_reference

RATE, CLIP = 48_000, 480_000
# Around the window, around its half, around a full clip, and longer.
LENGTHS = (1, 511, 513, 1_023, 1_025, 4_800, 158_400, CLIP // 2 + 1, CLIP - 1, CLIP, CLIP + 1, 37 * RATE + 11)

Samples = NDArray[np.int16]


def _seconds(samples: int) -> NDArray[np.float64]:
    return np.arange(samples) / RATE


def _noise(samples: int) -> NDArray[np.float64]:
    return np.random.default_rng(samples).standard_normal(samples) * 0.1


def _impulses(samples: int) -> NDArray[np.float64]:
    wave = np.zeros(samples)
    wave[[place for place in (0, 1, 511, 512, 240_000, samples - 513, samples - 1) if 0 <= place < samples]] = 1.0
    return wave


def _chirps(samples: int) -> NDArray[np.float64]:
    """A full-scale sweep up, with a second one down, 80 dB below it in every frame."""
    t = _seconds(samples)
    return np.sin(2 * np.pi * (50 * t + 690 * t**2)) + 1e-4 * np.sin(2 * np.pi * (13_000 * t - 600 * t**2))


def _onset(samples: int) -> NDArray[np.float64]:
    """Silence, then a full-scale tone: a frame beside one that is 100 dB louder."""
    return np.where(np.arange(samples) < samples // 2, 0.0, np.sin(2 * np.pi * 440 * _seconds(samples)))


SIGNALS: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "noise": _noise,
    "impulses": _impulses,
    "chirps": _chirps,
    "silence": np.zeros,
    "square": lambda samples: np.where(np.sin(2 * np.pi * 440 * _seconds(samples)) < 0, -1.0, 1.0),
    "quiet": lambda samples: _noise(samples) * 1e-3,
    "onset": _onset,
}


@cache
def sound(signal: str, samples: int) -> Samples:
    """int16 (samples,), read-only: values that float32 holds as well, so that both have one reference."""
    wave = np.clip(np.rint(SIGNALS[signal](samples) * 32768), -32768, 32767).astype(np.int16)
    wave.setflags(write=False)
    return wave


def as_float(samples: Samples) -> NDArray[np.float32]:
    """The same sound as float32, full scale 1."""
    wave: NDArray[np.float32] = samples.astype(np.float32) / np.float32(32768)
    return wave


@cache
def reference(signal: str, samples: int, spec: LogMelSpec, fusion: bool = False) -> NDArray[np.float64]:
    """float64 (1 or 4, frames, n_mels)."""
    wave = as_float(sound(signal, samples))
    if fusion:
        return fusion_reference(wave, spec)
    return log_mel_reference(wave[: spec.clip_samples], spec)[None]


def tolerance(expected: NDArray[np.float64], *, pairs: bool = True) -> NDArray[np.float64]:
    """How far FP32 may be off, in dB, for each band: 20·log10(1 + 2^-22·10^(L/20)) at L dB below the peak, but 1e-4 dB.

    A float32 FFT errs by a unit or two in the last place of the largest amplitude it has seen, whatever the band's own
    amplitude. That is 1e-4 dB at 34 dB below the peak, 0.02 dB at 80, and what FP16 resolves there, 0.06 dB, at 89. The
    kernel transforms frames 2i and 2i + 1 together, so the peak is that of both.

    Args:
        expected: float64 (..., frames, n_mels).
        pairs: False where each frame counts by itself.
    """
    peak = expected.max(axis=-1, keepdims=True)
    if pairs:
        both = np.concatenate([peak, peak[..., -1:, :]], axis=-2)[..., : (peak.shape[-2] + 1) // 2 * 2, :]
        both = np.maximum(both[..., ::2, :], both[..., 1::2, :])
        peak = np.repeat(both, 2, axis=-2)[..., : peak.shape[-2], :]
    return allowed_below(peak - expected)


def allowed_below(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for levels below the peak, in dB."""
    allowed: NDArray[np.float64] = np.maximum(1e-4, 20.0 * np.log10(1.0 + 2.0**-22 * 10.0 ** (level / 20.0)))
    return allowed


def assert_near(ours: NDArray[np.floating], expected: NDArray[np.float64], allowed: NDArray[np.float64]) -> None:
    """Every value is within what is allowed of it, and one rounding of its own type."""
    assert ours.shape == expected.shape
    rounding = np.abs(expected) * (2.0**-11 if ours.dtype == np.float16 else 2.0**-24)
    error = np.abs(ours.astype(np.float64) - expected)
    assert np.isfinite(error).all(), "not every value was written"
    worst = np.unravel_index(np.argmax(error - allowed - rounding), error.shape)
    assert (error <= allowed + rounding).all(), (
        f"{ours[worst]} is {error[worst]:.2e} dB from {expected[worst]} at {worst}; allowed: {allowed[worst]:.1e}"
    )
