"""Log-Mel spectrograms in NumPy: exact (float64 FFT) and fast (no work per frame in Python).

    frame t     = x[t·hop : t·hop + n_fft] · w          w[i] = 0.5 - 0.5·cos(2πi / n_fft), periodic Hann
    power[t, k] = |rfft(frame t)[k]|²
    mel[t, m]   = Σ_k power[t, k] · bank[k, m]
    out[t, m]   = 10·log10(max(mel[t, m], log_floor))   decibels

The FFT runs in float64: with float32 a band 80 dB below a loud tone of the same frame is off by up to 0.5 dB. From the
spectrum on, every term that is added is positive, so float32 costs no more than 2e-5 dB there. Frames go through in
chunks that stay in the processor's cache, and only the bins that some mel band uses are kept.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from claprt.errors import AudioError, OptionError
from claprt.mel import mel_filter_bank
from claprt.spec import LogMelSpec

_CHUNK = 64  # frames per chunk: 0.5 MB of float64 at n_fft = 1024, inside a core's L2 cache

# The mel product is done in groups of neighbouring bands, each with only its own bins: a quarter of the arithmetic. And
# small enough that OpenBLAS stays in the calling thread (it starts others above 2^18 multiplications): on a busy
# machine waiting for those threads was seen to cost 200 ms a clip.
_GROUP = 1 << 17

# Powers are kept above this, so that a pure tone or silence does not send subnormal floats through the product, which
# x86 handles many times slower. It is 200 dB below the usual log_floor.
_TINY = np.float32(1e-30)


class LogMel:
    """Log-Mel spectrograms for one `LogMelSpec`. Built once, holds constants only, safe to share between threads.

    Raises:
        OptionError: n_fft is odd, or the clip is too short for the reflect padding (clip_samples ≤ n_fft // 2).
    """

    def __init__(self, spec: LogMelSpec) -> None:
        if spec.clip_samples <= spec.n_fft // 2:
            raise OptionError(
                f"a clip must be longer than half the FFT window: clip_samples={spec.clip_samples}, "
                f"n_fft={spec.n_fft}; use a longer clip or a shorter window"
            )
        if spec.n_fft % 2:
            raise OptionError(f"n_fft is {spec.n_fft}, an odd number; centred frames need an even window")
        bank = mel_filter_bank(spec)
        start, count = _used(bank)
        self._bins = slice(start, start + count)
        self._groups = _band_groups(bank[self._bins])
        self._window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(spec.n_fft) / spec.n_fft)
        self._window.setflags(write=False)
        self.spec = spec

    def clip(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-Mel of one clip: padded to `clip_samples` by the spec's policy, then a centred STFT.

        Args:
            waveform: float32 (n,), mono, at `spec.sampling_rate`; 1 ≤ n ≤ clip_samples. A few more samples are taken
                when they do not add a frame (the fusion recipe's corner case); nothing is padded then.

        Returns:
            float32 (frames, n_mels), decibels; 1001 frames for 10 s at 48 kHz.

        Raises:
            AudioError: the waveform is not one-dimensional, empty, or too long.
        """
        spec = self.spec
        if waveform.ndim != 1 or waveform.size == 0:
            raise AudioError(f"a clip must be a non-empty (n,) array, its shape is {waveform.shape}; pass mono samples")
        if waveform.size > spec.clip_samples and spec.frames_of(waveform.size) != spec.frames:
            raise AudioError(
                f"a clip of {waveform.size} samples is longer than the model's {spec.clip_samples}; cut it into clips"
            )
        return self._frames_at(_centred(waveform, spec), spec.hop_length)

    def frames(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-Mel of back-to-back frames without centring: the caller has already extended the samples.

        Args:
            samples: float32 (n_fft + (k - 1)·hop_length,).

        Returns:
            float32 (k, n_mels), decibels.

        Raises:
            AudioError: the length fits no whole number of frames.
        """
        spec = self.spec
        extra = samples.size - spec.n_fft
        if samples.ndim != 1 or extra < 0 or extra % spec.hop_length:
            raise AudioError(
                f"samples of shape {samples.shape} fit no whole number of frames; "
                f"pass {spec.n_fft} + k·{spec.hop_length} samples"
            )
        return self._frames_at(samples, spec.hop_length)

    def gather(self, samples: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Log-Mel of frames that start at any samples.

        Args:
            samples: float32 (n,), n ≥ n_fft.
            starts: int64 (k,), first sample of each frame, each in 0 … n - n_fft.

        Returns:
            float32 (k, n_mels), decibels.
        """
        windows = sliding_window_view(self._prepared(samples), self.spec.n_fft)
        out = np.empty((starts.size, self.spec.n_mels), dtype=np.float32)
        for first in range(0, starts.size, _CHUNK):
            rows = slice(first, first + _CHUNK)
            self._decibels(windows[starts[rows]] * self._window, out[rows])
        return out

    def _prepared(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples as the model was trained on them.

        Done here, sample by sample, it is the same as on the whole sound before it is cut, padded and mirrored.
        """
        return int16_round_trip(samples) if self.spec.int16 else samples

    def _frames_at(self, samples: NDArray[np.float32], hop: int) -> NDArray[np.float32]:
        """Log-Mel of the frames that start every `hop` samples."""
        n_fft = self.spec.n_fft
        count = 1 + (samples.size - n_fft) // hop
        out = np.empty((count, self.spec.n_mels), dtype=np.float32)
        scratch = np.empty((min(_CHUNK, count), n_fft))
        for first in range(0, count, _CHUNK):
            rows = out[first : first + _CHUNK]
            # To float64 here rather than for the whole clip: the chunk's samples are still in cache when they are used.
            part = samples[first * hop : (first + len(rows) - 1) * hop + n_fft]
            part = self._prepared(part).astype(np.float64)
            windows = sliding_window_view(part, n_fft)[::hop]
            self._decibels(np.multiply(windows, self._window, out=scratch[: len(rows)]), rows)
        return out

    def _decibels(self, framed: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Windowed frames (k, n_fft) to decibels (k, n_mels), written to `out`."""
        spectrum = np.fft.rfft(framed)
        # (re, im) pairs of the wanted bins as float32, squared in place.
        pairs = spectrum.view(np.float64)[:, 2 * self._bins.start : 2 * self._bins.stop].astype(np.float32)
        np.multiply(pairs, pairs, out=pairs)
        power = pairs[:, ::2] + pairs[:, 1::2]
        np.maximum(power, _TINY, out=power)
        for bands, bins, weights in self._groups:
            np.matmul(power[:, bins], weights, out=out[:, bands])
        np.maximum(out, np.float32(self.spec.log_floor), out=out)
        np.log10(out, out=out)
        np.multiply(out, np.float32(10.0), out=out)


def _band_groups(bank: NDArray[np.float64]) -> list[tuple[slice, slice, NDArray[np.float32]]]:
    """Split a bank (bins, bands) into runs of bands: (bands, the bins they use, float32 weights of those)."""
    groups = []
    first = 0
    while first < bank.shape[1]:
        last = first + 1
        while last < bank.shape[1] and _used(bank[:, first : last + 1])[1] * (last + 1 - first) * _CHUNK <= _GROUP:
            last += 1
        start, count = _used(bank[:, first:last])
        bins = slice(start, start + count)
        weights = np.ascontiguousarray(bank[bins, first:last], dtype=np.float32)
        weights.setflags(write=False)
        groups.append((slice(first, last), bins, weights))
        first = last
    return groups


def _used(bands: NDArray[np.float64]) -> tuple[int, int]:
    """First bin with a weight, and how many bins from there to the last one; (0, 1) if there is none."""
    used = np.flatnonzero(bands.any(axis=1))
    return (int(used[0]), int(used[-1] - used[0]) + 1) if used.size else (0, 1)


def int16_round_trip(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples quantised to int16 and back, as `float32_to_int16` and `int16_to_float32` of LAION's CLAP do.

    trunc(clip(x, -1, 1) · 32767) / 32767, each step rounded to float32: the product must be, because rounding it lifts
    many values that came from int16 back to the integer that they were. Any shape; a new float32 array comes back.
    """
    result = np.clip(samples, np.float32(-1.0), np.float32(1.0)).astype(np.float32, copy=False)
    result *= np.float32(32767.0)
    np.trunc(result, out=result)
    result /= np.float32(32767.0)
    return result


def pad_clip(waveform: NDArray[np.float32], spec: LogMelSpec) -> NDArray[np.float32]:
    """Fill a short clip to `clip_samples` by the spec's policy; a clip that is long enough comes back as it is.

    "repeatpad" repeats floor(clip_samples / n) whole times and fills up with zeros, "repeat" repeats and cuts, "pad"
    only appends zeros. Returns float32 (max(n, clip_samples),).
    """
    missing = spec.clip_samples - waveform.size
    if missing <= 0:
        return waveform
    out = np.zeros(spec.clip_samples, dtype=np.float32)
    if spec.padding == "repeat":
        out[:] = np.resize(waveform, spec.clip_samples)
    elif spec.padding == "repeatpad":
        times = spec.clip_samples // waveform.size
        out[: times * waveform.size] = np.tile(waveform, times)
    else:
        out[: waveform.size] = waveform
    return out


def _centred(waveform: NDArray[np.float32], spec: LogMelSpec) -> NDArray[np.float32]:
    """The padded clip with n_fft // 2 samples mirrored at either end (the edge sample is not repeated)."""
    side = spec.n_fft // 2
    clip = pad_clip(waveform, spec)
    return np.concatenate([clip[side:0:-1], clip, clip[-2 : -side - 2 : -1]])
