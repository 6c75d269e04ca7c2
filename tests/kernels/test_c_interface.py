"""The C interface: its header from C, its host code on an emulated CUDA runtime, the real library by nvcc."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.kernels.emulated import EMULATION, FLAGS, SOURCES, EmulatedLogMel, EmulatedResampler, clip_table
from tests.kernels.log_mel_cases import CLIP, as_float, assert_near, reference, sound, tolerance
from tests.kernels.on_gpu_c import NORMS, PADDINGS, SCALES, TYPES, CResampler, CSpec, load
from tests.specs import FUSED, UNFUSED

from claprt_kernels import KernelSpecError, layout
from claprt_kernels import compile as kernel_files
from claprt_kernels.reference import log_mel_reference

EXAMPLE = Path(__file__).resolve().parents[2] / "kernels" / "examples" / "log_mel.c"


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libclaprt_log_mel.so, all of its code compiled by g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the emulated library with")
    library = tmp_path_factory.mktemp("library") / "libclaprt_log_mel.so"
    command = [compiler, *FLAGS, "-Werror", "-fPIC", "-shared", "-pthread", f"-I{EMULATION}", "-x", "c++"]
    sources = [str(SOURCES / name) for name in kernel_files.LIBRARY]
    subprocess.run([*command, *sources, "-o", str(library)], check=True)
    return library


@pytest.fixture(scope="module")
def api(emulated_library: Path) -> Any:
    return load(emulated_library)


def create(api: Any, batch: int = 4, **fields: Any) -> tuple[int, ctypes.c_void_p]:
    spec = CSpec()
    api.claprt_log_mel_default_spec(ctypes.byref(spec))
    for name, value in fields.items():
        setattr(spec, name, value)
    handle = ctypes.c_void_p()
    return api.claprt_log_mel_create(ctypes.byref(handle), ctypes.byref(spec), batch), handle


def run(
    api: Any, to: Any, samples: np.ndarray, table: np.ndarray, result: np.ndarray, name: str = "run", **changes: Any
) -> int:
    arguments = {
        "handle": to,
        "pcm": samples.ctypes.data,
        "pcm_samples": samples.size,
        "pcm_type": TYPES[samples.dtype.name],
        "clips": table.ctypes.data,
        "batch": len(table),
        "out": result.ctypes.data,
        "out_type": TYPES[result.dtype.name],
        **changes,
    }
    pointers = {"handle", "pcm", "clips", "out"}
    values = [
        ctypes.c_void_p(value if not isinstance(value, ctypes.c_void_p) else value.value)
        if key in pointers
        else (ctypes.c_int64(value) if key == "pcm_samples" else ctypes.c_int(value))
        for key, value in arguments.items()
    ]
    status: int = getattr(api, f"claprt_log_mel_{name}")(*values, None)
    return status


def message(api: Any) -> str:
    text: bytes = api.claprt_log_mel_message()
    return text.decode()


@pytest.mark.parametrize("name", ["run", "run_device"])
@pytest.mark.parametrize(("channels", "out"), [(1, np.float16), (1, np.float32), (4, np.float32)])
def test_it_is_the_reference(api: Any, name: str, channels: int, out: Any) -> None:
    """A batch in one buffer, both entry points; HTK without norm and with fusion, or the default specification."""
    spec = FUSED if channels == 4 else UNFUSED
    fields = {"channels": 4, "mel_scale": 0, "mel_norm": 0} if channels == 4 else {}
    status, handle = create(api, **fields)
    assert (status, message(api)) == (0, "")
    assert api.claprt_log_mel_frames(handle) == 1001
    sounds = [("chirps", 1_025), ("noise", CLIP), ("noise", CLIP + 960)]
    waves = [sound(*which) for which in sounds]
    pcm = np.concatenate(waves) if out == np.float16 else as_float(np.concatenate(waves))
    table = clip_table([wave.size for wave in waves])
    result = np.full((3, channels, 1001, 64), np.nan, dtype=out)
    assert run(api, handle, pcm, table, result, name) == 0
    expected = np.stack([reference(*which, spec, channels == 4) for which in sounds])
    assert_near(result, expected, tolerance(expected))
    api.claprt_log_mel_destroy(handle)


def test_factor_and_summand(api: Any) -> None:
    """One of each for every band, or one of them alone; the arrays are no longer needed when a handle has been made."""
    wave, expected = sound("noise", CLIP), reference("noise", CLIP, UNFUSED)[None]
    values = {"factor": np.linspace(0.5, 2.0, 64), "summand": np.linspace(-3.0, 40.0, 64)}
    for names in (("factor", "summand"), ("factor",), ("summand",)):
        given = {name: (ctypes.c_float * 64)(*values[name]) for name in names}
        pointers: dict[str, Any] = {
            name: ctypes.cast(array, ctypes.POINTER(ctypes.c_float)) for name, array in given.items()
        }
        status, handle = create(api, **pointers)
        assert (status, message(api)) == (0, "")
        for array in given.values():
            array[:] = [math.nan] * 64
        result = np.full((1, 1, 1001, 64), np.nan, dtype=np.float32)
        assert run(api, handle, wave, clip_table([CLIP]), result) == 0
        factor, summand = (
            values["factor"] if "factor" in names else 1.0,
            values["summand"] if "summand" in names else 0.0,
        )
        assert_near(result, expected * factor + summand, 2 * tolerance(expected) + 1e-5)
        api.claprt_log_mel_destroy(handle)


def test_runs_under_way_do_not_take_each_others_tables(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 runs that nobody has waited for, each with other clips and another result: there are 16 tables."""
    monkeypatch.setenv("CLAPRT_EMULATED_DEFER", "1")
    spec = dataclasses.replace(UNFUSED, clip_samples=2_048)
    wave = sound("noise", CLIP)
    status, handle = create(api, clip_samples=2_048)
    assert status == 0
    tables = [np.array([(1_000 * i, 2_048), (7_000 * i, 300 + i)], dtype=layout.CLIP) for i in range(40)]
    results = [np.full((2, 1, spec.frames, 64), np.nan, dtype=np.float32) for _ in tables]
    for table, result in zip(tables, results, strict=True):
        given = table.copy()
        assert run(api, handle, wave, given, result) == 0
        given["offset"] = 0  # copied before the call returned
    assert np.isnan(results[-1]).all()  # put off
    api.claprt_log_mel_destroy(handle)  # waits
    for table, result in zip(tables, results, strict=True):
        waves = [as_float(wave[offset : offset + length]) for offset, length in table.tolist()]
        expected = np.stack([log_mel_reference(clip, spec)[None] for clip in waves])
        assert_near(result, expected, tolerance(expected))


