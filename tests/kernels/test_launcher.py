"""`claprt_kernels.LogMel` through both launchers, on the fake driver, which runs the kernels on this CPU."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.kernels.fake_cuda.pycuda_env import FakeCuda
from tests.kernels.launchers import Sample, launcher, synchronize, to_device, to_host
from tests.kernels.log_mel_cases import CLIP, as_float, assert_near, reference, sound, tolerance
from tests.kernels.on_gpu import GpuLogMel
from tests.specs import FUSED, UNFUSED

from claprt.errors import ClaprtError
from claprt_kernels import (
    KernelInputError,
    KernelLaunchError,
    KernelSpecError,
    LogMel,
    Resampler,
    device_array,
    layout,
    log_mel_reference,
)

Run = Callable[..., None]


def is_the_reference() -> None:
    log_mel = GpuLogMel(os.environ["CLAPRT_TEST_LAUNCHER"])
    for spec, channels, types in ((UNFUSED, 1, (np.int16, np.float16)), (FUSED, 4, (np.float32, np.float32))):
        sounds = [("chirps", 1_025), ("noise", CLIP), ("noise", CLIP + 960)]
        waves = [sound(*which) if types[0] is np.int16 else as_float(sound(*which)) for which in sounds]
        expected = np.stack([reference(*which, spec, channels > 1) for which in sounds])
        factor, summand = np.linspace(0.5, 2.0, 64), np.linspace(-3.0, 40.0, 64)
        assert_near(log_mel(waves, spec, types[1], channels), expected, tolerance(expected))
        changed = log_mel(waves, spec, np.float32, channels, factor, summand)
        assert_near(changed, expected * factor + summand, 2 * tolerance(expected) + 1e-5)


def test_it_is_the_reference(run: Run) -> None:
    run(is_the_reference)


def takes_arrays_and_streams() -> None:
    sample = Sample(2)

    class Array:
        def __init__(self, address: int, value: np.ndarray) -> None:
            self.__cuda_array_interface__ = {
                "shape": value.shape,
                "typestr": value.dtype.str,
                "data": (address, False),
                "version": 3,
                "strides": None,
            }

    stream = sample.launcher.stream()
    out = Array(sample.target, sample.out)
    synchronize(sample.launcher)
    sample.log_mel(Array(sample.on_device, sample.pcm), sample.clips, out=out, stream=stream)
    assert not sample.result().any()  # the default stream does not wait for this one
    synchronize(sample.launcher, stream)
    sample.check()


def test_arrays_and_streams(run: Run) -> None:
    run(takes_arrays_and_streams, FAKE_CUDA_DEFER="1")


def test_an_array_whose_interface_cannot_be_had() -> None:
    """As PyTorch's tensors, where they require grad or are on a CPU."""

    class RequiresGrad:
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

    for name in ("pcm", "out"):
        with pytest.raises(KernelInputError, match=rf"{name} is RequiresGrad, .*that requires grad"):
            device_array.array(RequiresGrad(), name)
    torch = pytest.importorskip("torch", reason="no PyTorch, whose tensors these are")
    for tensor in (torch.zeros(3), torch.zeros(3, requires_grad=True), torch.zeros(3).to_sparse()):
        with pytest.raises(KernelInputError, match="pcm is Tensor"):
            device_array.array(tensor, "pcm")


def does_not_wait() -> None:
    fake = FakeCuda()
    sample = Sample()
    sample()
    sample.check()
    sample.clear()
    synchronize(sample.launcher)
    names = ("cuMemAlloc_v2", "cuMemAllocHost_v2", "cuMemHostAlloc", "cuStreamSynchronize", "cuCtxSynchronize",
             "pageable_async_copy")  # fmt: skip
    before = [fake.count(name) for name in names]
    for _ in range(15):
        sample()
    assert [fake.count(name) for name in names] == before
    on_host = np.ctypeslib.as_array((ctypes.c_float * sample.out.size).from_address(sample.target))
    assert not on_host.any()  # none of the launches has been waited for
    sample.check()
    assert on_host.any()


def test_a_call_allocates_nothing_and_waits_for_nothing(run: Run) -> None:
    """The driver puts all work off until somebody waits: fifteen launches would otherwise have run."""
    run(does_not_wait, FAKE_CUDA_DEFER="1")


