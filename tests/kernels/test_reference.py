"""The float64 oracle against transformers, against arithmetic on paper, and alone in a clean interpreter."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.specs import FUSED, UNFUSED

import claprt
from claprt_kernels.reference import log_mel_reference, mel_bank_reference, padded_reference


def transformers_audio() -> Any:
    return pytest.importorskip("transformers.audio_utils", reason="no transformers to compare the oracle with")


@pytest.mark.parametrize("norm", ["none", "slaney"])
@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize(("rate", "n_fft", "n_mels", "f_min"), [(48_000, 1024, 64, 50.0), (44_101, 512, 40, 0.0)])
def test_bank_is_that_of_transformers(scale: str, norm: str, rate: int, n_fft: int, n_mels: int, f_min: float) -> None:
    spec = dataclasses.replace(
        UNFUSED,
        mel_scale=scale,  # type: ignore[arg-type]
        mel_norm=norm,  # type: ignore[arg-type]
        sampling_rate=rate,
        n_fft=n_fft,
        n_mels=n_mels,
        f_min=f_min,
    )
    theirs = transformers_audio().mel_filter_bank(
        n_fft // 2 + 1, n_mels, f_min, spec.f_max, rate, norm=None if norm == "none" else norm, mel_scale=scale
    )
    np.testing.assert_allclose(mel_bank_reference(spec), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [480_000, 480_001, 481_000])
def test_spectrogram_is_that_of_transformers(samples: int) -> None:
    wave = (np.random.default_rng(samples).standard_normal(samples) * 0.1).astype(np.float32)
    audio = transformers_audio()
    theirs = audio.spectrogram(
        wave,
        audio.window_function(1024, "hann"),
        frame_length=1024,
        hop_length=480,
        power=2.0,
        mel_filters=audio.mel_filter_bank(513, 64, 50.0, 14_000.0, 48_000, "slaney", "slaney"),
        log_mel="dB",
    ).T
    ours = log_mel_reference(wave, UNFUSED)
    assert ours.dtype == np.float64
    assert ours.shape == theirs.shape == (1 + samples // 480, 64)
    # They round the spectrum to complex64 and the result to float32.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_tone_has_the_level_that_paper_predicts() -> None:
    """A tone of amplitude A at bin k: |X[k]| = A·N/4 under a Hann window, half of that at its two neighbours."""
    k, amplitude = 100, 0.5
    t = np.arange(480_000)
    levels = log_mel_reference(amplitude * np.cos(2 * np.pi * k * t / 1024), FUSED)[500]
    power = np.zeros(513)
    power[k] = (amplitude * 1024 / 4) ** 2
    power[[k - 1, k + 1]] = power[k] / 4
    expected = 10 * np.log10(np.maximum(power @ mel_bank_reference(FUSED), 1e-10))
    loud = expected > -100
    assert loud.sum() >= 2
    np.testing.assert_allclose(levels[loud], expected[loud], atol=1e-9)


def test_silence_is_the_floor() -> None:
    np.testing.assert_array_equal(log_mel_reference(np.zeros(480_000), UNFUSED), np.full((1001, 64), -100.0))


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("repeatpad", [1, 2, 3, 1, 2, 3, 0, 0]),
        ("repeat", [1, 2, 3, 1, 2, 3, 1, 2]),
        ("pad", [1, 2, 3, 0, 0, 0, 0, 0]),
    ],
)
def test_padding_policies_by_hand(padding: str, expected: list[float]) -> None:
    spec = dataclasses.replace(UNFUSED, clip_samples=8, padding=padding)  # type: ignore[arg-type]
    assert padded_reference(np.array([1.0, 2.0, 3.0]), spec).tolist() == expected


def test_mel_scales_at_known_points() -> None:
    from claprt_kernels.reference import hz_to_mel, mel_to_hz

    assert hz_to_mel(1000.0, "slaney") == 15.0
    assert hz_to_mel(6400.0, "slaney") == pytest.approx(42.0)
    assert hz_to_mel(700.0, "htk") == pytest.approx(2595 * math.log10(2))
    for scale in ("htk", "slaney"):
        for hz in (0.0, 50.0, 999.0, 1001.0, 14_000.0):
            assert mel_to_hz(hz_to_mel(hz, scale), scale) == pytest.approx(hz, abs=1e-9)


@pytest.mark.parametrize("runtime", [True, False])
def test_kernels_are_light_and_run_without_the_runtime(runtime: bool) -> None:
    """`claprt_kernels` imports with NumPy alone; beside the runtime its errors are of that one's family."""
    import claprt_kernels

    folder = Path(str(claprt_kernels.__file__)).parents[1]
    hidden = "" if runtime else "sys.modules['claprt'] = None; "
    family = "ClaprtError" if runtime else "Exception"
    code = (
        f"import sys; {hidden}sys.path.insert(0, {str(folder)!r}); import claprt_kernels as kernels; "
        f"assert kernels.KernelError.__base__.__name__ == {family!r}, kernels.KernelError.__base__; "
        "bad = {'torch', 'scipy', 'pycuda', 'cuda', 'soundfile', 'onnxruntime'} & set(sys.modules); assert not bad, bad"
    )
    env = os.environ | {"PYTHONPATH": str(Path(str(claprt.__file__)).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
