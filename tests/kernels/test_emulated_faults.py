"""Sanitizers on the kernel's source, and faults planted into it: the proofs of the other tests can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.kernels.emulated import (
    EMULATION,
    FLAGS,
    INCLUDES,
    SOURCES,
    EmulatedLogMel,
    EmulatedResampler,
    compile_emulated,
)
from tests.kernels.log_mel_cases import CLIP, assert_near, reference, sound, tolerance
from tests.kernels.test_resample_kernel import by_definition
from tests.specs import UNFUSED

from claprt_kernels import resample


@dataclass(frozen=True)
class Fault:
    """One occurrence of a text in a file of csrc, replaced; or every one."""

    old: str
    new: str
    number: int | None = 0
    file: str = "log_mel.cuh"

    def plant(self, folder: Path) -> Path:
        """A copy of csrc with the fault."""
        copy = folder / "csrc"
        shutil.copytree(SOURCES, copy)
        source = (copy / self.file).read_text(encoding="utf-8")
        places = [match.start() for match in re.finditer(re.escape(self.old), source)]
        assert len(places) > (self.number or 0), f"{self.old!r} is not in the source any more"
        for at in reversed(places if self.number is None else [places[self.number]]):
            source = source[:at] + self.new + source[at + len(self.old) :]
        (copy / self.file).write_text(source, encoding="utf-8")
        return copy


SOUND = Fault("", "")  # the source as it is
# In order of their place in the source: four in fft1024, one before it (the frames' scratch memory), one after the
# powers. The fourth stands before shuffles, which order memory in the emulation, and on a GPU do not.
RACES = [
    *(Fault("__syncwarp();", "", number) for number in (0, 1, 2, 4, 5)),
    Fault("exchange[33 * l + lane]", "exchange[34 * l + lane]"),  # a warp in the memory of another
    Fault("__syncthreads();", "", file="resample.cuh"),
    Fault("    x[i] = sum", "    x[i / 2] = sum", file="resample.cuh"),  # two threads write one value
]
OUT_OF_BOUNDS = [
    Fault("samples + begin + lane", "samples + begin + lane + 600"),
    Fault("value(samples + position)", "value(samples + position + 1)"),
    Fault("const long long size = a.channels * channel_size;", "const long long size = a.channels * channel_size + 1;"),
    Fault("if (both) store", "if (both || true) store"),
    Fault("frame < clip.length)", "frame <= clip.length)", file="resample.cuh"),
    Fault("frame >= 0 && ", "", file="resample.cuh"),
    Fault("a.channels + channel]", "a.channels + channel + 1]", file="resample.cuh"),
    Fault("out[clip.out_offset + n]", "out[clip.out_offset + n + 1]", file="resample.cuh"),
    Fault("t < a.tap_count", "t <= a.tap_count", file="resample.cuh"),
    Fault("kResampleSpan = 3072", "kResampleSpan = 384", file="resample.cuh"),
]
WRONG = [
    Fault("__syncwarp();", ""),
    Fault("33 * lane + p", "33 * p + lane"),  # the matrix is not transposed
    Fault("(32 - lane) % 32", "(31 - lane) % 32", None),
    Fault("if (lane == 0) there", "if (false) there"),
    Fault("0.41421356237309505f", "0.41422356237309505f"),  # one constant, in its fifth digit
    Fault("position = -position", "position = -position - 1"),  # the edge sample twice
    Fault("2 * (total - 1) - position", "2 * total - 1 - position"),
    Fault("a.hop - kFft / 2", "a.hop - kFft / 2 + 1"),
    Fault("fmaf(ar, ar, ai * ai), fmaf(br, br, bi * bi)", "fmaf(br, br, bi * bi), fmaf(ar, ar, ai * ai)"),
    Fault("static_cast<int>(total) / static_cast<int>(length) *", "0 *"),
    Fault("bi = here.x - there.x", "bi = here.x + there.x"),
    Fault("__syncthreads();", "", file="resample.cuh"),
    Fault("+ a.tap_count / 2 - begin) + 1", "- begin) + 1", file="resample.cuh"),  # half of the last thread's samples
    Fault("- a.tap_count / 2 + 1 - begin", "- a.tap_count / 2 - begin", file="resample.cuh"),
    Fault("position % a.up", "(position + 1) % a.up", file="resample.cuh"),
    Fault("frame = begin + i;", "frame = begin + i + 1;", file="resample.cuh"),
    Fault("tap + t * a.up", "tap + t * a.down", file="resample.cuh"),
    Fault("sum * a.gain", "sum", file="resample.cuh"),
    Fault(
        "<= 0 || clip.length > a.pcm_frames - clip.offset",
        "<= 0 || clip.length >= a.pcm_frames - clip.offset",
        file="resample.cuh",
    ),
]
RARE = [fault for faults in (OUT_OF_BOUNDS, WRONG) for fault in faults if fault.file == "resample.cuh"]
RARE = [fault for fault in RARE if fault.old not in ("frame < clip.length)", "position % a.up", "sum * a.gain")]


def cases(faults: Sequence[Fault]) -> list[Any]:
    """Each takes seconds to compile: of a kind that is there more than once, `make test` plants one."""
    return [pytest.param(fault, marks=pytest.mark.full if fault in RARE else (), id=str(fault)) for fault in faults]


def wanted(request: pytest.FixtureRequest, faults: Sequence[Fault]) -> list[Fault]:
    """Those that tests of this run ask for."""
    asked = [item.callspec.params.get("fault") for item in request.session.items if hasattr(item, "callspec")]
    return [fault for fault in faults if fault in asked]


Sanitized = Callable[[str, Fault], "subprocess.CompletedProcess[str]"]
IsRight = Callable[[Fault], bool]


def sanitize(folder: Path, sanitizer: str, fault: Fault) -> subprocess.CompletedProcess[str]:
    """`sanitized.cpp`, every CUDA thread an OS thread, compiled with a sanitizer and run.

    With -O0 g++ copies a float2 unseen by ThreadSanitizer.
    """
    sources = SOURCES if fault is SOUND else fault.plant(folder)
    program = folder / "sanitized"
    flags = (*FLAGS, "-w", "-g", "-Og", "-DCLAPRT_THREADS", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    command = ["g++", *flags, "-pthread", *INCLUDES, f"-I{sources}", str(EMULATION / "sanitized.cpp")]
    subprocess.run([*command, "-o", str(program)], check=True)
    env = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([str(program)], capture_output=True, text=True, check=False, env=env, timeout=600)


def is_right(folder: Path, fault: Fault) -> bool:
    """Whether the kernels with a fault compute the reference."""
    library = compile_emulated(folder / "kernels.so", "-w", sources=fault.plant(folder))
    if fault.file == "resample.cuh":
        return resamples_right(library)
    log_mel = EmulatedLogMel(library)
    for signal, length in (("noise", CLIP), ("chirps", 158_400)):
        expected = reference(signal, length, UNFUSED)[None]
        try:
            assert_near(log_mel([sound(signal, length)], UNFUSED), expected, tolerance(expected))
        except AssertionError:
            return False
    return True


def resamples_right(library: Path) -> bool:
    """Whether two stereo clips of 44.1 kHz become what the formula says."""
    random = np.random.default_rng(0)
    clips = [random.standard_normal((length, 2)).astype(np.float32) for length in (300, 701)]
    up, down = resample.ratio(44_100, 48_000)
    found = EmulatedResampler(library)(clips, 44_100, 48_000, 2)
    expected = [
        by_definition(clip.mean(axis=1, dtype=np.float64), up, down, resample.filter_taps(up, down)) for clip in clips
    ]
    return all(np.allclose(ours, right, rtol=0, atol=2e-6) for ours, right in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Compilers and programs run side by side: most of the time goes into those."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the emulated kernels with")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def sanitized(
    pool: ThreadPoolExecutor, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Sanitized:
    runs = [("thread", SOUND), ("address,undefined", SOUND)]
    runs += [("thread", fault) for fault in wanted(request, RACES)]
    runs += [("address,undefined", fault) for fault in wanted(request, OUT_OF_BOUNDS)]
    jobs = {run: pool.submit(sanitize, tmp_path_factory.mktemp("sanitized"), *run) for run in runs}
    return lambda sanitizer, fault: jobs[sanitizer, fault].result()


@pytest.fixture(scope="module")
def right(
    pool: ThreadPoolExecutor, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> IsRight:
    faults = wanted(request, WRONG)
    jobs = {fault: pool.submit(is_right, tmp_path_factory.mktemp("wrong"), fault) for fault in faults}
    return lambda fault: jobs[fault].result()


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers_find_nothing(sanitized: Sanitized, sanitizer: str) -> None:
    done = sanitized(sanitizer, SOUND)
    assert done.stderr == ""
    assert done.stdout == "done\n"
    assert done.returncode == 0


@pytest.mark.parametrize("fault", cases(RACES))
def test_a_missing_barrier_is_a_data_race(sanitized: Sanitized, fault: Fault) -> None:
    done = sanitized("thread", fault)
    assert "data race" in done.stderr
    assert fault.file in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("fault", cases(OUT_OF_BOUNDS))
def test_an_access_out_of_bounds_is_found(sanitized: Sanitized, fault: Fault) -> None:
    done = sanitized("address,undefined", fault)
    assert "overflow" in done.stderr or "out of bounds" in done.stderr
    assert done.returncode != 0


def test_the_source_without_a_fault_is_right(emulation: Path) -> None:
    assert resamples_right(emulation)


@pytest.mark.parametrize("fault", cases(WRONG))
def test_a_wrong_index_barrier_or_constant_gives_wrong_numbers(right: IsRight, fault: Fault) -> None:
    assert not right(fault)


def test_clips_outside_of_the_pcm_are_nan(emulation: Path) -> None:
    """A table in device memory cannot be checked before the launch: nothing is read, and nobody mistakes the result."""
    from claprt_kernels.layout import CLIP as CLIP_DTYPE

    log_mel = EmulatedLogMel(emulation)
    pcm = sound("noise", 10_000)
    table = np.array([(0, 0), (0, -5), (-1, 5), (9_999, 2), (10_000, 1), (2**62, 2**62), (0, 10_000)], dtype=CLIP_DTYPE)
    for out in (np.float16, np.float32):
        for channels in (1, 4):
            result = log_mel.run(pcm, table, UNFUSED, out, channels)
            assert np.isnan(result[:-1]).all()
            assert np.isfinite(result[-1]).all()


def test_nan_samples_stay_visible(emulation: Path) -> None:
    log_mel = EmulatedLogMel(emulation)
    wave = np.zeros(CLIP, dtype=np.float32)
    wave[240_000] = np.nan
    result = log_mel([wave], UNFUSED)
    assert np.isnan(result[0, 0, 500]).all()
    assert (result[0, 0, :498] == -100).all()