def test_resampler_runs_under_way_do_not_take_each_others_tables(
    api: Any, emulation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = sound("noise", CLIP)
    clips = [wave[1_000 * i : 1_100 * i + 100] for i in range(40)]
    expected = EmulatedResampler(emulation)(clips, 24_000, 48_000)
    monkeypatch.setenv("CLAPRT_EMULATED_DEFER", "1")
    resampler = CResampler(api, 24_000)
    results = [np.full(len(result), np.nan, dtype=np.float32) for result in expected]
    for i, result in enumerate(results):
        assert resampler.run(wave, [(1_000 * i, len(clips[i]))], result) == 0
    assert np.isnan(results[-1]).all()
    resampler.close()
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"mel_scale": 0, "mel_norm": 1, "f_min": 0.0, "f_max": 24_000.0, "n_mels": 100},
        {"padding": 2, "hop_length": 441, "clip_samples": 100_001, "sampling_rate": 44_100, "f_max": 10_000.5},
        {"padding": 1, "int16_round_trip": 1, "log_floor": 1e-6},
    ],
)
def test_tables_are_those_of_python(api: Any, emulation: Path, changes: dict[str, Any]) -> None:
    """The same numbers come out of the tables that C++ makes as of Python's, to the last bit or two."""
    names = {"mel_scale": SCALES, "mel_norm": NORMS, "padding": PADDINGS}
    fields = {"int16" if name == "int16_round_trip" else name: value for name, value in changes.items()}
    python = {name: names[name][value] if name in names else value for name, value in fields.items()}
    spec = dataclasses.replace(UNFUSED, **python)
    status, handle = create(api, **changes)
    assert (status, message(api)) == (0, "")
    wave = sound("noise", 60_000)
    table = np.array([(0, wave.size)], dtype=layout.CLIP)
    result = np.full((1, 1, spec.frames, spec.n_mels), np.nan, dtype=np.float32)
    assert run(api, handle, wave, table, result) == 0
    python_result = EmulatedLogMel(emulation)([wave], spec)
    np.testing.assert_allclose(result, python_result, rtol=0, atol=1e-5)
    api.claprt_log_mel_destroy(handle)


