"""Sanitizers on the kernel's source, and faults planted into it: the proofs of the other tests can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.kernels.emulated import EMULATION, FLAGS, INCLUDES, SOURCES, EmulatedLogMel, compile_emulated
from tests.kernels.log_mel_cases import CLIP, assert_near, reference, sound, tolerance
from tests.specs import UNFUSED


def sanitized(folder: Path, sanitizer: str, sources: Path = SOURCES) -> subprocess.CompletedProcess[str]:
    """`sanitized.cpp`, every CUDA thread an OS thread, compiled with a sanitizer and run."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the emulated kernels with")
    program = folder / "sanitized"
    flags = (*FLAGS, "-g", "-O1", "-DCLAPRT_THREADS", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    command = [compiler, *flags, "-pthread", *INCLUDES, f"-I{sources}", str(EMULATION / "sanitized.cpp")]
    subprocess.run([*command, "-o", str(program)], check=True)
    env = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([str(program)], capture_output=True, text=True, check=False, env=env, timeout=300)


def planted(folder: Path, old: str, new: str, *, number: int = 0) -> Path:
    """A copy of csrc in which one occurrence of a text is replaced."""
    copy = folder / "csrc"
    shutil.copytree(SOURCES, copy)
    source = (copy / "log_mel.cuh").read_text(encoding="utf-8")
    places = [match.start() for match in re.finditer(re.escape(old), source)]
    assert len(places) > number, f"{old!r} is not in the source any more"
    at = places[number]
    (copy / "log_mel.cuh").write_text(source[:at] + new + source[at + len(old) :], encoding="utf-8")
    return copy


def is_right(sources: Path, folder: Path) -> bool:
    log_mel = EmulatedLogMel(compile_emulated(folder / "log_mel.so", sources=sources))
    for signal, length in (("noise", CLIP), ("chirps", 158_400)):
        expected = reference(signal, length, UNFUSED)[None]
        try:
            assert_near(log_mel([sound(signal, length)], UNFUSED), expected, tolerance(expected))
        except AssertionError:
            return False
    return True


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers_find_nothing(tmp_path: Path, sanitizer: str) -> None:
    done = sanitized(tmp_path, sanitizer)
    assert done.stderr == ""
    assert done.stdout == "done\n"
    assert done.returncode == 0


# In order of their place in the source: four in fft1024, one before it (the frames' scratch memory), one after the
# powers. The fourth stands before shuffles, which order memory in the emulation, and on a GPU do not.
@pytest.mark.parametrize("number", [0, 1, 2, 4, 5])
def test_a_missing_barrier_is_a_data_race(tmp_path: Path, number: int) -> None:
    done = sanitized(tmp_path, "thread", planted(tmp_path, "__syncwarp();", "", number=number))
    assert "data race" in done.stderr
    assert "log_mel.cuh" in done.stderr
    assert done.returncode != 0


def test_a_warp_in_the_memory_of_another_is_a_data_race(tmp_path: Path) -> None:
    done = sanitized(tmp_path, "thread", planted(tmp_path, "exchange[33 * l + lane]", "exchange[34 * l + lane]"))
    assert "data race" in done.stderr


def test_a_missing_barrier_gives_wrong_numbers(tmp_path: Path) -> None:
    assert not is_right(planted(tmp_path, "__syncwarp();", ""), tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("samples + begin + lane", "samples + begin + lane + 600"),
        ("value(samples + position)", "value(samples + position + 1)"),
        ("const long long size = a.channels * channel_size;", "const long long size = a.channels * channel_size + 1;"),
        ("if (both) store", "if (both || true) store"),
    ],
)
def test_an_access_out_of_bounds_is_found(tmp_path: Path, old: str, new: str) -> None:
    done = sanitized(tmp_path, "address,undefined", planted(tmp_path, old, new))
    assert "overflow" in done.stderr or "out of bounds" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("33 * lane + p", "33 * p + lane"),  # the matrix is not transposed
        ("(32 - lane) % 32", "(31 - lane) % 32"),
        ("if (lane == 0) there", "if (false) there"),
        ("0.41421356237309505f", "0.41422356237309505f"),  # one constant, in its fifth digit
        ("position = -position", "position = -position - 1"),  # the edge sample twice
        ("2 * (total - 1) - position", "2 * total - 1 - position"),
        ("a.hop - kFft / 2", "a.hop - kFft / 2 + 1"),
        ("fmaf(ar, ar, ai * ai), fmaf(br, br, bi * bi)", "fmaf(br, br, bi * bi), fmaf(ar, ar, ai * ai)"),
        (
            "static_cast<int>(total) / static_cast<int>(length) *",
            "static_cast<int>(total) / static_cast<int>(length) + 0 *",
        ),
        (
            "const float br = here.y + there.y, bi = here.x - there.x",
            "const float br = here.y - there.y, bi = here.x - there.x",
        ),
    ],
)
def test_a_wrong_index_or_constant_is_found(tmp_path: Path, old: str, new: str) -> None:
    sources = planted(tmp_path, old, new)
    if old == "(32 - lane) % 32":  # it stands there twice, for the two parts of a number
        text = (sources / "log_mel.cuh").read_text(encoding="utf-8")
        (sources / "log_mel.cuh").write_text(text.replace(old, new), encoding="utf-8")
    assert not is_right(sources, tmp_path)


def test_clips_outside_of_the_pcm_are_nan(tmp_path: Path) -> None:
    """A table in device memory cannot be checked before the launch: nothing is read, and nobody mistakes the result."""
    from claprt_kernels.layout import CLIP as CLIP_DTYPE

    log_mel = EmulatedLogMel(compile_emulated(tmp_path / "log_mel.so"))
    pcm = sound("noise", 10_000)
    table = np.array([(0, 0), (0, -5), (-1, 5), (9_999, 2), (10_000, 1), (2**62, 2**62), (0, 10_000)], dtype=CLIP_DTYPE)
    for out in (np.float16, np.float32):
        for channels in (1, 4):
            result = log_mel.run(pcm, table, UNFUSED, out, channels)
            assert np.isnan(result[:-1]).all()
            assert np.isfinite(result[-1]).all()


def test_nan_samples_stay_visible(tmp_path: Path) -> None:
    log_mel = EmulatedLogMel(compile_emulated(tmp_path / "log_mel.so"))
    wave = np.zeros(CLIP, dtype=np.float32)
    wave[240_000] = np.nan
    result = log_mel([wave], UNFUSED)
    assert np.isnan(result[0, 0, 500]).all()
    assert (result[0, 0, :498] == -100).all()
