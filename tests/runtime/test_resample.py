"""Sample-rate conversion: exact lengths, no dependence on blocks, and soxr's own result."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import soundfile
import soxr

from claprt.audio_io import open_audio
from claprt.resample import resample_blocks, resampled_length
from tests.sounds import noise

RATES = [1_000, 8_000, 11_025, 16_000, 22_050, 44_100, 47_999, 96_000, 192_000, 768_000]


def cut(sound: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(sound), size):
        yield sound[start : start + size]


def resampled(sound: np.ndarray, rate: int, size: int | None = None, out: int = 48_000) -> np.ndarray:
    return np.concatenate(list(resample_blocks(cut(sound, size or len(sound)), rate, out)))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [1, 2, 3, 7, 100, 8_191, 44_100])
def test_length_is_rounded_half_up_and_never_zero(rate: int, samples: int) -> None:
    exact = floor(Fraction(samples * 48_000, rate) + Fraction(1, 2))
    assert resampled_length(samples, rate, 48_000) == max(1, exact)
    out = resampled(noise(samples), rate)
    assert out.size == max(1, exact)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


def test_no_samples_give_no_samples() -> None:
    assert resampled_length(0, 8_000, 48_000) == 0
    assert list(resample_blocks([], 8_000, 48_000)) == []
    assert list(resample_blocks([np.empty(0, np.float32)], 8_000, 48_000)) == []


@pytest.mark.parametrize("rate", RATES)
def test_result_does_not_depend_on_where_the_blocks_are_cut(rate: int) -> None:
    sound = noise(30_011)
    whole = resampled(sound, rate)
    for size in (997, 4_096, 30_010):
        np.testing.assert_allclose(resampled(sound, rate, size), whole, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(resampled(sound[:50], rate, 1), resampled(sound[:50], rate))


@pytest.mark.parametrize("rate", RATES)
def test_result_is_that_of_soxr_on_the_whole_sound(rate: int) -> None:
    sound = noise(20_000)
    theirs = soxr.resample(sound, rate, 48_000, quality="HQ")
    ours = resampled(sound, rate, 4_096)
    common = min(len(ours), len(theirs))
    assert abs(len(ours) - len(theirs)) <= 1
    np.testing.assert_allclose(ours[:common], theirs[:common], rtol=0, atol=1e-6)


def test_a_sine_stays_that_sine() -> None:
    """No delay, no gain: the resampled sine equals the sine computed at the new rate, away from its ends."""
    t = np.arange(44_100) / 44_100
    out = resampled(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 44_100, 1_000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000)
    np.testing.assert_allclose(out[1_000:-1_000], expected[1_000:-1_000], atol=2e-4)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_array_and_file_give_the_same_samples(rate: int) -> None:
    sound = noise(100_003)
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="WAV", subtype="FLOAT")
    file.seek(0)
    from_file = np.concatenate(list(resample_blocks(open_audio(file).blocks(), rate, 48_000)))
    from_array = np.concatenate(list(resample_blocks(open_audio(sound, rate).blocks(), rate, 48_000)))
    np.testing.assert_array_equal(from_file, from_array)


def test_equal_rates_pass_the_blocks_on_without_soxr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)  # importing it now fails
    blocks = [noise(10), noise(0), noise(5)]
    out = list(resample_blocks(blocks, 48_000, 48_000))
    assert [block.size for block in out] == [10, 5]
    assert out[0] is blocks[0]
    with pytest.raises(ImportError):
        list(resample_blocks(blocks, 44_100, 48_000))


def test_ten_hours_keep_the_exact_length() -> None:
    """Rounding must not drift: at 1 kHz → 999 Hz, 10 hours are 35,964,000 samples to the sample."""
    block = noise(65_536)
    blocks = (block for _ in range(549))
    total = sum(out.size for out in resample_blocks(blocks, 1_000, 999))
    assert total == resampled_length(549 * 65_536, 1_000, 999)