WORDS = {"mel_scale": SCALES, "mel_norm": NORMS, "padding": PADDINGS}


def in_c(**fields: Any) -> dict[str, Any]:
    """Fields of a Python specification as C has them; 7 is a word that there is not."""
    numbers = {
        name: WORDS[name].index(value) if value in WORDS[name] else 7 for name, value in fields.items() if name in WORDS
    }
    return fields | numbers


@pytest.mark.parametrize(
    ("field", "value", "supported"),
    [
        ("n_fft", 2048, "1024"),
        *(("sampling_rate", value, "1") for value in (0, -1)),
        *(("hop_length", value, "1") for value in (0, -1, 480_001)),
        *(("clip_samples", value, "513") for value in (0, 512, 2**31 - 1024, 2**31 - 1)),
        *(("n_mels", value, "1") for value in (0, -1, 1025)),
        *(("f_min", value, "0") for value in (math.nan, math.inf, -1.0, 14_000.0, 20_000.0)),
        *(("f_max", value, "f_min") for value in (24_000.5, 60_000.0, math.inf)),
        *(("f_max", value, "0") for value in (math.nan, 50.0, 0.0)),
        *(("log_floor", value, "1e-30") for value in (0.0, -1.0, 1e-31, 1e31, math.nan, math.inf)),
        ("mel_scale", "kaldi", ""),
        ("mel_norm", "foo", ""),
        ("padding", "mirror", ""),
    ],
)
def test_specifications_that_are_refused(api: Any, field: str, value: Any, supported: str) -> None:
    """By Python and by C: the field, its value, and what there is. An f_max below f_min is f_min's fault."""
    named = "f_min" if field == "f_max" and supported == "0" else field
    with pytest.raises(KernelSpecError) as caught:
        layout.check_spec(dataclasses.replace(UNFUSED, **{field: value}))
    given = repr(50.0 if named != field else value)
    assert f"does not support {named} = {given}; it supports {supported}" in str(caught.value)
    (c_value,) = in_c(**{field: value}).values()
    status, handle = create(api, **{field: c_value})
    assert (status, handle.value) == (1, None)
    given = f"{50.0 if named != field else c_value:.17g}"
    assert f"does not support {named} = {given}; it supports {supported}" in message(api)


def test_channels_that_are_refused(api: Any) -> None:
    assert create(api, channels=2)[0] == 1
    assert "does not support channels = 2; it supports 1, and 4 for fusion" in message(api)


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_samples": 513, "hop_length": 513},
        {"clip_samples": 2**31 - 1025},
        {"n_mels": 1024, "f_min": 0.0, "f_max": 24_000.0},
        {"n_mels": 1},
        {"sampling_rate": 1, "f_min": 0.0, "f_max": 0.5},
        {"sampling_rate": 2**31 - 1},
        {"log_floor": 1e-30},
        {"log_floor": 1e30},
        {"mel_scale": "htk", "mel_norm": "none", "padding": "pad"},
    ],
    ids=str,
)
def test_specifications_that_are_not_refused(api: Any, fields: dict[str, Any]) -> None:
    """By neither, at the ends of what is supported."""
    layout.check_spec(dataclasses.replace(UNFUSED, **fields))
    status, handle = create(api, **in_c(**fields))
    assert (status, message(api)) == (0, "")
    api.claprt_log_mel_destroy(handle)


