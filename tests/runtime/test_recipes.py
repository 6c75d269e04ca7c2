"""Recipes head and windows, and what holds for all: against transformers or by hand, and ten hours in little memory."""

from __future__ import annotations

import dataclasses
import io
import time
import tracemalloc

import numpy as np
import pytest
import soundfile
from transformers import ClapFeatureExtractor

from claprt.audio_io import open_audio
from claprt.clip import FusionClip, WaveClip
from claprt.errors import AudioError, OptionError
from claprt.fusion import crop_starts, shrink_rows
from claprt.log_mel import LogMel
from claprt.recipes import RECIPES, clips, features
from claprt.resample import resample_blocks
from claprt.spec import LogMelSpec
from tests.sounds import Generated, noise
from tests.specs import FUSED, TINY, UNFUSED

RATE, CLIP = 48_000, 480_000


def waves(sound: np.ndarray, spec: LogMelSpec, recipe: str, channels: int = 1) -> list[np.ndarray]:
    out = []
    for clip in clips(open_audio(sound, spec.sampling_rate), spec, recipe, channels):
        assert isinstance(clip, WaveClip)
        assert not clip.is_longer
        assert not clip.waveform.flags.writeable
        out.append(clip.waveform)
    return out


# --- head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 4_800, CLIP - 1, CLIP, CLIP + 1, 37 * RATE])
def test_head_is_the_beginning(samples: int) -> None:
    sound = noise(samples)
    (wave,) = waves(sound, UNFUSED, "head")
    np.testing.assert_array_equal(wave, sound[:CLIP])


@pytest.mark.parametrize("samples", [1, 4_800, 158_400, CLIP - 1, CLIP, CLIP + 1, CLIP + 479, 37 * RATE])
def test_head_is_what_transformers_computes_when_its_crop_is_the_first(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "randint", lambda low, high: 0)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14_000)
    sound = noise(samples)
    theirs = extractor(sound, sampling_rate=RATE, return_tensors="np")["input_features"][0]
    (clip,) = clips(open_audio(sound), UNFUSED, "head")
    ours = features(clip, LogMel(UNFUSED))
    assert ours.shape == (1, 1001, 64)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)


def test_head_stops_decoding() -> None:
    source = Generated(10**12)  # 31 years
    (clip,) = clips(source, TINY, "head")
    assert isinstance(clip, WaveClip)
    np.testing.assert_array_equal(clip.waveform, Generated.at(0, 1_000))


def test_clip_keeps_no_view_of_the_callers_array() -> None:
    sound = noise(1_000)
    (wave,) = waves(sound, UNFUSED, "head")
    assert not np.shares_memory(wave, sound)


@pytest.mark.parametrize("recipe", ["head", "windows"])
def test_model_with_fusion_gets_the_same_mel_four_times(recipe: str) -> None:
    for clip in clips(open_audio(noise(CLIP + 100_000)), FUSED, recipe, channels=4):
        ours = features(clip, LogMel(FUSED), channels=4)
        assert ours.shape == (4, 1001, 64)
        assert not clip.is_longer
        for channel in ours:
            np.testing.assert_array_equal(channel, ours[0])


# --- windows ------------------------------------------------------------------------------------------------------


