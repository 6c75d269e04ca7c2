"""The log-Mel specifications of the released CLAP models, for tests."""

from __future__ import annotations

import dataclasses

from claprt.spec import LogMelSpec

# laion/clap-htsat-unfused and the larger_clap models: Slaney scale and norm.
UNFUSED = LogMelSpec(
    sampling_rate=48_000,
    n_fft=1024,
    hop_length=480,
    n_mels=64,
    f_min=50.0,
    f_max=14_000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    log_floor=1e-10,
    clip_samples=480_000,
    padding="repeatpad",
    int16=False,
)

# laion/clap-htsat-fused: HTK scale, no norm.
FUSED = dataclasses.replace(UNFUSED, mel_scale="htk", mel_norm="none")

# A CLAP in miniature: 1 kHz, clips of 1 s, so that hours are cheap.
TINY = dataclasses.replace(
    FUSED, sampling_rate=1_000, n_fft=64, hop_length=10, n_mels=8, f_min=0.0, f_max=500.0, clip_samples=1_000
)