def test_arguments_that_are_refused(api: Any) -> None:
    for batch in (0, -1, 65_536):
        status, handle = create(api, batch)
        assert (status, handle.value) == (2, None)
        assert f"max_batch is {batch}" in message(api)
    assert api.claprt_log_mel_create(None, None, 1) == 2
    status, handle = create(api)
    pcm, out = sound("noise", 1_000), np.zeros((1, 1, 1001, 64), dtype=np.float32)
    table = np.array([(0, 1_000)], dtype=layout.CLIP)

    def refused(words: str, clip: tuple[int, int] = (0, 1_000), **changes: Any) -> None:
        table[0] = clip
        assert run(api, handle, pcm, table, out, **changes) == 2
        assert words in message(api)

    refused("handle is NULL", handle=None)
    refused("pcm is NULL", pcm=None)
    refused("clips is NULL", clips=None)
    refused("out is NULL", out=None)
    refused("pcm is misaligned", pcm=pcm.ctypes.data + 1)
    refused("out is misaligned", out=out.ctypes.data + 2)
    refused("pcm_type is 2", pcm_type=2)
    refused("out_type is 0", out_type=0)
    refused("batch is 5; this handle was created for 1 ... 4", batch=5)
    refused("pcm_samples is 0", pcm_samples=0)
    refused("clip 0 has 0 samples", (0, 0))
    refused("clip 0 is 1001 samples from 0 on, which is outside of the 1000 of pcm", (0, 1_001))
    refused("outside", (2**62, 2**62))
    refused("outside", (-1, 5))
    table[0] = (0, 1_000)
    assert run(api, handle, pcm, table, out) == 0
    assert message(api) == ""
    api.claprt_log_mel_destroy(handle)
    api.claprt_log_mel_destroy(None)


@pytest.mark.parametrize(
    ("function", "status"),
    [("cudaGetDevice", 4), ("cudaMalloc", 3), ("cudaMallocHost", 3), ("cudaMemcpyAsync", 4), ("cudaLaunchKernel", 4)],
)
def test_every_cuda_error_comes_back(api: Any, monkeypatch: pytest.MonkeyPatch, function: str, status: int) -> None:
    at_run = function in ("cudaMemcpyAsync", "cudaLaunchKernel")
    if not at_run:
        monkeypatch.setenv("CLAPRT_EMULATED_FAIL", function)
        assert create(api)[0] == status
        assert function in message(api)
        return
    _, handle = create(api)
    monkeypatch.setenv("CLAPRT_EMULATED_FAIL", function)
    pcm, out = sound("noise", 1_000), np.zeros((1, 1, 1001, 64), dtype=np.float32)
    assert run(api, handle, pcm, np.array([(0, 1_000)], dtype=layout.CLIP), out) == status
    named = "launching log_mel_int16_fp32_narrow on 126 x 1 blocks of 128 threads" if "Launch" in function else function
    assert named in message(api)
    monkeypatch.delenv("CLAPRT_EMULATED_FAIL")
    api.claprt_log_mel_destroy(handle)


RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("dtype", "channels"), [(np.int16, 2), (np.float32, 6)])
def test_resampler_is_that_of_python(api: Any, emulation: Path, rate: int, dtype: Any, channels: int) -> None:
    """Which is held to tones, float64 and soxr: the same filter, the same samples, in the same places."""
    random = np.random.default_rng(rate)
    lengths = (1, 97, 256, 1_000)
    clips = [random.integers(-32768, 32768, (length, channels)).astype(np.int16) for length in lengths]
    clips = clips if dtype == np.int16 else [(clip / 32768.0).astype(np.float32) for clip in clips]
    expected = EmulatedResampler(emulation)(clips, rate, 48_000, channels)
    resampler = CResampler(api, rate, channels=channels)
    assert [resampler.length(length) for length in lengths] == [len(wave) for wave in expected]
    found = resampler(clips)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    resampler.close()


def test_equal_rates_only_mix(api: Any) -> None:
    stereo = np.random.default_rng(0).standard_normal((5_000, 2)).astype(np.float32)
    resampler = CResampler(api, 48_000, channels=2)
    np.testing.assert_allclose(resampler([stereo])[0], stereo.mean(axis=1), rtol=0, atol=1e-7)


