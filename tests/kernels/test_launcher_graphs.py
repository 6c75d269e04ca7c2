"""`Launcher.capture` and `replay`, of the log-Mel kernel and of what goes wrong, on the fake driver."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import pytest
from tests.kernels.fake_cuda.pycuda_env import FakeCuda
from tests.kernels.launchers import Sample, launcher, synchronize, to_device, to_host
from tests.kernels.log_mel_cases import CLIP, sound
from tests.specs import UNFUSED

from claprt_kernels import KernelLaunchError, Launcher, LogMel

Run = Callable[..., None]


def replays() -> None:
    sample, fake = Sample(), FakeCuda()
    gpu, stream = sample.launcher, sample.launcher.stream()
    synchronize(gpu)
    graph = gpu.capture(stream, lambda: sample(stream=stream))
    synchronize(gpu, stream)
    assert not sample.result().any()  # captured is not done
    for _ in range(20):  # more than the ring of tables has room for; it is the graph's own table that a replay copies
        sample(clips=[(0, 1000)], stream=stream)
    synchronize(gpu, stream)

    for kind in ("noise", "chirps"):
        gpu.copy(sample.on_device, sound(kind, CLIP).view(np.uint8), None)
        sample.clear()
        synchronize(gpu)
        names = ("cuMemAlloc_v2", "cuMemHostAlloc", "cuStreamSynchronize", "cuEventSynchronize", "cuLaunchKernel")
        before = [fake.count(name) for name in names]
        gpu.replay(graph, stream)
        assert [fake.count(name) for name in names] == before
        assert not sample.result().any()  # it has not been waited for
        synchronize(gpu, stream)
        sample.check(kind)

    sample.clear()
    synchronize(gpu)
    gpu.replay(graph, stream)
    del graph  # while it is under way
    synchronize(gpu, stream)
    sample.check("chirps")
    assert fake.count("cuGraphExecDestroy") == fake.count("cuGraphDestroy") == 1


def test_a_captured_launch_is_replayed_on_new_input(run_bindings: Run) -> None:
    run_bindings(replays, FAKE_CUDA_DEFER="1")


def captures_until_full() -> None:
    gpu = launcher()
    log_mel = LogMel(UNFUSED, launcher=gpu)
    pcm, out = to_device(gpu, sound("noise", CLIP)), gpu.alloc(4 * np.prod(log_mel.shape(1)).item())
    stream = gpu.stream()

    def work() -> None:
        log_mel(pcm, [(0, CLIP)], out=out, stream=stream, pcm_samples=CLIP, pcm_dtype="i2", out_dtype="f4")

    graphs = [gpu.capture(stream, work) for _ in range(16)]
    with pytest.raises(KernelLaunchError, match="16 launches of this object are in graphs already; make another one"):
        gpu.capture(stream, work)
    work()
    for graph in graphs:
        gpu.replay(graph, stream)
    synchronize(gpu, stream)
    log_mel.close()


def test_captures_do_not_take_each_others_tables(run_bindings: Run) -> None:
    run_bindings(captures_until_full)


def check_stream(gpu: Launcher, stream: object) -> None:
    """It is not captured, it does its work, and it can be captured."""
    source = gpu.pinned(8)
    source[:] = np.arange(8)
    address = gpu.alloc(8)
    assert not gpu.capturing(stream)
    gpu.copy(address, source, stream)
    synchronize(gpu, stream)
    np.testing.assert_array_equal(to_host(gpu, address, source), source)
    gpu.capture(stream, lambda: gpu.copy(address, source, stream))


def fails_to_capture() -> None:
    gpu = launcher()
    stream, event, outside = gpu.stream(), gpu.event(), gpu.event()
    gpu.record(outside, stream)
    memory = gpu.alloc(8)

    def ignored() -> None:
        with pytest.raises(KernelLaunchError):
            gpu.alloc(8)

    def synchronizes() -> None:
        gpu.record(event, stream)
        gpu.wait(event)

    def exits() -> None:
        raise SystemExit(3)

    def breaks() -> None:
        raise KeyError("key")

    cases: list[tuple[Callable[[], object], type[BaseException], str]] = [
        (lambda: gpu.alloc(8), KernelLaunchError, "allocating 8 bytes .*: stream capture unsupported"),
        (lambda: gpu.free(memory), KernelLaunchError, "freeing device memory: .*stream capture unsupported"),
        (lambda: gpu.pinned(8), KernelLaunchError, "pinned memory: .*stream capture unsupported"),
        (lambda: gpu.wait(outside), KernelLaunchError, "waiting for an event: .*stream capture unsupported"),
        (lambda: gpu.copy(memory, np.zeros(8, np.uint8), stream), KernelLaunchError, "stream capture unsupported"),
        (synchronizes, KernelLaunchError, "waiting for an event: .*captured event"),
        (ignored, KernelLaunchError, "ending a capture: .*stream capture invalidated"),
        (lambda: gpu.capture(stream, lambda: None), KernelLaunchError, "capturing a stream: .*illegal state"),
        (breaks, KeyError, "key"),
        (exits, SystemExit, "3"),
    ]
    for work, kind, message in cases:

        def run(work: Callable[[], object] = work) -> None:
            assert gpu.capturing(stream)
            work()

        with pytest.raises(kind, match=message):
            gpu.capture(stream, run)
        check_stream(gpu, stream)
    with pytest.raises(KernelLaunchError, match=r"capturing a stream: .*stream capture unsupported"):
        gpu.capture(None, lambda: None)
    os.environ["FAKE_CUDA_FAIL"] = (
        f"cuGraphInstantiateWithFlags:{FakeCuda().count('cuGraphInstantiateWithFlags') + 1}:1"
    )
    with pytest.raises(KernelLaunchError, match=r"instantiating a graph: .*invalid value"):
        gpu.capture(stream, lambda: None)
    check_stream(gpu, stream)


def test_a_capture_that_fails_leaves_the_stream_usable(run_bindings: Run) -> None:
    run_bindings(fails_to_capture)


def others_go_on() -> None:
    """While a thread captures, others may allocate, copy and wait."""
    sample = Sample()
    gpu, stream = sample.launcher, sample.launcher.stream()
    failures: list[BaseException] = []

    def other() -> None:
        try:
            check_stream(gpu, gpu.stream())
            sample()
            sample.check()
        except BaseException as error:
            failures.append(error)

    def work() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        sample(stream=stream)

    graph = gpu.capture(stream, work)
    assert failures == []
    sample.clear()
    gpu.replay(graph, stream)
    synchronize(gpu, stream)
    sample.check()


def test_other_threads_are_not_disturbed(run_bindings: Run) -> None:
    run_bindings(others_go_on)


def has_no_graphs() -> None:
    gpu = launcher()
    assert not gpu.can_capture
    ran: list[None] = []
    for call in (lambda: gpu.capture(gpu.stream(), lambda: ran.append(None)), lambda: gpu.replay(None, gpu.stream())):
        with pytest.raises(KernelLaunchError, match=r"PyCUDA has no CUDA graphs; .*pip install 'claprt\[gpu\]'"):
            call()
    assert not ran


def test_pycuda_has_none(run_pycuda: Run) -> None:
    run_pycuda(has_no_graphs)
