"""PCM of more than 2^32 samples through the emulated kernels: offsets and lengths that 32 bits do not hold.

The samples are in files with holes, as large as such PCM; a few pages of them are touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kernels.emulated import EmulatedLogMel, EmulatedResampler
from tests.kernels.log_mel_cases import allowed_below, as_float, assert_near
from tests.specs import FUSED

from claprt_kernels import layout
from claprt_kernels.reference import log_mel_reference

OFFSET, LENGTH = 2**31 + 7, 2_600_000_000  # both beyond an int; and where the clip ends, beyond an unsigned
SPEC = dataclasses.replace(FUSED, clip_samples=2_048)


@pytest.fixture
def sparse(tmp_path: Path) -> Callable[..., Any]:
    """Makes an array of zeros that takes no memory and no disk."""

    def make(count: int, dtype: Any) -> Any:
        path = tmp_path / np.dtype(dtype).name
        with path.open("wb") as file:
            file.truncate(count * np.dtype(dtype).itemsize)
        array = np.memmap(path, dtype, mode="r+")
        assert array.size == count
        return array

    return make


def frame(pcm: NDArray[np.int16], number: int) -> NDArray[np.float64]:
    """Decibels (n_mels,) of one frame of the long clip, of which noise is put around it first."""
    centre = OFFSET + number * SPEC.hop_length
    wave = pcm[centre - 960 : centre + 1_088]
    if not wave.any():
        wave[:] = np.random.default_rng(number).integers(-20_000, 20_000, wave.size)
    whole: NDArray[np.float64] = log_mel_reference(as_float(np.asarray(wave)), SPEC)[2]
    return whole


def test_a_clip_far_out_and_as_long(emulation: Path, sparse: Callable[..., Any]) -> None:
    """15 hours of it, with fusion: its frames lie everywhere in it. And short clips at both ends."""
    pcm = sparse(OFFSET + LENGTH, np.int16)
    total, frames = 1 + LENGTH // SPEC.hop_length, SPEC.frames
    runs = np.array_split(np.arange(total - frames + 1), 3)
    starts = [int(run[len(run) // 2]) for run in runs]
    places = [np.float32(np.float32(total) / np.float32(frames)) * (row + 0.5) - 0.5 for row in range(frames)]
    rows = [(int(np.float32(place)), float(np.float32(place)) - int(np.float32(place))) for place in places]
    for number in {start + row for start in starts for row in range(frames)} | {
        low + i for low, _ in rows for i in (0, 1)
    }:
        frame(pcm, number)  # noise first, everywhere: frames overlap
    shrunk = [frame(pcm, low) * (1 - weight) + frame(pcm, low + 1) * weight for low, weight in rows]
    crops = [[frame(pcm, start + row) for row in range(frames)] for start in starts]
    expected = np.array([shrunk, *crops])
    table = np.array([(OFFSET, LENGTH)], dtype=layout.CLIP)
    found = EmulatedLogMel(emulation).run(pcm, table, SPEC, channels=4)[0]
    assert_near(found, expected, allowed_below(expected.max() - expected))

    pcm[-2_048:] = np.random.default_rng(0).integers(-20_000, 20_000, 2_048)
    table = np.array([(OFFSET + LENGTH - 2_048, 2_048), (OFFSET + LENGTH - 700, 700)], dtype=layout.CLIP)
    found = EmulatedLogMel(emulation).run(pcm, table, SPEC)[:, 0]
    expected = np.stack([log_mel_reference(as_float(np.asarray(pcm[-length:])), SPEC) for length in (2_048, 700)])
    assert_near(found, expected, allowed_below(expected.max() - expected))


def test_resampling_far_out(emulation: Path, sparse: Callable[..., Any]) -> None:
    """From there, and to there: the same as from the beginning."""
    wave = np.random.default_rng(0).integers(-20_000, 20_000, (700, 2)).astype(np.int16)
    resampler = EmulatedResampler(emulation)
    (expected,) = resampler([wave], 44_100, 48_000, 2)
    pcm, out = sparse(2 * (OFFSET + 700), np.int16), sparse(OFFSET + expected.size, np.float32)
    pcm[2 * OFFSET :] = wave.reshape(-1)
    resampler.run(pcm, [(OFFSET, 700, OFFSET)], 44_100, 48_000, 2, out)
    np.testing.assert_array_equal(out[OFFSET:], expected)
