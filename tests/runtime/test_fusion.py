"""The fusion recipe against transformers with its random choices replaced by ours, and against the definition."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import ClapFeatureExtractor

from claprt import fusion
from claprt.audio_io import open_audio
from claprt.clip import FusionClip
from claprt.errors import AudioError
from claprt.fusion import crop_starts, shrink_rows
from claprt.log_mel import LogMel
from claprt.recipes import clips, features
from claprt.resample import resample_blocks
from claprt_kernels.reference import log_mel_reference
from tests.sounds import Generated, noise
from tests.specs import FUSED, TINY

RATE, CLIP, HOP = 48_000, 480_000, 480


def their_fusion(sound: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, bool]:
    """transformers' fusion input with its random choices replaced by the middle of each range."""
    monkeypatch.setattr(np.random, "choice", lambda values: values[len(values) // 2])
    longer: list[bool] = []

    class Extractor(ClapFeatureExtractor):  # type: ignore[misc]
        def _get_input_mel(self, *args: object) -> tuple[np.ndarray, bool]:
            mel, is_longer = super()._get_input_mel(*args)
            longer.append(is_longer)  # before a random clip of the batch is declared longer
            return mel, is_longer

    extractor = Extractor(truncation="fusion", frequency_min=50, frequency_max=14_000)
    return extractor(sound, sampling_rate=RATE, return_tensors="np")["input_features"][0], longer[0]


def fused(sound: np.ndarray, rate: int = RATE) -> tuple[np.ndarray, bool]:
    (clip,) = clips(open_audio(sound, rate), FUSED, "fusion", channels=4)
    return features(clip, LogMel(FUSED), channels=4), clip.is_longer


@pytest.mark.parametrize(
    "samples",
    [
        *(1, 4_800, 158_400, CLIP - 1, CLIP, CLIP + 1, CLIP + HOP - 1),  # one clip
        *(CLIP + HOP, CLIP + 2 * HOP, CLIP + 3 * HOP + 7),  # 2 to 4 possible starts
        *(720_000, 2 * CLIP, 37 * RATE + 11),
    ],
)
def test_fusion_is_what_transformers_computes_with_the_middle_crops(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = noise(samples, seed=samples)
    theirs, longer = their_fusion(sound, monkeypatch)
    ours, is_longer = fused(sound)
    assert ours.shape == theirs.shape == (4, 1001, 64)
    assert is_longer == longer == (samples >= CLIP + HOP)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("file", ["speech_reading", "robin", "trumpet", "orchestra", "celesta"])
def test_fusion_of_recordings_is_that_of_transformers(
    shared_audio: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    path = shared_audio / f"{file}.ogg"
    with open_audio(path) as source:
        whole = np.concatenate(list(resample_blocks(source.blocks(), source.sampling_rate, RATE)))
        (clip,) = clips(source, FUSED, "fusion", channels=4)
    theirs, longer = their_fusion(whole, monkeypatch)
    assert clip.is_longer == longer == (file not in ("robin", "trumpet"))
    np.testing.assert_allclose(features(clip, LogMel(FUSED), 4), theirs, rtol=0, atol=5e-5)


def test_spoken_digits_are_what_transformers_computes(shared_fsdd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted(shared_fsdd.glob("*_jackson_0.wav"))[:4]:
        with open_audio(path) as source:
            whole = np.concatenate(list(resample_blocks(source.blocks(), source.sampling_rate, RATE)))
            (clip,) = clips(source, FUSED, "fusion", channels=4)
        theirs, _ = their_fusion(whole, monkeypatch)
        np.testing.assert_allclose(features(clip, LogMel(FUSED), 4), theirs, rtol=0, atol=5e-5)


def test_fusion_clip_is_the_float64_reference() -> None:
    """All four channels from the definition, in float64, on a sound whose needed frames lie far apart."""
    sound = noise(300_000)
    reference = log_mel_reference(sound, TINY)
    total, frames = len(reference), TINY.frames
    assert (total, frames) == (30_001, 101)
    (clip,) = clips(open_audio(sound, 1_000), TINY, "fusion", channels=4)
    assert isinstance(clip, FusionClip)
    assert clip.samples.size < 101 * 74 + 3 * 1_064 + 1
    ours = features(clip, LogMel(TINY), channels=4)
    position = np.maximum((np.arange(frames) + 0.5) * total / frames - 0.5, 0)
    low = np.floor(position).astype(int)
    part = (position - low)[:, None]
    shrunk = reference[low] * (1 - part) + reference[np.minimum(low + 1, total - 1)] * part
    np.testing.assert_allclose(ours[0], shrunk, rtol=0, atol=0.05)  # the float32 positions of PyTorch
    starts = [part[len(part) // 2] for part in np.array_split(np.arange(total - frames + 1), 3)]
    for channel, start in zip(ours[1:], starts, strict=True):
        np.testing.assert_allclose(channel, reference[start : start + frames], rtol=0, atol=1e-4)


@pytest.mark.parametrize("total", [1_002, 1_003, 1_501, 2_000, 2_001, 2_002, 3_701, 99_999, 360_001, 3_600_001])
def test_shrink_is_pytorchs_interpolation_with_its_float32_positions(total: int) -> None:
    mel = (np.random.default_rng(total).standard_normal((total, 2)) * 20 - 40).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(mel)[None, None], size=[1001, 2], mode="bilinear", align_corners=False
    )[0, 0].numpy()
    low, high, weight = shrink_rows(total, 1001)
    ours = mel[low] * (1 - weight)[:, None] + mel[high] * weight[:, None]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("total", [1_002, 1_003, 1_004, 1_005, 1_500, 3_701])
def test_crops_start_in_the_middle_of_each_third(total: int) -> None:
    thirds = np.array_split(range(total - 1001 + 1), 3)
    expected = tuple(int(third[len(third) // 2]) if len(third) else 0 for third in thirds)
    assert crop_starts(total, 1001) == expected


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_fusion_is_the_same_in_one_pass_and_in_two(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short files are kept in memory, long ones decoded twice, arrays have a known length: all the same clip."""
    sound = noise(25 * rate)
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="WAV", subtype="FLOAT")
    results = []
    for keep in (10**9, 1_000):
        monkeypatch.setattr(fusion, "_KEEP", keep)
        file.seek(0)
        (clip,) = clips(open_audio(file), FUSED, "fusion", channels=4)
        results.append(features(clip, LogMel(FUSED), 4))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], fused(sound, rate)[0])


@pytest.mark.parametrize(("second", "fact"), [(4_999_999, "then 4999999;"), (5_000_001, "or more")])
def test_a_sound_that_changes_between_the_passes_is_refused(second: int, fact: str) -> None:
    with pytest.raises(AudioError) as caught:
        list(clips(Generated(5_000_000, second), TINY, "fusion", channels=4))
    assert "5000000 samples at first" in str(caught.value)
    assert fact in str(caught.value)
