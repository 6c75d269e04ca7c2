"""The float64 oracle for log-Mel spectrograms: slow, plain, written from the definitions.

No trick is allowed here. It shares no code with the runtime, so that a mistake in one shows up in the other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from claprt.spec import LogMelSpec


def hz_to_mel(hz: float, scale: str) -> float:
    """Frequency to mel.

    "htk": Young et al., The HTK Book, section 5.4: mel = 2595·log10(1 + f/700).
    "slaney": Slaney, Auditory Toolbox (1998): 200/3 Hz per mel up to 1000 Hz, above that 27 mels per factor of 6.4.
    """
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + hz / 700.0)
    if hz <= 1000.0:
        return 3.0 * hz / 200.0
    return 15.0 + 27.0 * math.log(hz / 1000.0) / math.log(6.4)


def mel_to_hz(mel: float, scale: str) -> float:
    """Mel to frequency, the inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700.0 * (math.pow(10.0, mel / 2595.0) - 1.0)
    if mel <= 15.0:
        return 200.0 * mel / 3.0
    return 1000.0 * math.pow(6.4, (mel - 15.0) / 27.0)


def mel_weight(hz: float, left: float, centre: float, right: float) -> float:
    """Height at `hz` of the triangle that is 0 at `left` and `right` and 1 at `centre` (all in Hz)."""
    if left < hz <= centre:
        return (hz - left) / (centre - left)
    if centre < hz < right:
        return (right - hz) / (right - centre)
    return 0.0


def mel_bank_reference(spec: LogMelSpec) -> NDArray[np.float64]:
    """Mel bank by the definition, one weight at a time: float64 (n_fft // 2 + 1, n_mels)."""
    low, high = hz_to_mel(spec.f_min, spec.mel_scale), hz_to_mel(spec.f_max, spec.mel_scale)
    step = (high - low) / (spec.n_mels + 1)
    edges = [mel_to_hz(low + i * step, spec.mel_scale) for i in range(spec.n_mels + 2)]
    n_bins = spec.n_fft // 2 + 1
    bank = np.zeros((n_bins, spec.n_mels))
    for k in range(n_bins):
        # The extractor's last bin lies at the integer half of the rate.
        hz = k * (spec.sampling_rate // 2) / (n_bins - 1)
        for m in range(spec.n_mels):
            left, centre, right = edges[m : m + 3]
            area = 2.0 / (right - left) if spec.mel_norm == "slaney" else 1.0
            bank[k, m] = area * mel_weight(hz, left, centre, right)
    return bank


def padded_reference(waveform: NDArray[np.floating], spec: LogMelSpec) -> NDArray[np.float64]:
    """A clip filled to `clip_samples` sample by sample, as the three padding policies are defined; float64."""
    n, total = len(waveform), spec.clip_samples
    if n >= total:
        return np.asarray(waveform, dtype=np.float64)
    if spec.padding == "repeat":
        filled = total
    elif spec.padding == "repeatpad":
        filled = (total // n) * n  # whole repeats only, then silence
    else:
        filled = n
    index = np.arange(total)
    return np.where(index < filled, np.asarray(waveform, dtype=np.float64)[index % n], 0.0)


def int16_reference(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """Samples through a real int16: clipped to ±1, times 32767 in float32, truncated toward zero, divided by 32767."""
    clipped = np.minimum(np.maximum(np.asarray(waveform, dtype=np.float32), np.float32(-1)), np.float32(1))
    integers = (clipped * np.float32(32767)).astype(np.int16)
    return np.asarray(integers.astype(np.float64) / 32767.0, dtype=np.float32)


def log_mel_reference(waveform: NDArray[np.floating], spec: LogMelSpec) -> NDArray[np.float64]:
    """Log-Mel spectrogram of one clip in float64, frame by frame.

    With `int16` the samples go through int16 first. The clip is padded by the spec's policy; frame t is centred on
    sample t·hop_length of the clip, which is mirrored at both ends without repeating the edge sample; periodic Hann
    window; power; mel; 10·log10(max(power, log_floor)).

    Args:
        waveform: floating (n,), mono, n ≥ 1. Longer than clip_samples is allowed: nothing is cut.
        spec: the log-Mel specification.

    Returns:
        float64 (1 + max(n, clip_samples) // hop_length, n_mels), decibels.
    """
    x = padded_reference(int16_reference(waveform) if spec.int16 else waveform, spec)
    n, half = len(x), spec.n_fft // 2
    # Mirror: position -j reads sample j, position n-1+j reads sample n-1-j.
    positions = np.arange(-half, n + half)
    mirrored = np.where(positions < 0, -positions, positions)
    mirrored = np.where(mirrored > n - 1, 2 * (n - 1) - mirrored, mirrored)
    extended = x[mirrored]
    hann = np.array([0.5 * (1.0 - math.cos(2.0 * math.pi * i / spec.n_fft)) for i in range(spec.n_fft)])
    bank = mel_bank_reference(spec)
    frames = 1 + n // spec.hop_length
    out = np.empty((frames, spec.n_mels))
    for t in range(frames):
        frame = extended[t * spec.hop_length : t * spec.hop_length + spec.n_fft] * hann
        spectrum = np.fft.rfft(frame)
        mel = (spectrum.real**2 + spectrum.imag**2) @ bank
        out[t] = 10.0 * np.log10(np.maximum(mel, spec.log_floor))
    return out


def fusion_reference(waveform: NDArray[np.floating], spec: LogMelSpec) -> NDArray[np.float64]:
    """The four channels of a model with fusion.

    A sound with no more frames than a clip fills every channel with its log-Mel. Of a longer one, channel 0 is the
    whole log-Mel, shrunk to a clip's rows: bilinear, row t read at (total / frames)·(t + 1/2) - 1/2. Channels 1 to 3
    are crops: the possible first rows are split into three runs (numpy.array_split), and of each the element in the
    middle is taken.

    Args:
        waveform: floating (n,), mono, n ≥ 1.
        spec: the log-Mel specification.

    Returns:
        float64 (4, frames, n_mels), decibels.
    """
    whole = log_mel_reference(waveform, spec)
    total, frames = len(whole), spec.frames
    if total <= frames:
        return np.stack([whole] * 4)
    shrunk = np.empty((frames, spec.n_mels))
    # PyTorch's arithmetic: float32 numbers, and the source row rounded once.
    scale = float(np.float32(total) / np.float32(frames))
    for t in range(frames):
        source = float(np.float32(max(scale * (t + 0.5) - 0.5, 0.0)))
        low = min(int(source), total - 1)
        weight = min(max(source - float(np.float32(low)), 0.0), 1.0)
        shrunk[t] = whole[low] * (1.0 - weight) + whole[min(low + 1, total - 1)] * weight
    starts = [int(run[len(run) // 2]) if len(run) else 0 for run in np.array_split(np.arange(total - frames + 1), 3)]
    return np.stack([shrunk, *(whole[start : start + frames] for start in starts)])
