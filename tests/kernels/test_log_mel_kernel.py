"""Every log-Mel implementation against float64: NumPy, the CUDA kernel emulated on this CPU, and on a GPU."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kernels.emulated import EmulatedLogMel
from tests.kernels.launchers import LIBRARIES
from tests.kernels.log_mel_cases import (
    CLIP,
    LENGTHS,
    RATE,
    SIGNALS,
    allowed_below,
    as_float,
    assert_near,
    reference,
    sound,
    tolerance,
)
from tests.kernels.on_gpu import GpuLogMel
from tests.kernels.on_gpu_c import CLogMel
from tests.specs import FUSED, UNFUSED

from claprt.audio_io import open_audio
from claprt.log_mel import LogMel
from claprt.recipes import clips, features
from claprt.spec import LogMelSpec

Implementation = Callable[..., NDArray[np.floating]]


def numpy_log_mel(
    waves: list[np.ndarray], spec: LogMelSpec, out: Any = np.float32, channels: int = 1
) -> NDArray[np.floating]:
    recipe = "head" if channels == 1 else "fusion"
    log_mel = LogMel(spec)
    rows = []
    for wave in waves:
        source = open_audio(wave if wave.dtype == np.float32 else as_float(wave), spec.sampling_rate)
        (clip,) = clips(source, spec, recipe, channels)
        rows.append(features(clip, log_mel, channels))
    return np.stack(rows).astype(out)


@pytest.fixture(scope="session")
def emulated(emulation: Path) -> EmulatedLogMel:
    return EmulatedLogMel(emulation)


@pytest.fixture(scope="session")
def cuda_c(gpu_library: Path) -> CLogMel:
    return CLogMel(gpu_library)


@pytest.fixture(params=["numpy", "emulated", *LIBRARIES, "cuda_c"])
def log_mel(request: pytest.FixtureRequest) -> Implementation:
    if request.param == "numpy":
        return numpy_log_mel
    if request.param in LIBRARIES:
        return GpuLogMel(request.getfixturevalue("on_gpu")(request.param))
    implementation: Implementation = request.getfixturevalue(request.param)
    return implementation


BANKS = [
    dataclasses.replace(spec, f_min=f_min, padding=padding)  # type: ignore[arg-type]
    for spec, f_min, padding in itertools.product((UNFUSED, FUSED), (0.0, 50.0), ("repeatpad", "repeat", "pad"))
]
TYPES = list(itertools.product((np.int16, np.float32), (np.float16, np.float32)))
# All four pairs of types for repeatpad, what every released model uses; the others take turns.
CASES = [
    pytest.param(
        spec, *types, id=f"{spec.mel_scale}-{spec.f_min:g}-{spec.padding}-{types[0].__name__}-{types[1].__name__}"
    )
    for number, spec in enumerate(BANKS)
    for types in (TYPES if spec.padding == "repeatpad" else [TYPES[number % 4]])
]


def check(log_mel: Implementation, sounds: list[tuple[str, int]], spec: LogMelSpec, samples: Any, out: Any) -> None:
    waves = [sound(*which) if samples == np.int16 else as_float(sound(*which)) for which in sounds]
    ours = log_mel(waves, spec, out)
    assert ours.dtype == out
    expected = np.stack([reference(*which, spec) for which in sounds])
    assert_near(ours, expected, tolerance(expected))


@pytest.mark.parametrize(("spec", "samples", "out"), CASES)
def test_batch_of_all_lengths(log_mel: Implementation, spec: LogMelSpec, samples: Any, out: Any) -> None:
    """17 clips at once: every length, and every kind of signal at some length."""
    kinds = itertools.cycle(SIGNALS)
    sounds = [(next(kinds), length) for length in LENGTHS]
    sounds += [(kind, CLIP) for kind in ("chirps", "onset", "square", "impulses", "silence")]
    assert len(sounds) == 17
    check(log_mel, sounds, spec, samples, out)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("batch", [1, 3])
def test_small_batches(log_mel: Implementation, signal: str, batch: int) -> None:
    check(log_mel, [(signal, length) for length in (CLIP, 1_025, 158_400)[:batch]], UNFUSED, np.float32, np.float32)


@pytest.mark.parametrize("out", [np.float16, np.float32])
def test_fusion(log_mel: Implementation, out: Any) -> None:
    """Four channels, of short and long clips side by side: no longer than a clip, a frame more, 37 s."""
    lengths = [1_025, CLIP, CLIP + 479, CLIP + 480, CLIP + 960, CLIP + 3 * 480 + 7, 37 * RATE + 11]
    sounds = [(signal, length) for signal, length in zip(itertools.cycle(["noise", "chirps"]), lengths, strict=False)]
    ours = log_mel([sound(*which) for which in sounds], FUSED, out, channels=4)
    expected = np.stack([reference(*which, FUSED, True) for which in sounds])
    # The shrunk channel mixes neighbours, whose peaks differ: as loud as the loudest of the sound, for all.
    assert_near(ours, expected, allowed_below(expected.max() - expected))


@pytest.mark.parametrize(
    "changes",
    [
        {"hop_length": 441, "clip_samples": 100_001, "n_mels": 80, "sampling_rate": 44_100},  # odd; above 15 kHz
        {"f_max": 24_000.0, "n_mels": 128},  # the last bin
        {"f_max": 51.0, "n_mels": 3},  # no bin between 50 and 51 Hz: bands that are all floor
        {"log_floor": 1e-5, "n_mels": 33},
        {"int16": True},
        {"hop_length": 513, "clip_samples": 513},  # two frames, mirrored at one end or at both
        {"hop_length": 1, "clip_samples": 700},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
@pytest.mark.parametrize("samples", [np.int16, np.float32])
def test_other_specifications(log_mel: Implementation, changes: dict[str, Any], samples: Any) -> None:
    spec = dataclasses.replace(UNFUSED, **changes)
    check(log_mel, [("noise", CLIP), ("noise", 513), ("onset", 4_800)], spec, samples, np.float32)


def test_int16_round_trip_of_floats_between_integers(log_mel: Implementation) -> None:
    """And beyond full scale: clipped, not wrapped."""
    spec = dataclasses.replace(UNFUSED, int16=True)
    wave = (np.random.default_rng(0).standard_normal(CLIP) * 0.5).astype(np.float32)
    assert np.abs(wave).max() > 1.02
    from claprt_kernels.reference import log_mel_reference

    expected = log_mel_reference(wave, spec)[None, None]
    assert_near(log_mel([wave], spec), expected, tolerance(expected))