def test_what_a_resampler_refuses(api: Any) -> None:
    def refused(status: int, words: str, *arguments: int) -> None:
        handle = ctypes.c_void_p()
        assert api.claprt_resampler_create(ctypes.byref(handle), *arguments) == status
        assert handle.value is None
        assert words in message(api)

    refused(1, "does not resample 44101 to 48000 Hz (by 48000 / 44101)", 44_101, 48_000, 1, 1)
    refused(1, "by 6 / 125", 1_000_000, 48_000, 1, 1)
    refused(1, "by 1 / 2147483647", 2**31 - 1, 1, 1, 1)
    refused(1, "rates are positive, not 0 and 48000", 0, 48_000, 1, 1)
    refused(2, "channels is 65", 8_000, 48_000, 65, 1)
    refused(2, "channels is 0", 8_000, 48_000, 0, 1)
    refused(2, "max_batch is 65536", 8_000, 48_000, 1, 65_536)
    assert api.claprt_resampler_create(None, 8_000, 48_000, 1, 1) == 2
    assert api.claprt_resampler_length(None, ctypes.c_int64(5)) == 0
    resampler = CResampler(api, 24_000, max_batch=2)
    assert [resampler.length(frames) for frames in (0, -1, 1, 2**49)] == [0, 0, 2, 0]

    def run_refused(words: str, clip: tuple[int, int] = (0, 1_000), **changes: Any) -> None:
        assert resampler.run(np.zeros(1_000, np.int16), [clip], **changes) == 2
        assert words in message(api)

    run_refused("handle is NULL", handle=None)
    run_refused("pcm is NULL", pcm=None)
    run_refused("out is NULL", out=None)
    run_refused("out_clips is NULL", out_clips=None)
    run_refused("out is misaligned", out=2)
    run_refused("pcm_type is 2", pcm_type=2)
    run_refused("batch is 3; this handle was created for 1 ... 2", batch=3)
    run_refused("pcm_frames is 0", pcm_frames=0)
    run_refused("pcm_frames is 562949953421312", pcm_frames=2**49)
    run_refused("out_samples is 0", out_samples=0)
    run_refused("out has room for 1999 samples; clips 0 ... 0 need 2000", out_samples=1_999)
    run_refused("clip 0 has 0 frames", (0, 0))
    run_refused("clip 0 is 1001 frames from 0 on, which is outside of the 1000 of pcm", (0, 1_001))
    run_refused("outside", (2**62, 2**62))
    run_refused("outside", (-1, 5))
    assert resampler.run(np.zeros(1_000, np.int16), [(0, 1_000)], out_samples=2_000) == 0
    assert message(api) == ""
    api.claprt_resampler_destroy(None)


@pytest.mark.parametrize(("function", "status"), [("cudaMalloc", 3), ("cudaMallocHost", 3), ("cudaLaunchKernel", 4)])
def test_cuda_errors_of_a_resampler_come_back(
    api: Any, monkeypatch: pytest.MonkeyPatch, function: str, status: int
) -> None:
    resampler = CResampler(api, 24_000)
    monkeypatch.setenv("CLAPRT_EMULATED_FAIL", function)
    if function == "cudaLaunchKernel":
        assert resampler.run(np.zeros(1_000, np.int16), [(0, 1_000)]) == status
        assert "launching resample_int16 on 8 x 1 blocks of 256 threads" in message(api)
    else:
        handle = ctypes.c_void_p()
        assert api.claprt_resampler_create(ctypes.byref(handle), 24_000, 48_000, 1, 1) == status
        assert (handle.value, function in message(api)) == (None, True)