def keeps_tables_apart() -> None:
    """40 calls under way at once, each with other clips and another place for its result: the ring has 16 tables."""
    gpu = launcher()
    spec = dataclasses.replace(UNFUSED, clip_samples=2_048)
    log_mel = LogMel(spec, launcher=gpu, max_batch=2)
    wave = sound("noise", CLIP)
    pcm = to_device(gpu, wave)
    clips = [[(1_000 * call, 2_048), (7_000 * call, 300 + call)] for call in range(40)]
    out = np.full((40, *log_mel.shape(2)), np.nan, dtype=np.float32)
    target = to_device(gpu, out)
    streams = [gpu.stream(), gpu.stream(), gpu.stream()]
    synchronize(gpu)
    for call, pairs in enumerate(clips):
        types: dict[str, Any] = {"pcm_samples": CLIP, "pcm_dtype": np.int16, "out_dtype": np.float32}
        log_mel(pcm, pairs, out=target + call * out[0].nbytes, stream=streams[call % 3], **types)
    for stream in streams:
        synchronize(gpu, stream)
    out = to_host(gpu, target, out)
    for found, pairs in zip(out, clips, strict=True):
        waves = [as_float(wave[offset : offset + length]) for offset, length in pairs]
        expected = np.stack([log_mel_reference(clip, spec)[None] for clip in waves])
        assert_near(found, expected, tolerance(expected))


def test_calls_under_way_do_not_take_each_others_tables(run: Run) -> None:
    run(keeps_tables_apart, FAKE_CUDA_DEFER="1")


def refuses() -> None:
    sample = Sample(2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"clips": [(0, 0)]}, "clip 0 has 0 samples from 0 on: it needs at least one"),
        ({"clips": [(0, 5), (-1, 5)]}, "clip 1 has 5 samples from -1 on: that is outside of the 480000"),
        ({"clips": [(CLIP - 4, 5)]}, "clip 0 has 5 samples"),
        ({"clips": [(2**62, 2**62)]}, "clip 0 has"),
        ({"clips": [(0, 2**63)]}, "below 2^63"),
        ({"clips": [(0.0, 5.0)]}, "float64, not integers"),
        ({"clips": []}, "shape"),
        ({"clips": [(0, 5)] * 3}, "split the batch"),
        ({"clips": [(0, 5, 7)]}, "shape"),
        ({"pcm_dtype": np.float64}, "pcm is float64; the kernel takes int16 and float32"),
        ({"out_dtype": np.int16}, "out is int16"),
        ({"out_dtype": None}, "pass out_dtype"),
        ({"pcm_samples": None}, "pass pcm_samples and pcm_dtype"),
        ({"pcm_samples": 0}, "not (n,) mono samples"),
        ({"pcm": 0}, "no device memory"),
        ({"out": -4}, "no device memory"),
        ({"pcm": sample.on_device + 1}, "misaligned"),
        ({"out": sample.target + 2}, "misaligned"),
        ({"out": "nothing"}, "out is str"),
        ({"out": sample.out, "out_dtype": None}, "out is ndarray"),
    ]
    for changes, message in cases:
        with pytest.raises(KernelInputError, match=re.escape(message)) as caught:
            sample(**changes)
        assert isinstance(caught.value, ClaprtError)
    assert FakeCuda().count("cuLaunchKernel") == 0
    sample()  # none of it has left anything behind
    sample.check()
    sample.log_mel.close()
    sample.log_mel.close()
    with pytest.raises(KernelInputError, match="closed"):
        sample()
    for options in (
        {"channels": 2},
        {"max_batch": 0},
        {"max_batch": 65_536},
        {"factor": [1.0, 2.0]},
        {"summand": np.inf},
    ):
        with pytest.raises(KernelInputError, match=next(iter(options))):
            LogMel(UNFUSED, launcher=sample.launcher, **options)


def test_bad_input(run_bindings: Run) -> None:
    run_bindings(refuses)


def reports_a_failed_launch() -> None:
    sample = Sample()
    with pytest.raises(
        KernelLaunchError, match=r"log_mel_int16_fp32_narrow for 1 clips: .*126 x 1 blocks of 128 threads"
    ):
        sample()


def test_a_failed_launch_names_the_kernel_and_its_sizes(run: Run) -> None:
    run(reports_a_failed_launch, FAKE_CUDA_FAIL="cuLaunchKernel:1:1")


