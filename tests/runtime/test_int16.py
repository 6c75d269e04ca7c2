"""The int16 round trip that LAION's models were trained with: its values, and that every recipe goes through it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.log_mel import LogMel, int16_round_trip
from claprt_kernels.reference import int16_reference
from tests.sounds import Generated, noise, read
from tests.specs import TINY, UNFUSED

INT16 = dataclasses.replace(TINY, int16=True)


def by_hand(sample: float) -> float:
    """One sample: the product is exact in float64, rounded once to float32, cut to an integer, divided."""
    clipped = min(max(float(np.float32(sample)), -1.0), 1.0)
    integer = math.trunc(float(np.float32(clipped * 32767.0)))
    assert -32767 <= integer <= 32767
    return float(np.float32(integer / 32767.0))


def test_values() -> None:
    edges = [0.0, -0.0, 1.0, -1.0, 1.02, -1.02, 64.0, -64.0, 1 / 32767, 0.9999 / 32767, -0.9999 / 32767, 1e-30]
    samples = np.concatenate([np.array(edges, np.float32), noise(20_000) * 8, noise(20_000) * np.float32(1e-4)])
    expected = np.array([by_hand(sample) for sample in samples], np.float32)
    kept = samples.copy()
    for implementation in (int16_round_trip, int16_reference):
        found = implementation(samples)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(samples, kept)


def test_clipping_comes_first() -> None:
    """Without it 1.02 wraps around: 33422 is -32114 in int16."""
    assert int16_round_trip(np.array([1.02, -1.02], np.float32)).tolist() == [1.0, -1.0]


def test_what_was_int16_stays_what_it_was() -> None:
    """All 65,535 values; a product in float64 would take one from half of them."""
    values = (np.arange(-32767, 32768) / 32767).astype(np.float32)
    np.testing.assert_array_equal(int16_round_trip(values), values)
    exact = np.trunc(values.astype(np.float64) * 32767) / 32767
    assert np.mean(exact.astype(np.float32) != values) > 0.5


def test_int16_files_and_arrays_are_heard_alike(tmp_path: Path) -> None:
    """libsndfile divides by 32768, LAION's code multiplies by 32767: positive values lose one, there as here."""
    integers = np.arange(-32768, 32768, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", integers, 48_000, subtype="PCM_16")
    from_file, from_array = (int16_round_trip(read(sound)) for sound in (str(tmp_path / "a.wav"), integers))
    np.testing.assert_array_equal(from_file, from_array)
    loaded, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    laion = ((np.clip(loaded, -1.0, 1.0) * np.float32(32767.0)).astype(np.int16) / 32767.0).astype(np.float32)
    np.testing.assert_array_equal(from_file, laion)
    assert (np.round(from_file * 32767) - integers).tolist()[32768:32771] == [0, -1, -1]


class Loud(Generated):
    """Beyond full scale, and with steps finer than int16's."""

    @staticmethod
    def at(start: int, stop: int) -> np.ndarray:
        wave: np.ndarray = Generated.at(start, stop) * np.float32(2.5)
        return wave


class Rounded(Loud):
    """The same sound, through int16 before anything is done with it."""

    @staticmethod
    def at(start: int, stop: int) -> np.ndarray:
        return int16_reference(Loud.at(start, stop))


@pytest.mark.parametrize("recipe", ["head", "windows", "fusion"])
@pytest.mark.parametrize("samples", [1, 300, 1_000, 1_005, 12_345, 200_000])
def test_every_recipe_hears_the_rounded_sound(recipe: str, samples: int) -> None:
    """Rounding each frame's samples is the same as rounding the sound before it is cut, padded, mirrored and shrunk."""
    channels = 4 if recipe == "fusion" else 1
    found, expected, plain = (
        [
            recipes.features(clip, LogMel(spec), channels)
            for clip in recipes.clips(source(samples), spec, recipe, channels)
        ]
        for source, spec in ((Loud, INT16), (Rounded, TINY), (Loud, TINY))
    )
    assert len(found) == len(expected) == len(plain)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert samples == 1 or any(not np.array_equal(ours, theirs) for ours, theirs in zip(found, plain, strict=True))


def test_sounds_at_other_rates_are_rounded_after_resampling() -> None:
    """As LAION loads them: librosa resamples, then the samples go through int16."""
    waveform = noise(44_100) * 8
    clips: list[recipes.Clip] = []
    for spec in (UNFUSED, dataclasses.replace(UNFUSED, int16=True)):
        with open_audio(waveform, 44_100) as source:
            clips += recipes.clips(source, spec, "head")
    resampled, again = clips
    assert isinstance(resampled, recipes.WaveClip)
    expected = LogMel(UNFUSED).clip(int16_reference(resampled.waveform))
    found = recipes.features(again, LogMel(dataclasses.replace(UNFUSED, int16=True)))
    np.testing.assert_array_equal(found[0], expected)
