"""Arrays as sound: scaling, layouts, rates, and what each refusal says."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
import soundfile

from claprt.audio_io import open_audio
from claprt.errors import AudioError
from tests.sounds import noise, read, refused

RATE = 48_000


@pytest.mark.parametrize(
    ("dtype", "subtype"), [("int16", "PCM_16"), ("int32", "PCM_32"), ("uint8", "PCM_U8"), ("int8", "PCM_S8")]
)
def test_integer_arrays_are_scaled_as_libsndfile_scales_files(dtype: str, subtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.min + 1, -1 if info.min else 127, 0, 128 if not info.min else 1, info.max])
    array = values.astype(dtype)
    width = info.bits // 8
    raw = array.tobytes()
    if width == 1:
        theirs, _ = soundfile.read(
            io.BytesIO(raw), samplerate=RATE, channels=1, format="RAW", subtype=subtype, dtype="float32"
        )
    else:
        theirs, _ = soundfile.read(
            io.BytesIO(raw),
            samplerate=RATE,
            channels=1,
            format="RAW",
            subtype=subtype,
            endian="LITTLE",
            dtype="float32",
        )
    np.testing.assert_array_equal(read(array), theirs)
    assert read(array)[0] == -1.0
    np.testing.assert_array_equal(read(array.astype(array.dtype.newbyteorder())), theirs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_float_arrays_pass_unscaled(dtype: str) -> None:
    array = noise(1_000).astype(dtype)
    np.testing.assert_array_equal(read(array), array.astype(np.float32))


def test_array_layouts() -> None:
    """Mono column, stereo, non-contiguous, reversed, Fortran order, read-only: the same samples."""
    stereo = noise(70_000, 2)
    mean = (stereo[:, 0] + stereo[:, 1]) / np.float32(2)
    np.testing.assert_array_equal(read(stereo), mean)
    np.testing.assert_array_equal(read(np.asfortranarray(stereo)), mean)
    np.testing.assert_array_equal(read(stereo[::-1])[::-1], mean)
    np.testing.assert_array_equal(read(stereo[:, :1]), stereo[:, 0])
    np.testing.assert_array_equal(read(stereo[::3, 1]), stereo[::3, 1])
    frozen = stereo.copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(read(frozen), mean)
    np.testing.assert_array_equal(read(noise(10, 64)).shape, (10,))


def test_blocks_cannot_write_to_the_callers_array() -> None:
    array = noise(100)
    block = next(open_audio(array).blocks())
    with pytest.raises(ValueError, match="read-only"):
        block[0] = 1.0
    array[0] = 0.5  # the caller's own array stays writeable


def test_array_is_let_go_on_close() -> None:
    array = noise(100)
    before = sys.getrefcount(array)
    with open_audio(array) as source:
        assert sum(block.size for block in source.blocks()) == 100
        assert source.known_samples == 100
    assert sys.getrefcount(array) == before
    with pytest.raises(AudioError, match="closed"):
        list(source.blocks())


def test_rate_of_an_array_is_the_argument_or_the_default() -> None:
    assert open_audio(noise(10)).sampling_rate == 48_000
    assert open_audio(noise(10), None, 16_000).sampling_rate == 16_000
    assert open_audio(noise(10), np.int64(8_000), 16_000).sampling_rate == 8_000
    assert open_audio(noise(10)).name == "array"


@pytest.mark.parametrize("rate", [True, 44_100.0, "48000", 0, -1, 999, 768_001, 10**30, float("nan")])
def test_an_impossible_rate_is_refused(rate: Any) -> None:
    message = refused(noise(10), rate)
    assert str(rate) in message
    assert "48000" in message


@pytest.mark.parametrize(
    ("array", "value", "fix"),
    [
        (np.zeros((), np.float32), "()", "(samples,)"),
        (np.zeros((2, 3, 4), np.float32), "(2, 3, 4)", "(samples, channels)"),
        (np.zeros((2, 48_000), np.float32), "(2, 48000)", "array.T"),
        (np.zeros(0, np.float32), "(0,)", "at least one"),
        (np.zeros((0, 2), np.float32), "(0, 2)", "at least one"),
        (np.zeros((5, 0), np.float32), "(5, 0)", "at least one"),
        (np.zeros(5, bool), "bool", "float32"),
        (np.zeros(5, complex), "complex128", "float32"),
        (np.zeros(5, object), "object", "float32"),
        (np.zeros(5, np.int64), "int64", "int16"),
        (np.zeros(5, np.uint16), "uint16", "int16"),
        (np.zeros(5, np.uint32), "uint32", "int16"),
        (np.zeros(5, np.longdouble), np.dtype(np.longdouble).name, "float32"),
        (np.array(["a"]), "str32", "float32"),
        (np.ma.masked_array([0.5, 0.5], [True, False]), "masked", "filled"),
        ([0.0, 0.5], "list", "np.asarray(x, dtype=np.float32)"),
        ((0.0, 0.5), "tuple", "np.asarray(x, dtype=np.float32)"),
        (None, "NoneType", "path"),
        (3, "int", "path"),
        (b"RIFF....", "bytes", "io.BytesIO"),
        (bytearray(b"RIFF"), "bytearray", "io.BytesIO"),
    ],
)
def test_what_is_not_sound_is_refused_with_the_value_and_the_fix(array: Any, value: str, fix: str) -> None:
    message = refused(array)
    assert value in message
    assert fix in message


@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e300, "1e+300"), (12345.0, "12345")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_bad_sample_is_named_by_index_and_time(value: float, text: str, channels: int) -> None:
    array = np.zeros((200_000, channels))
    array[120_000, channels - 1] = value
    message = refused(array)
    assert f"sample 120000 (at 2.5 s) is {text}" in message
    assert ("32768" if np.isfinite(value) else "nan_to_num") in message


@pytest.mark.parametrize("peak", [1.0, 1.5, -8.0, 64.0])
def test_samples_somewhat_above_full_scale_pass(peak: float) -> None:
    np.testing.assert_array_equal(read(np.array([0.0, peak])), np.array([0.0, peak], np.float32))