def test_header_is_c(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to compile the header with")
    (tmp_path / "header.c").write_text('#include "claprt_log_mel.h"\n')
    flags = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{SOURCES}")
    subprocess.run([compiler, *flags, str(tmp_path / "header.c")], check=True)


def test_example_runs(emulated_library: Path, tmp_path: Path) -> None:
    """The C example on the emulated runtime, as C++ because that emulates it: its numbers are the reference's."""
    program = tmp_path / "log_mel"
    flags = ("-std=c++17", "-fpermissive", "-w", "-x", "c++", f"-I{EMULATION}", f"-I{SOURCES}", "-mf16c")
    command = ["g++", *flags, str(EXAMPLE), "-o", str(program), f"-L{emulated_library.parent}", "-lclaprt_log_mel"]
    subprocess.run([*command, "-pthread"], check=True)
    wave = sound("noise", 158_400)
    env = os.environ | {"LD_LIBRARY_PATH": str(emulated_library.parent)}

    def run(pcm: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([str(program), *arguments], input=pcm, capture_output=True, check=False, env=env)

    done = run(wave.tobytes())
    result = np.loadtxt(done.stdout.decode().splitlines(), dtype=np.float32)
    expected = reference("noise", wave.size, UNFUSED)[0]
    assert_near(result, expected, tolerance(expected) + 1e-6)
    soxr = pytest.importorskip("soxr", reason="no soxr to resample the same sound with")
    stereo = np.stack([sound("noise", 88_200), sound("chirps", 88_200)], axis=1)
    done = run(stereo.tobytes(), "44100", "2")
    result = np.loadtxt(done.stdout.decode().splitlines(), dtype=np.float32)
    mono = stereo.astype(np.float64).mean(axis=1) / 32768
    expected = log_mel_reference(soxr.resample(mono, 44_100, 48_000, quality="VHQ"), UNFUSED)
    # Two filters, both good: below 11 kHz, and away from where the clip's repetitions meet.
    heard = expected > expected.max() - 60
    heard[:, 58:] = False
    assert np.median(np.abs(result - expected)[heard]) < 2e-3
    (tmp_path / "stereo.pcm").write_bytes(stereo.tobytes())
    assert run(b"", "44100", "2", str(tmp_path / "stereo.pcm")).stdout == done.stdout
    for pcm, arguments, words in (
        (b"", ["48000", "1", str(tmp_path / "nothing.pcm")], b"nothing.pcm: cannot be opened"),
        (b"", [], b"clip 0 has 0 frames"),
        (b"12", ["44101", "1"], b"does not resample 44101"),
        (b"12", ["48000", "0"], b"channels is 0"),
    ):
        done = run(pcm, *arguments)
        assert done.returncode == 2
        assert words in done.stderr


@pytest.fixture(scope="module")
def real_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users get, for one GPU generation: all of them take minutes."""
    try:
        return kernel_files.compile_library(tmp_path_factory.mktemp("real"), "sm_90")
    except kernel_files.CompileError as error:
        pytest.skip(str(error))


def test_real_library_exports_the_header_and_needs_no_toolkit(real_library: Path) -> None:
    defined = subprocess.run(
        ["nm", "-D", "--defined-only", str(real_library)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in defined.stdout.splitlines() if " T " in line}
    log_mel = ("create", "default_spec", "destroy", "frames", "message", "run", "run_device")
    resampler = ("create", "destroy", "length", "run")
    assert names == {f"claprt_log_mel_{name}" for name in log_mel} | {f"claprt_resampler_{name}" for name in resampler}
    needed = subprocess.run(["ldd", str(real_library)], capture_output=True, text=True, check=True).stdout
    assert "libcudart" not in needed
    assert (real_library.parent / "claprt_log_mel.h").is_file()


def test_example_links_with_the_real_library(real_library: Path, tmp_path: Path) -> None:
    """With gcc, as C. Without a GPU it ends with a clear error."""
    root = kernel_files.cuda_root(kernel_files.find_nvcc())
    program = tmp_path / "log_mel"
    command = ["gcc", "-Wall", "-Wextra", "-Werror", f"-I{real_library.parent}", f"-I{root}/include", str(EXAMPLE)]
    links = [f"-L{real_library.parent}", "-lclaprt_log_mel", f"-L{root}/lib64", "-lcudart", "-o", str(program)]
    subprocess.run([*command, *links], check=True)
    env = os.environ | {"LD_LIBRARY_PATH": f"{real_library.parent}:{root}/lib64", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(program)], input=bytes(2_000), capture_output=True, check=False, env=env)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: create: cudaGetDevice")
