"""The log-Mel specification: every number that turns a waveform into a CLAP input.

It is read from the checkpoint's own feature extractor at export, stored in the manifest, and is the only thing that the
log-Mel implementations (NumPy, float64 reference, CUDA) are given. Nothing in it is assumed at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

MelScale = Literal["htk", "slaney"]
MelNorm = Literal["none", "slaney"]
Padding = Literal["repeatpad", "repeat", "pad"]

MEL_SCALES: tuple[str, ...] = get_args(MelScale)
MEL_NORMS: tuple[str, ...] = get_args(MelNorm)
PADDINGS: tuple[str, ...] = get_args(Padding)

PRECISIONS = ("fp32", "fp16", "int8")
# Graphs of a tower: one for each precision, and one that only CPUs take.
VARIANTS = (*PRECISIONS, "int8-cpu")
RECIPES = ("head", "windows", "fusion")


@dataclass(frozen=True)
class LogMelSpec:
    """Parameters of the log-Mel spectrogram (centred STFT, periodic Hann window, power, mel, decibels).

    Attributes:
        sampling_rate: Hz, of the waveform that goes in (48000 for every released CLAP).
        n_fft: FFT and window length in samples.
        hop_length: samples between frames.
        n_mels: number of mel bands.
        f_min, f_max: Hz, edges of the mel bank.
        mel_scale: "htk" or "slaney".
        mel_norm: "none", or "slaney" (each band divided by its width in Hz).
        log_floor: power below this is set to it before the logarithm; 1e-10 is -100 dB.
        clip_samples: samples of one clip (480000 = 10 s).
        padding: how a shorter clip is filled: "repeatpad" (repeat floor(clip/len) times, then zeros), "repeat" (repeat
            and cut), "pad" (zeros).
        int16: quantise samples to int16 and back first, as LAION's own code does, all in float32:
            x <- trunc(clip(x, -1, 1) · 32767) / 32767.
    """

    sampling_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    f_min: float
    f_max: float
    mel_scale: MelScale
    mel_norm: MelNorm
    log_floor: float
    clip_samples: int
    padding: Padding
    int16: bool

    @property
    def n_bins(self) -> int:
        """Frequency bins of the one-sided spectrum."""
        return self.n_fft // 2 + 1

    @property
    def frames(self) -> int:
        """Frames of one clip: 1 + clip_samples // hop_length (centred STFT)."""
        return self.frames_of(self.clip_samples)

    @property
    def clip_seconds(self) -> float:
        """Length of one clip in seconds."""
        return self.clip_samples / self.sampling_rate

    def frames_of(self, samples: int) -> int:
        """Frames of a centred STFT over `samples` samples."""
        return 1 + samples // self.hop_length