def expected_windows(samples: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of each window, straight from the rule."""
    if samples <= size:
        return [(0, samples)]
    hop = size // 2
    out = [(start, start + size) for start in range(0, samples - size + 1, hop)]
    if out[-1][1] < samples:
        out.append((samples - size, samples))
    return out


@pytest.mark.parametrize("size", [1_000, 1_001])
@pytest.mark.parametrize(
    "samples", [1, 499, 999, 1_000, 1_001, 1_499, 1_500, 1_501, 1_502, 2_000, 2_001, 70_000, 70_123]
)
def test_windows_follow_the_rule(size: int, samples: int) -> None:
    spec = dataclasses.replace(TINY, clip_samples=size)
    sound = noise(samples)
    ours = waves(sound, spec, "windows")
    expected = expected_windows(samples, size)
    assert len(ours) == len(expected)
    for wave, (start, stop) in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(wave, sound[start:stop])


def test_windows_of_a_file_at_another_rate_are_windows_of_the_resampled_sound() -> None:
    sound = noise(37 * 8_000)
    file = io.BytesIO()
    soundfile.write(file, sound, 8_000, format="FLAC")
    file.seek(0)
    whole = np.concatenate(list(resample_blocks(open_audio(file).blocks(), 8_000, RATE)))
    file.seek(0)
    ours = list(clips(open_audio(file), UNFUSED, "windows"))
    expected = expected_windows(37 * RATE, CLIP)
    assert len(ours) == len(expected) == 7
    for clip, (start, stop) in zip(ours, expected, strict=True):
        assert isinstance(clip, WaveClip)
        np.testing.assert_array_equal(clip.waveform, whole[start:stop])


# --- all ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_sound_gives_the_same_clips_every_time(recipe: str) -> None:
    sound = noise(CLIP + 123_456)
    log_mel = LogMel(FUSED)
    first, second = (
        [features(clip, log_mel, 4) for clip in clips(open_audio(sound), FUSED, recipe, 4)] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("recipe", "channels", "fact"),
    [("middle", 1, "'middle'"), ("fusion", 1, "'fusion'"), ("head", 2, "2"), ("HEAD", 4, "'HEAD'")],
)
def test_a_wrong_recipe_is_refused_before_anything_is_read(recipe: str, channels: int, fact: str) -> None:
    with pytest.raises(OptionError) as caught:
        clips(Generated(0), UNFUSED, recipe, channels)
    assert fact in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_sound_without_samples_is_refused(recipe: str) -> None:
    with pytest.raises(AudioError, match="0 samples"):
        list(clips(Generated(0), FUSED, recipe, channels=4))


@pytest.mark.parametrize("recipe", ["windows", "fusion"])
def test_ten_hours_stream_in_bounded_memory(recipe: str) -> None:
    """36 million samples, 144 MB as float32: nothing may grow with them."""
    samples = 36_000_000
    tracemalloc.start()
    started = time.perf_counter()
    count = 0
    for clip in clips(Generated(samples), TINY, recipe, channels=4):
        count += 1
        if isinstance(clip, FusionClip):
            check_ten_hours(clip, samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == (1 if recipe == "fusion" else 2 * 36_000 - 1)
    assert peak < 40e6
    assert time.perf_counter() - started < 30


def check_ten_hours(clip: FusionClip, samples: int) -> None:
    """The crops and the ends of the shrunk log-Mel, from samples that are computed by their index."""
    ours = features(clip, LogMel(TINY), channels=4)
    for channel, start in zip(ours[1:], crop_starts(1 + samples // 10, TINY.frames), strict=True):
        frames = Generated.at(start * 10 - 32, start * 10 + 1_032)
        np.testing.assert_allclose(channel, LogMel(TINY).frames(frames), rtol=0, atol=2e-5)
    low, high, weight = shrink_rows(1 + samples // 10, TINY.frames)
    for row in (0, 50, 100):
        pair = LogMel(TINY).frames(Generated.at(int(low[row]) * 10 - 32, int(high[row]) * 10 + 32))
        expected = pair[0] * (1 - weight[row]) + pair[1] * weight[row]
        np.testing.assert_allclose(ours[0, row], expected, rtol=0, atol=2e-5)


@pytest.mark.full
def test_ten_hours_at_48_khz_for_the_real_model() -> None:
    """1.7 billion samples through the released spec: less than 100 MB, and 0.05 % of the frames are computed."""
    samples = 10 * 3_600 * RATE
    tracemalloc.start()
    (clip,) = clips(Generated(samples, rate=RATE), FUSED, "fusion", channels=4)
    ours = features(clip, LogMel(FUSED), channels=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert ours.shape == (4, 1001, 64)
    assert isinstance(clip, FusionClip)
    assert clip.starts.size <= 5 * 1001
