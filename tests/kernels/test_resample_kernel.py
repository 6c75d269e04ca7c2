"""The resampling kernel, emulated and on a GPU: against tones as they must be, against float64, and beside soxr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kernels.emulated import EmulatedResampler
from tests.kernels.launchers import LIBRARIES
from tests.kernels.on_gpu import GpuResampler
from tests.kernels.on_gpu_c import CResampler, load

from claprt.resample import resampled_length
from claprt_kernels import KernelSpecError, resample

OUT = 48_000
NO_SOXR = "no soxr, which the kernel is held beside"
RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 88_200, 96_000, 192_000]


Implementation = Callable[..., list[NDArray[np.float32]]]


@pytest.fixture(params=["emulated", *LIBRARIES, "cuda_c"])
def resampler(request: pytest.FixtureRequest) -> Implementation:
    """Called with clips, their rate, 48 kHz, and their channels."""
    if request.param == "emulated":
        return EmulatedResampler(request.getfixturevalue("emulation"))
    if request.param in LIBRARIES:
        return GpuResampler(request.getfixturevalue("on_gpu")(request.param))
    api = load(request.getfixturevalue("gpu_library"))
    return lambda clips, rate, _, channels=1: CResampler(api, rate, channels, device=True)(clips)


def tone(rate: int, hz: float, seconds: float, phase: float = 0.3) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    return np.asarray(np.sin(2 * np.pi * hz * t + phase), dtype=np.float32)


def decibels(error: np.ndarray, signal: np.ndarray) -> float:
    return float(
        10 * np.log10(np.mean(np.square(error, dtype=np.float64)) / np.mean(np.square(signal, dtype=np.float64)))
    )


@pytest.mark.parametrize("rate", RATES)
def test_tones_are_the_same_tones(resampler: Implementation, rate: int) -> None:
    """To 0.9 of the lower rate's half, 115 dB above what is left. soxr's HQ is nearer by 20 dB at most."""
    soxr = pytest.importorskip("soxr", reason=NO_SOXR)
    top = 0.45 * min(rate, OUT)
    frequencies = [top * share for share in (0.01, 0.11, 0.35, 0.62, 0.87, 1.0)]
    waves = [tone(rate, hz, 0.4) for hz in frequencies]
    for hz, wave, ours in zip(frequencies, waves, resampler(waves, rate, OUT), strict=True):
        expected = tone(OUT, hz, 0.4)
        inside = slice(2_500, -2_500)  # away from the clip's ends, where the tone begins and stops
        level = decibels(ours[inside] - expected[inside], expected[inside])
        theirs = soxr.resample(wave, rate, OUT, quality="HQ")
        assert level < -115, (hz, level)
        assert level < decibels(theirs[inside] - expected[inside], expected[inside]) + 20, (hz, level)


@pytest.mark.parametrize(
    ("rate", "hz"), [(96_000, 24_100.0), (96_000, 31_000.0), (96_000, 47_000.0), (192_000, 60_000.0)]
)
def test_what_the_lower_rate_cannot_hold_is_gone(resampler: Implementation, rate: int, hz: float) -> None:
    (ours,) = resampler([tone(rate, hz, 0.25)], rate, OUT)
    assert decibels(ours[2_500:-2_500], np.ones(1) / np.sqrt(2)) < -110


def by_definition(x: np.ndarray, up: int, down: int, taps: np.ndarray) -> np.ndarray:
    """The formula, sample by sample, in float64."""
    count = len(taps)
    out = np.zeros(resample.resampled_length(len(x), up, down))
    for n in range(len(out)):
        first = n * down // up - count // 2 + 1
        for t in range(count):
            if 0 <= first + t < len(x):
                out[n] += float(taps[t, n * down % up]) * float(x[first + t])
    return out


@pytest.mark.parametrize("rate", [8_000, 44_100, OUT, 96_000, 192_000])
@pytest.mark.parametrize(("dtype", "channels"), [(np.int16, 1), (np.int16, 2), (np.float32, 6)])
def test_it_is_the_formula(resampler: Implementation, rate: int, dtype: Any, channels: int) -> None:
    """Clips of awkward lengths, side by side, of several channels: to their very ends."""
    up, down = resample.ratio(rate, OUT)
    random = np.random.default_rng(rate)
    clips = [
        random.integers(-32768, 32768, (length, channels)).astype(np.int16) for length in (1, 2, 97, 256, 257, 700)
    ]
    floats = [(clip / 32768.0).astype(np.float32) for clip in clips]
    found = resampler(clips if dtype == np.int16 else floats, rate, OUT, channels)
    taps = resample.filter_taps(up, down)
    for clip, ours in zip(floats, found, strict=True):
        expected = by_definition(clip.astype(np.float64).mean(axis=1), up, down, taps)
        assert ours.shape == expected.shape == (resampled_length(len(clip), rate, OUT),)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)


def test_noise_is_the_same_noise(resampler: Implementation) -> None:
    """Periodic noise of 0.9 of the band, whose values in between are known. soxr's HQ has 0.007 dB less at the top."""
    soxr = pytest.importorskip("soxr", reason=NO_SOXR)
    random = np.random.default_rng(0)
    spectrum = np.fft.rfft(random.standard_normal(44_100))
    spectrum[int(0.9 * len(spectrum)) :] = 0
    wave = np.asarray(np.fft.irfft(spectrum) * 0.1, dtype=np.float32)
    longer = np.zeros(OUT // 2 + 1, dtype=np.complex128)
    longer[: len(spectrum)] = spectrum
    expected = np.fft.irfft(longer) * 0.1 * OUT / 44_100
    (ours,) = resampler([wave], 44_100, OUT)
    theirs = soxr.resample(wave, 44_100, OUT, quality="HQ")
    inside = slice(2_500, -2_500)
    assert decibels(ours[inside] - expected[inside], expected) < -115
    assert -85 < decibels(theirs[inside] - expected[inside], expected) < -70


def test_equal_rates_only_mix(resampler: Implementation) -> None:
    stereo = np.random.default_rng(0).standard_normal((5_000, 2)).astype(np.float32)
    (ours,) = resampler([stereo], OUT, OUT, 2)
    np.testing.assert_allclose(ours, stereo.mean(axis=1), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("rates", "words"), [((44_101, OUT), "44101 to 48000"), ((0, OUT), "positive"), ((1_000_000, OUT), "by 6 / 125")]
)
def test_rates_that_it_does_not_do(rates: tuple[int, int], words: str) -> None:
    with pytest.raises(KernelSpecError, match=words):
        resample.ratio(*rates)


def test_every_usual_rate_fits_the_kernel() -> None:
    for rate in (*RATES, 12_000, 48_000, 176_400):
        up, down = resample.ratio(rate, OUT)
        assert resample.filter_taps(up, down).shape == (resample.tap_count(up, down), up)
