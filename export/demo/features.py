"""Log-mel features for training, equal to transformers' ClapFeatureExtractor but much faster.

One STFT gives both of CLAP's mel banks: Slaney for unfused checkpoints, HTK for fused ones.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from transformers import ClapFeatureExtractor

SAMPLING_RATE = 48_000
CLIP_SAMPLES = 10 * SAMPLING_RATE
HOP = 480
FFT = 1024
MELS = 64
FRAMES = CLIP_SAMPLES // HOP + 1

Half = npt.NDArray[np.float16]
Waveform = npt.NDArray[np.float32]


def extractor(fusion: bool) -> ClapFeatureExtractor:
    """The feature extractor of a checkpoint, with the settings of the released ones."""
    return ClapFeatureExtractor(
        feature_size=MELS,
        sampling_rate=SAMPLING_RATE,
        hop_length=HOP,
        max_length_s=10,
        fft_window_size=FFT,
        frequency_min=50,
        frequency_max=14_000,
        truncation="fusion" if fusion else "rand_trunc",
        padding="repeatpad",
    )


@cache
def _banks() -> torch.Tensor:
    """Both mel banks side by side, float32 (513, 128): Slaney, then HTK."""
    made = extractor(fusion=False)
    both = np.concatenate([made.mel_filters_slaney, made.mel_filters], axis=1)
    return torch.from_numpy(both.astype(np.float32))


@cache
def _window() -> torch.Tensor:
    return torch.hann_window(FFT, periodic=True)


def repeat_pad(waveform: Waveform) -> Waveform:
    """Repeat a clip as often as it fits into 10 s, then add silence; longer ones are unchanged."""
    if len(waveform) >= CLIP_SAMPLES:
        return waveform
    tiled = np.tile(waveform, CLIP_SAMPLES // len(waveform))
    return np.pad(tiled, (0, CLIP_SAMPLES - len(tiled)))


def log_mel(waveform: Waveform) -> tuple[Half, Half]:
    """Log-mel of one clip under both banks.

    waveform: float32 (n,), n > 512, at 48 kHz.
    Returns (Slaney, HTK), each float16 (n // 480 + 1, 64), in dB, at least -100.
    """
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(waveform)),
        n_fft=FFT,
        hop_length=HOP,
        window=_window(),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = torch.view_as_real(spectrum).square().sum(-1)
    mel = 10 * torch.log10((power.T @ _banks()).clamp_min(1e-10))
    half = mel.half().numpy()
    return half[:, :MELS].copy(), half[:, MELS:].copy()
