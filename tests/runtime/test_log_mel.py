"""Log-Mel: every implementation against the float64 reference, and the NumPy one against transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from transformers import ClapFeatureExtractor
from transformers.audio_utils import mel_filter_bank as their_bank

from claprt.errors import AudioError, OptionError
from claprt.log_mel import LogMel, pad_clip
from claprt.mel import mel_filter_bank
from claprt.spec import LogMelSpec
from claprt_kernels.reference import log_mel_reference
from tests.sounds import noise
from tests.specs import FUSED, UNFUSED

RATE, CLIP = 48_000, 480_000


def numpy_log_mel(wave: np.ndarray, spec: LogMelSpec) -> np.ndarray:
    return LogMel(spec).clip(wave)


# Every log-Mel implementation: how to call it, and its tolerance in dB within 80 dB of the clip's peak.
IMPLEMENTATIONS: list[Any] = [pytest.param(numpy_log_mel, 1e-4, id="numpy")]


def tones(*parts: tuple[float, float]) -> np.ndarray:
    t = np.arange(CLIP) / RATE
    wave: np.ndarray = np.sum([level * np.sin(2 * np.pi * hz * t) for hz, level in parts], axis=0)
    return wave.astype(np.float32)


def chirp() -> np.ndarray:
    """A full-scale sweep with a second one 80 dB below it in every frame."""
    t = np.arange(CLIP) / RATE
    loud = np.sin(2 * np.pi * (50 * t + 690 * t**2))
    quiet = np.sin(2 * np.pi * (13_000 * t - 600 * t**2))
    return (loud + 1e-4 * quiet).astype(np.float32)


def impulses() -> np.ndarray:
    wave = np.zeros(CLIP, dtype=np.float32)
    wave[[0, 1, 511, 512, 240_000, CLIP - 513, CLIP - 1]] = 1.0
    return wave


SIGNALS: dict[str, Callable[[], np.ndarray]] = {
    "tone": lambda: tones((997.0, 1.0)),
    "tone_between_bins": lambda: tones((1000.3, 1.0), (9_000.0, 1e-4)),
    "chirp_80_db": chirp,
    "impulses": impulses,
    "constant": lambda: np.full(CLIP, 0.5, dtype=np.float32),
    "silence": lambda: np.zeros(1000, dtype=np.float32),
    "quiet": lambda: noise(CLIP) * np.float32(1e-6),
    "loud": lambda: noise(CLIP) * np.float32(300),
    "one_sample": lambda: np.array([0.5], dtype=np.float32),
    "two_samples": lambda: np.array([0.5, -0.25], dtype=np.float32),
    "0.1_s": lambda: noise(4_800),
    "3.3_s": lambda: noise(158_400),
    "half_and_one": lambda: noise(CLIP // 2 + 1),
    "10_s_minus_1": lambda: noise(CLIP - 1),
    "10_s": lambda: noise(CLIP),
}


def assert_near_reference(ours: np.ndarray, wave: np.ndarray, spec: LogMelSpec, tolerance: float) -> None:
    reference = log_mel_reference(wave, spec)
    assert ours.shape == reference.shape == (spec.frames, spec.n_mels)
    assert ours.dtype == np.float32
    heard = reference >= reference.max() - 80.0
    np.testing.assert_allclose(ours[heard], reference[heard], rtol=0, atol=tolerance)
    assert np.isfinite(ours).all()
    assert ours.min() >= -100.0 - 1e-5


@pytest.mark.parametrize(("implementation", "tolerance"), IMPLEMENTATIONS)
@pytest.mark.parametrize("signal", SIGNALS)
def test_every_implementation_is_the_reference_on_hard_signals(
    implementation: Callable[..., np.ndarray], tolerance: float, signal: str
) -> None:
    wave = SIGNALS[signal]()
    assert_near_reference(implementation(wave, UNFUSED), wave, UNFUSED, tolerance)


@pytest.mark.parametrize(("implementation", "tolerance"), IMPLEMENTATIONS)
@pytest.mark.parametrize("file", ["speech_reading", "robin", "trumpet", "orchestra", "celesta"])
def test_every_implementation_is_the_reference_on_recordings(
    shared_audio: Path,
    implementation: Callable[..., np.ndarray],
    tolerance: float,
    file: str,
) -> None:
    sound, rate = soundfile.read(shared_audio / f"{file}.ogg", dtype="float32", frames=220_000)
    wave = soxr.resample(sound, rate, RATE)[:CLIP]
    assert_near_reference(implementation(wave, FUSED), wave, FUSED, tolerance)


@pytest.mark.parametrize(("implementation", "tolerance"), IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "changes",
    [
        {"mel_scale": "htk", "mel_norm": "slaney", "n_mels": 128, "f_min": 0.0},
        {"n_fft": 2048, "hop_length": 441, "sampling_rate": 44_100, "clip_samples": 100_001, "n_mels": 80},
        {"n_fft": 400, "hop_length": 160, "sampling_rate": 16_000, "clip_samples": 16_000, "f_max": 8_000.0},
        {"log_floor": 1e-5, "padding": "pad"},
        {"int16": True},
        {"f_max": 51.0, "n_mels": 3},  # no bin between 50 and 51 Hz: an empty bank is all floor
    ],
)
def test_every_implementation_follows_the_spec(
    implementation: Callable[..., np.ndarray],
    tolerance: float,
    changes: dict[str, Any],
) -> None:
    """Nothing about 48 kHz, 1024, 480 or 64 is built in."""
    spec = dataclasses.replace(UNFUSED, **changes)
    wave = noise(spec.clip_samples - 7)
    ours = implementation(wave, spec)
    np.testing.assert_allclose(ours, log_mel_reference(wave, spec), rtol=0, atol=tolerance)


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
@pytest.mark.parametrize("samples", [1, 4_800, 158_400, CLIP - 1, CLIP])
def test_clip_is_what_transformers_feeds_the_model(truncation: str, samples: int) -> None:
    extractor = ClapFeatureExtractor(truncation=truncation, frequency_min=50, frequency_max=14_000)
    wave = noise(samples, seed=samples)
    theirs = extractor(wave, sampling_rate=RATE, return_tensors="np")["input_features"][0]
    ours = LogMel(FUSED if truncation == "fusion" else UNFUSED).clip(wave)
    assert theirs.shape == (4 if truncation == "fusion" else 1, 1001, 64)
    for channel in theirs:
        np.testing.assert_allclose(ours, channel, rtol=0, atol=5e-5)


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
@pytest.mark.parametrize("samples", [1, 7, 159_999, 160_000, 160_001, 240_000, 240_001, CLIP - 1])
def test_padding_is_that_of_transformers(padding: str, samples: int) -> None:
    """The number of repeats is a floor: one off, and up to half of the clip is different."""
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding=padding)
    padded: list[np.ndarray] = []

    def keep(waveform: np.ndarray, mel_filters: np.ndarray) -> np.ndarray:
        padded.append(waveform)
        return np.zeros((1001, 64))

    extractor._np_extract_fbank_features = keep
    wave = noise(samples)
    extractor(wave, sampling_rate=RATE)
    spec = dataclasses.replace(UNFUSED, padding=padding)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pad_clip(wave, spec), padded[0])


def test_clip_longer_by_less_than_a_hop_is_used_whole() -> None:
    """480,000 + 479 samples have 1001 frames, and the last one must see the extra samples."""
    wave = noise(CLIP + 479)
    ours = LogMel(FUSED).clip(wave)
    np.testing.assert_allclose(ours, log_mel_reference(wave, FUSED), rtol=0, atol=1e-4)
    assert np.abs(ours[-1] - LogMel(FUSED).clip(wave[:CLIP])[-1]).max() > 0.1


@pytest.mark.parametrize("norm", ["none", "slaney"])
@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "f_min", "f_max"),
    [
        (48_000, 1024, 64, 0.0, 14_000.0),
        (48_000, 1024, 64, 50.0, 14_000.0),
        (44_101, 512, 40, 20.0, 20_000.0),
        (16_000, 400, 80, 1_500.0, 8_000.0),
    ],
)
def test_mel_bank_is_that_of_transformers(
    scale: str, norm: str, rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float
) -> None:
    spec = dataclasses.replace(
        UNFUSED,
        mel_scale=scale,  # type: ignore[arg-type]
        mel_norm=norm,  # type: ignore[arg-type]
        sampling_rate=rate,
        n_fft=n_fft,
        n_mels=n_mels,
        f_min=f_min,
        f_max=f_max,
    )
    theirs = their_bank(n_fft // 2 + 1, n_mels, f_min, f_max, rate, None if norm == "none" else norm, scale)
    ours = mel_filter_bank(spec)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_frames_and_gather_are_the_middle_of_a_clip() -> None:
    log_mel, wave = LogMel(UNFUSED), noise(CLIP)
    whole = log_mel.clip(wave)
    first = 480 * 10 - 512  # where frame 10 of the centred transform begins
    frames = log_mel.frames(wave[first : first + 1024 + 480 * 199])
    np.testing.assert_allclose(frames, whole[10:210], rtol=0, atol=2e-5)
    rows = np.array([10, 500, 11, 900])
    np.testing.assert_allclose(log_mel.gather(wave, rows * 480 - 512), whole[rows], rtol=0, atol=2e-5)


def test_one_object_serves_many_threads() -> None:
    log_mel = LogMel(UNFUSED)
    waves = [noise(50_000, seed=seed) for seed in range(8)]
    alone = [log_mel.clip(wave) for wave in waves]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(log_mel.clip, waves * 2))
    for ours, expected in zip(together, alone * 2, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_the_callers_waveform_is_left_alone() -> None:
    wave = noise(5_000)
    before = wave.copy()
    wave.setflags(write=False)
    LogMel(UNFUSED).clip(wave)
    np.testing.assert_array_equal(wave, before)


@pytest.mark.parametrize("n_mels", [64, 128])
def test_band_groups_stay_below_the_size_where_blas_starts_threads(n_mels: int) -> None:
    """Above 2^18 multiplications OpenBLAS wakes other threads, which on a busy machine costs 200 ms a clip."""
    log_mel = LogMel(dataclasses.replace(UNFUSED, n_mels=n_mels))
    assert all(64 * weights.size < 1 << 18 for _, _, weights in log_mel._groups)
    assert [band for bands, _, _ in log_mel._groups for band in range(bands.start, bands.stop)] == list(range(n_mels))


@pytest.mark.parametrize(
    ("shape", "fact"),
    [((0,), "(0,)"), ((10, 2), "(10, 2)"), ((CLIP + 480,), "480480"), ((2 * CLIP,), "960000")],
)
def test_a_waveform_that_is_no_clip_is_refused(shape: tuple[int, ...], fact: str) -> None:
    with pytest.raises(AudioError) as caught:
        LogMel(UNFUSED).clip(np.zeros(shape, dtype=np.float32))
    assert fact in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("samples", [0, 1023, 1025, 1024 + 479])
def test_frames_refuses_a_part_of_a_frame(samples: int) -> None:
    with pytest.raises(AudioError, match=rf"\({samples},\).*1024"):
        LogMel(UNFUSED).frames(np.zeros(samples, dtype=np.float32))


@pytest.mark.parametrize(("changes", "fact"), [({"clip_samples": 512}, "512"), ({"n_fft": 1023}, "1023")])
def test_an_impossible_spec_is_refused(changes: dict[str, int], fact: str) -> None:
    with pytest.raises(OptionError, match=fact):
        LogMel(dataclasses.replace(UNFUSED, **changes))  # type: ignore[arg-type]