def swaps_arguments() -> None:
    original = layout.kernel_arguments

    def swapped(*args: Any, **options: Any) -> Any:
        first, second = os.environ["SWAP"].split(",")
        return original(*args, **options | {first: options[second], second: options[first]})

    module = sys.modules[LogMel.__module__]
    setattr(module, "kernel_arguments", swapped)  # noqa: B010
    sample = Sample()
    with pytest.raises(KernelLaunchError):
        sample()
    assert "out of range" in FakeCuda().last_error


@pytest.mark.parametrize("swap", ["pcm,out", "pcm,clips", "clips,out", "tables,clips"])
def test_swapped_arguments_are_found(run_bindings: Run, swap: str) -> None:
    run_bindings(swaps_arguments, SWAP=swap)


def resamples_before() -> None:
    """Stereo at 24 kHz and int16, as a service has it, to log-Mel: two launches on one stream, nothing on the host."""
    import soxr

    gpu = launcher()
    stereo = np.stack([sound("noise", CLIP // 2), sound("square", CLIP // 2)], axis=1)
    clips = [(0, 100_000), (100_000, 140_000)]
    resampler = Resampler(24_000, channels=2, launcher=gpu)
    log_mel = LogMel(UNFUSED, launcher=gpu)
    samples = int(resampler.out_clips(clips)[-1].sum())
    pcm, wave = to_device(gpu, stereo), gpu.alloc(4 * samples)
    out = np.zeros(log_mel.shape(2), dtype=np.float32)
    target = gpu.alloc(out.nbytes)
    synchronize(gpu)
    stream = gpu.stream()
    on_device = {"pcm_samples": stereo.size, "pcm_dtype": np.int16, "stream": stream}
    placed = resampler(pcm, clips, out=wave, out_samples=samples, **on_device)
    assert placed.tolist() == [[0, 200_000], [200_000, 280_000]]
    whole = {"pcm_samples": samples, "pcm_dtype": np.float32, "out_dtype": np.float32, "stream": stream}
    log_mel(wave, placed, out=target, **whole)
    synchronize(gpu, stream)
    out = to_host(gpu, target, out)
    for row, (offset, length) in zip(out, clips, strict=True):
        mono = as_float(stereo[offset : offset + length]).mean(axis=1, dtype=np.float64)
        expected = log_mel_reference(soxr.resample(mono, 24_000, 48_000, quality="VHQ"), UNFUSED)
        # Two filters, both good: below 11 kHz, and away from where the clip's repetitions meet.
        heard = expected > expected.max() - 60
        heard[:, 58:] = False
        assert np.median(np.abs(row[0] - expected)[heard]) < 2e-3

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"out_samples": samples - 1}, f"out has room for {samples - 1} samples; these clips need {samples}"),
        ({"out_samples": None}, "pass out_samples"),
        ({"clips": [(0, CLIP)]}, "clip 0 has 480000 frames from 0 on: that is outside of the 240000 of pcm"),
        ({"pcm_samples": stereo.size - 1}, "not interleaved sound of 2 channels"),
        ({"out": wave + 2}, "misaligned"),
    ]
    for changes, message in wrong:
        arguments = {"clips": clips, "out": wave, "out_samples": samples, **on_device, **changes}
        with pytest.raises(KernelInputError, match=re.escape(message)):
            resampler(pcm, arguments.pop("clips"), **arguments)
    resampler.close()
    with pytest.raises(KernelInputError, match="closed"):
        resampler(pcm, clips, out=wave, out_samples=samples, **on_device)
    for options in ({"channels": 0}, {"channels": 65}, {"max_batch": 0}):
        with pytest.raises(KernelInputError, match=next(iter(options))):
            Resampler(44_100, launcher=gpu, **options)
    with pytest.raises(KernelSpecError, match="44101 to 48000"):
        Resampler(44_101, launcher=gpu)


def test_resampling_before_it(run: Run) -> None:
    pytest.importorskip("soxr", reason="no soxr to resample the same sound with")
    run(resamples_before, FAKE_CUDA_DEFER="1")


def from_threads() -> None:
    sample = Sample()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                sample()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    sample.check()


def test_several_threads(run: Run) -> None:
    run(from_threads)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_fft", 2048), ("hop_length", 0), ("clip_samples", 512), ("f_max", 60_000.0), ("mel_scale", "kaldi")],
)
def test_specifications_that_the_kernel_does_not_compute(field: str, value: Any) -> None:
    with pytest.raises(KernelSpecError, match=rf"does not support {field} = {value!r}") as caught:
        LogMel(dataclasses.replace(UNFUSED, **{field: value}))
    assert isinstance(caught.value, ClaprtError)
