"""The mel filter bank: triangular filters on the FFT bins, HTK or Slaney scale, with or without Slaney's area norm.

It equals the bank that the Hugging Face CLAP feature extractor builds (to 1e-12), including one habit of it: the bin
frequencies run from 0 to `sampling_rate // 2`, so an odd rate loses half a hertz at the top.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from claprt.spec import LogMelSpec

# Slaney's scale (Auditory Toolbox, 1998): linear up to 1000 Hz (mel 15), then 27 equal steps for each factor of 6.4.
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = 15.0
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(hz: float, scale: str) -> float:
    """Mel of a frequency in Hz.

    "htk" is 2595·log10(1 + f/700) (HTK book, 5.4); "slaney" is 3f/200 below 1 kHz and logarithmic above.
    """
    if scale == "htk":
        return float(2595.0 * np.log10(1.0 + hz / 700.0))
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_HZ_PER_MEL
    return float(_SLANEY_BREAK_MEL + np.log(hz / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP)


def mel_to_hz(mel: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    """Frequencies in Hz of an array of mels: the inverse of `hz_to_mel`."""
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0), dtype=np.float64)
    # The exponent is clamped so that the branch that `where` throws away cannot overflow.
    above = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * np.maximum(mel - _SLANEY_BREAK_MEL, 0.0))
    return np.where(mel < _SLANEY_BREAK_MEL, mel * _SLANEY_HZ_PER_MEL, above)


def mel_filter_bank(spec: LogMelSpec) -> NDArray[np.float64]:
    """Weights from power-spectrum bins to mel bands.

    Band m rises linearly from edge m to edge m+1 and falls to edge m+2, where the n_mels + 2 edges are equally spaced
    in mel between f_min and f_max. With `mel_norm="slaney"` each band is divided by half its width in Hz.

    Args:
        spec: the log-Mel specification; sampling_rate, n_fft, n_mels, f_min, f_max, mel_scale and mel_norm are used.

    Returns:
        float64 array (n_bins, n_mels), non-negative.
    """
    low, high = hz_to_mel(spec.f_min, spec.mel_scale), hz_to_mel(spec.f_max, spec.mel_scale)
    edges = mel_to_hz(np.linspace(low, high, spec.n_mels + 2), spec.mel_scale)
    bins = np.linspace(0.0, spec.sampling_rate // 2, spec.n_bins)[:, None]
    width = np.diff(edges)
    rising = (bins - edges[:-2]) / width[:-1]
    falling = (edges[2:] - bins) / width[1:]
    bank = np.maximum(0.0, np.minimum(rising, falling))
    if spec.mel_norm == "slaney":
        bank *= 2.0 / (edges[2:] - edges[:-2])
    return bank
