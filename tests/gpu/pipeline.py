"""Programs of test_pipeline.py: each runs in a process with the fake CUDA driver and the stand-in for TensorRT."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import claprt
from claprt.bundle import open_bundle
from claprt.engines.device import DeviceEngine
from claprt.engines.load import load_engine
from claprt.engines.tensorrt.build import BuildOptions
from claprt.errors import AudioError, BackendError, ClaprtWarning
from claprt.model import Clap
from claprt_export.engines import build_engines, verify_engines

# What the log-Mel kernel's FP32 arithmetic may change of a vector; float32 decibels differ by 1e-4 and less.
CLOSE = 2e-5
TEXTS = ["rain", "a dog barks", "a bell, and then, much later, the sound of a distant train that passes a bridge " * 8]


def bundle() -> Path:
    return Path(os.environ["TEST_BUNDLE"])


def engines(**options: object) -> None:
    build_engines(bundle(), precisions=("fp32",), **options)  # type: ignore[arg-type]


def the_usual_engines() -> None:
    """For batches of 1, 2 and 4. Tests get a bundle that has them: they are found, not built and verified again."""
    engines(batches=(1, 2, 4))


def loaded(**options: object) -> tuple[Clap, Clap]:
    """The bundle on the CPU and on the "GPU"."""
    return claprt.load(bundle(), "ort-cpu"), claprt.load(bundle(), "tensorrt", **options)  # type: ignore[arg-type]


def sounds(count: int) -> list[NDArray[np.float32]]:
    """Noises of all lengths, from one sample to 23 s."""
    rng = np.random.default_rng(1)
    lengths = [1, 500, 48_000, 479_999, 480_000, 480_001, 480_300, 700_000, 1_104_000]
    result = []
    for index in range(count):
        noise = rng.standard_normal(lengths[index % len(lengths)]).astype(np.float32)
        result.append(np.cumsum(noise).astype(np.float32) * np.float32(1e-4) if index % 2 else noise * np.float32(0.1))
    return result


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32], bound: float = CLOSE) -> None:
    assert found.shape == expected.shape
    worst = float(np.abs(found - expected).max(initial=0.0))
    assert worst <= bound, worst


def is_the_cpus() -> None:
    """Every recipe, many lengths, more clips than a batch; texts short and long; one by one and all at once."""
    the_usual_engines()
    cpu, gpu = loaded()
    assert (gpu.backend, gpu.log_mel) == ("tensorrt", "cuda")
    recipes = ("fusion", "windows", "head") if gpu.manifest.audio.fusion else ("windows", "head")
    for recipe in recipes:
        expected = cpu.embed_audio(sounds(9), recipe=recipe)
        assert np.abs(expected[0] - expected[2]).max() > 0.01
        assert_close(gpu.embed_audio(sounds(9), recipe=recipe), expected)
        for sound, row in zip(sounds(9), expected, strict=True):
            assert_close(gpu.embed_audio(sound, recipe=recipe)[0], row)
    assert_close(gpu.embed_text(TEXTS * 3), cpu.embed_text(TEXTS * 3), 1e-6)
    other = claprt.load(bundle(), "tensorrt", log_mel="cpu")
    assert_close(other.embed_audio(sounds(9)), cpu.embed_audio(sounds(9)), 1e-6)


def int16_stays_int16() -> None:
    """What is mono int16 at the model's rate goes up as it is: half the bytes, the same vectors as on the CPU.

    Files and arrays, batches of one kind and of both, in either order; two channels and other rates are float32.
    """
    import soundfile

    from tests.kernels.fake_cuda.pycuda_env import FakeCuda

    the_usual_engines()
    cpu, gpu = loaded()
    integers = [(sound * 20_000).clip(-32_768, 32_767).astype(np.int16) for sound in sounds(6)]
    file = bundle().parent / "sound.flac"
    soundfile.write(file, integers[4], 48_000, subtype="PCM_16")
    several: list[list[Any]] = [
        [*integers, file],
        [integers[2], sounds(3)[2], integers[3], file, sounds(5)[4]],
        [sounds(3)[2], integers[2], np.stack([integers[2]] * 2, axis=1), integers[0].astype(">i2")],
    ]
    for clips in several:
        for recipe in ("head", "windows"):
            assert_close(gpu.embed_audio(clips, recipe=recipe), cpu.embed_audio(clips, recipe=recipe))
        assert_close(gpu.embed_audio(clips[:1], 44_100), cpu.embed_audio(clips[:1], 44_100))
    cuda = FakeCuda()
    bytes_up = []
    for sound in (integers[4], sounds(5)[4]):
        before = cuda.count("bytes_to_device")
        gpu.embed_audio(sound)
        bytes_up.append(cuda.count("bytes_to_device") - before)
    assert 960_000 <= bytes_up[0] < 961_000 < 1_920_000 <= bytes_up[1] < 1_921_000, bytes_up


def fusion_of_long_sounds() -> None:
    """The kernel makes the four channels of sounds up to 160 s, NumPy those of longer ones; in one batch, any type."""
    engines(batches=(1, 4), towers=("audio",))
    cpu, gpu = loaded()
    noise = np.cumsum(np.random.default_rng(3).standard_normal(48_000 * 161)).astype(np.float32)
    noise *= np.float32(0.3 / np.abs(noise).max())
    integers = (noise * 32_767).astype(np.int16)
    seconds = [10.01, 25.3, 161.0, 3.0, 160.0, 160.01]
    for clips in (
        [noise[: int(48_000 * length)] for length in seconds],
        [integers[: int(48_000 * length)] for length in seconds],
    ):
        expected = cpu.embed_audio(clips, recipe="fusion")
        assert np.abs(expected[0] - expected[1]).max() > 0.01
        assert_close(gpu.embed_audio(clips, recipe="fusion"), expected)
    assert_close(gpu.embed_audio(noise[: 44_100 * 20], 44_100), cpu.embed_audio(noise[: 44_100 * 20], 44_100))


def engines_from_elsewhere_are_verified_here() -> None:
    """Built for compute capabilities, run with a warning, verified, run without; what was compiled here is used again.

    On another GPU, with another driver or library they do not run, and what differs is said.
    """
    stand_in: Any = importlib.import_module("tensorrt_rtx")

    where = BuildOptions(compute_capabilities=("8.6", "9.0"))
    first = build_engines(bundle(), rtx=True, precisions=("fp32",), batches=(1,), options=where)
    assert [one.verification is not None for one in first] == [True, True]  # this GPU is one of them
    for file in (bundle() / "engines").glob("*/engine.json"):  # as if they came from elsewhere
        record = json.loads(file.read_text())
        record["verification"] = {}
        file.write_text(json.dumps(record))
    cpu = claprt.load(bundle(), "ort-cpu")
    with pytest.warns(ClaprtWarning, match=r"has not been verified on this GPU.*--verify"):
        assert_close(claprt.load(bundle(), "tensorrt-rtx").embed_audio(sounds(2)), cpu.embed_audio(sounds(2)))
    results = verify_engines(bundle())
    assert sorted((one.tower, one.state) for one in results) == [("audio", "verified"), ("text", "verified")]
    stand_in.CREATED.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = claprt.load(bundle(), "auto")
        assert again.backend == "tensorrt-rtx"
        assert [name for name, _ in again.choice.passed_over] == ["tensorrt"]
        assert_close(again.embed_text(TEXTS), cpu.embed_text(TEXTS), 1e-6)
    assert stand_in.CREATED[0] == b"compiled here"
    os.environ["FAKE_CUDA_CC"] = "8.9"
    for use in (lambda: claprt.load(bundle(), "tensorrt-rtx"), lambda: verify_engines(bundle())):
        with pytest.raises(BackendError, match=r"compute capability: 8\.6, 9\.0, here 8\.9"):
            use()
    os.environ["FAKE_CUDA_CC"] = "9.0"
    stand_in.__version__ = "1.6.0.1"
    with pytest.raises(BackendError, match=r"version of TensorRT for RTX: 1.7.1.116, here 1.6.0.1"):
        claprt.load(bundle(), "tensorrt-rtx")


def onnxruntime_stand_in() -> list[bool]:
    """From here on, ONNX Runtime has a CUDA provider: sessions that compute on the CPU, in the stream's order.

    Returns:
        Whether there is room for the next sessions, the last one first. There is for all when it is empty, as it is.
    """
    cuda_session: Any = importlib.import_module("cuda_session")
    from claprt.engines import ort_cuda

    def start(ort: Any, graph: str | bytes, options: Mapping[str, str]) -> Any:
        if graph is ort_cuda._IDENTITY:
            return object()
        if room and not room.pop():
            raise RuntimeError("Failed to allocate memory for requested buffer of size 123")
        return cuda_session.CudaSession(graph, options)

    ort_cuda.start_session = start
    room: list[bool] = []
    import onnxruntime

    onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return room


def onnxruntime_on_cuda() -> None:
    """The same pipeline around ONNX Runtime's CUDA provider: bindings, streams, batches, long and short texts."""
    room = onnxruntime_stand_in()
    cpu, gpu = claprt.load(bundle(), "ort-cpu"), claprt.load(bundle(), "auto")
    assert gpu.backend == "ort-cuda", gpu.choice
    for _ in range(2):
        assert_close(gpu.embed_audio(sounds(9)), cpu.embed_audio(sounds(9)))
        assert_close(gpu.embed_text(TEXTS * 30), cpu.embed_text(TEXTS * 30), 1e-6)
    engine = load_engine(open_bundle(bundle()), "text", "fp32", "ort-cuda")
    assert isinstance(engine, DeviceEngine)
    room += [False, True]  # for one copy of the weights only
    ids = np.array([[0, 5, 2]])
    with ThreadPoolExecutor(1) as pool, engine.slot():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            waits = pool.submit(engine.run, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
            with pytest.raises(FutureTimeoutError):
                waits.result(1)
        assert "one run at a time is done from now on: " in str(caught[0].message)
        assert "Failed to allocate" in str(caught[0].message)
    assert waits.result().shape == (1, engine.dim)
    gpu = claprt.load(bundle(), "ort-cuda")
    room += [False] * 9
    with (
        pytest.warns(ClaprtWarning, match="batches of 1 are run from now on"),
        pytest.raises(BackendError, match=r"the GPU's memory does not suffice.*Failed to allocate"),
    ):
        gpu.embed_text(TEXTS)


def from_many_threads() -> None:
    the_usual_engines()
    cpu, gpu = loaded()
    expected = cpu.embed_audio(sounds(6)), cpu.embed_text(TEXTS)

    def work() -> None:
        for _ in range(2):
            assert_close(gpu.embed_audio(sounds(6)), expected[0])
            assert_close(gpu.embed_text(TEXTS), expected[1], 1e-6)

    side_by_side(work, 4)


def calls_within_calls() -> None:
    """The sounds of one call come from another call, at more than one depth, in several threads at once."""
    the_usual_engines()
    cpu, gpu = loaded()
    expected = cpu.embed_audio(sounds(7))

    def nested(depth: int) -> Iterator[NDArray[np.float32]]:
        for index, sound in enumerate(sounds(7)):
            if depth and index == 6:  # a batch of 4 runs, the next one is being filled
                assert_close(gpu.embed_many(nested(depth - 1))[1], expected)
            yield sound

    side_by_side(lambda: assert_close(gpu.embed_many(nested(2))[1], expected), 3)


def who_waits_for_sounds_keeps_nobody_waiting() -> None:
    """Two live sources pause in the middle of a batch: what others ask for is done meanwhile."""
    the_usual_engines()
    cpu, gpu = loaded()
    expected = cpu.embed_audio(sounds(9))
    paused, goes_on = threading.Semaphore(0), threading.Event()

    def live() -> Iterator[NDArray[np.float32]]:
        for index, sound in enumerate(sounds(9)):
            if index == 6:
                paused.release()
                assert goes_on.wait(60), "nobody else was served"
            yield sound

    def others() -> None:
        assert paused.acquire(timeout=60)
        assert paused.acquire(timeout=60)
        for _ in range(3):
            assert_close(gpu.embed_audio(sounds(9)), expected)
        goes_on.set()

    work = [lambda: assert_close(gpu.embed_many(live())[1], expected)] * 2 + [others]
    side_by_side(lambda: work.pop()(), 3)


def side_by_side(work: Callable[[], None], threads: int) -> None:
    """Do it in as many threads; what one of them raises is raised."""
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()


def memory_ends_with_its_owner() -> None:
    """A model that is no longer used has given back all that it had on the device, and its pinned memory."""
    from tests.kernels.fake_cuda.pycuda_env import FakeCuda

    the_usual_engines()
    cuda = FakeCuda()
    before = cuda.count("cuMemFree_v2") - cuda.count("cuMemAlloc_v2")
    for _ in range(2):
        _, gpu = loaded()
        for _ in range(3):
            gpu.embed_audio(sounds(9))
            gpu.embed_text(TEXTS)
        assert cuda.count("cuMemAlloc_v2") > cuda.count("cuMemFree_v2")
        del gpu
        gc.collect()
        assert cuda.count("cuMemFree_v2") - cuda.count("cuMemAlloc_v2") == before
        assert cuda.count("cuMemFreeHost") == cuda.count("cuMemHostAlloc") > 0
        assert cuda.count("cuGraphExecDestroy") == cuda.count("cuGraphInstantiateWithFlags") > 0


def the_second_gpu() -> None:
    """All of a model is on the GPU that it was asked for, whatever is current; the first one can be used beside it."""
    the_usual_engines()
    cpu = claprt.load(bundle(), "ort-cpu")
    first, second = (claprt.load(bundle(), "tensorrt", device=device) for device in (0, 1))
    for _ in range(3):
        for gpu in (second, first):
            assert_close(gpu.embed_audio(sounds(9)), cpu.embed_audio(sounds(9)))
            assert_close(gpu.embed_text(TEXTS), cpu.embed_text(TEXTS), 1e-6)
    with pytest.raises(BackendError, match="there is no GPU 2: the driver shows 2"):
        claprt.load(bundle(), "tensorrt", device=2)


def auto_says_what_it_chose() -> None:
    """On stderr, where there is a GPU. A backend that is named needs no line."""
    from claprt.cli.main import main

    the_usual_engines()
    texts = bundle().parent / "texts.txt"
    texts.write_text("rain\n")
    command = ["embed", str(bundle()), "--texts-file", str(texts), "-o", str(bundle().parent / "texts.npz")]
    for options, said in (([], "claprt: backend tensorrt\n"), (["--backend", "tensorrt"], "")):
        with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
            assert main([*command, *options]) == 0
        assert errors.getvalue() == said


def the_next_batch_goes_up_while_one_runs() -> None:
    """On another stream, which is there only where batches follow each other; and no third one."""
    from tests.kernels.fake_cuda.pycuda_env import FakeCuda

    the_usual_engines()
    _, gpu = loaded()
    cuda, made = FakeCuda(), []
    for count in (4, 4, 5, 9, 20):
        before = cuda.count("cuStreamCreate")
        gpu.embed_audio(sounds(count))
        made.append(cuda.count("cuStreamCreate") - before)
    assert made == [1, 0, 1, 0, 0]


def a_warm_call_allocates_nothing() -> None:
    from tests.kernels.fake_cuda.pycuda_env import FakeCuda

    the_usual_engines()
    _, gpu = loaded()
    for _ in range(3):
        gpu.embed_audio(sounds(9))
        gpu.embed_text(TEXTS)
    cuda = FakeCuda()
    counted = ["cuMemAlloc_v2", "cuMemHostAlloc", "cuMemFree_v2", "cuStreamCreate", "cuCtxSynchronize"]
    counted += ["cuStreamSynchronize", "pageable_async_copy", "cuModuleLoadData"]
    before = {name: cuda.count(name) for name in counted}
    gpu.embed_audio(sounds(9))
    gpu.embed_text(TEXTS)
    assert {name: cuda.count(name) for name in counted} == before


def shapes_that_come_again_are_captured() -> None:
    from tests.kernels.fake_cuda.pycuda_env import FakeCuda

    the_usual_engines()
    cpu, gpu = loaded()
    cuda, sound = FakeCuda(), sounds(3)[2]
    counted = ("cuStreamBeginCapture_v2", "cuGraphLaunch")
    before = [cuda.count(name) for name in counted]  # engines were verified
    rng = np.random.default_rng(2)
    for round_ in range(6):
        noise = sound * rng.uniform(0.1, 1.0, sound.size).astype(np.float32)
        assert_close(gpu.embed_audio(noise), cpu.embed_audio(noise))
        assert_close(gpu.embed_text([f"text {round_}"]), cpu.embed_text([f"text {round_}"]), 1e-6)
    # One clip; one text of 8 tokens. Run once, captured after the second run, replayed four times.
    assert [cuda.count(name) - had for name, had in zip(counted, before, strict=True)] == [2, 2 * 4]
    gpu.embed_audio([sound] * 3)  # another shape in between
    assert_close(gpu.embed_audio(sound), cpu.embed_audio(sound))


def little_memory_means_smaller_batches() -> None:
    """The largest profile's memory is not there: the next one is used, a warning says so, and results are the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engines(batches=(1, 2, 16))
    cpu, gpu = loaded()
    many = sounds(9) * 2
    expected = cpu.embed_audio(many, recipe="head")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_close(gpu.embed_audio(many, recipe="head"), expected)
        assert_close(gpu.embed_audio(many, recipe="head"), expected)
    said = [str(one.message) for one in caught if issubclass(one.category, ClaprtWarning)]
    assert any("batches of 2 are run from now on" in text for text in said), said


def done_in(memory: int) -> tuple[set[str], int]:
    """Embed 5 sounds in that memory, alone and at once: what was warned of, and how many calls were done."""
    os.environ["FAKE_CUDA_MEMORY"] = str(memory)
    cpu, gpu = loaded(precision="fp32")
    expected = cpu.embed_audio(sounds(5), recipe="head")
    calls = [[4], [0, 1, 2, 3, 4], [2]]
    done = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for indices in calls:
            try:
                found = gpu.embed_audio([sounds(5)[index] for index in indices], recipe="head")
            except BackendError as error:
                if "the GPU's memory does not suffice" not in str(error):
                    raise
                continue
            assert_close(found, expected[indices])
            done += 1
    return {str(one.message) for one in caught if issubclass(one.category, ClaprtWarning)}, done


def however_little_memory_there_is() -> None:
    """Whatever fits in it is done, every time: what was too much before takes nothing from what comes later."""
    the_usual_engines()
    found = [done_in(1_000_000 * memory) for memory in (1, 2, 3, 4, 6, 8, 11, 24)]
    done = [count for _, count in found]
    assert done == sorted(done), done
    assert set(done) == {0, 3}, done  # each sound is cut to one clip: what is done for one is done for all at once
    said = set().union(*(texts for texts, _ in found))
    assert any("batches of 1 are run from now on" in text for text in said), said
    assert any("one run at a time is done from now on" in text for text in said), said
    assert not found[-1][0]


def no_memory_is_an_error() -> None:
    engines(batches=(1, 2), towers=("text",))
    gpu = claprt.load(bundle(), "tensorrt")
    os.environ["FAKE_CUDA_MEMORY"] = "1000"
    warnings.simplefilter("ignore")  # that smaller batches are tried
    with pytest.raises(BackendError, match="the GPU's memory does not suffice"):
        gpu.embed_text(TEXTS)


def an_engine_that_misses_is_not_kept() -> None:
    """One that was there before stays."""
    good = build_engines(bundle(), precisions=("fp32",), towers=("text",), batches=(1,))
    kept = sorted((bundle() / "engines").glob("*/*"))
    os.environ["STAND_IN_NOISE"] = "0.02"
    for tower, force in (("audio", False), ("text", True)):
        with pytest.raises(BackendError, match=r"misses its bound and is not kept.*the worst is"):
            engines(batches=(1,), towers=(tower,), force=force)
    os.environ["STAND_IN_NOISE"] = "nan"
    with pytest.raises(BackendError, match=r"misses its bound and is not kept.*nan.*the worst is"):
        engines(batches=(1,), towers=("audio",))
    assert sorted((bundle() / "engines").glob("*/*")) == kept
    del os.environ["STAND_IN_NOISE"]
    (again,) = build_engines(bundle(), precisions=("fp32",), towers=("text",), batches=(1,))
    assert (again.state, again.record) == ("there already", good[0].record)


def a_lost_gpu_is_an_error() -> None:
    the_usual_engines()
    cpu, gpu = loaded()
    gpu.embed_audio(sounds(3))
    from tests.kernels.fake_cuda.pycuda_env import FakeCuda

    os.environ["FAKE_CUDA_FAIL"] = f"cuLaunchKernel:{FakeCuda().count('cuLaunchKernel') + 1}:700"
    with pytest.raises(BackendError, match="the GPU failed"):
        gpu.embed_audio(sounds(3))
    for _ in range(3):  # this driver goes on after it: no slot was lost, nothing of the failed call is left
        assert_close(gpu.embed_audio(sounds(9)), cpu.embed_audio(sounds(9)))
    # From now on every call fails, as after a fault of a real GPU: each of ours is told so, and none waits.
    os.environ["FAKE_CUDA_STICKY"] = "1"
    os.environ["FAKE_CUDA_FAIL"] = f"cuLaunchKernel:{FakeCuda().count('cuLaunchKernel') + 2}:700"
    for _ in range(4):
        with pytest.raises(BackendError, match="the GPU failed"):
            gpu.embed_audio(sounds(9))
    with pytest.raises(BackendError, match="the GPU failed"):
        gpu.embed_text(TEXTS)


def a_bad_sound_in_between() -> None:
    """Those before and after it have their vectors, and the slots are given back."""
    the_usual_engines()
    cpu, gpu = loaded()
    many = sounds(8)
    many[3] = np.full(100, np.nan, np.float32)
    for _ in range(4):
        indices, vectors = gpu.embed_many(many, on_error=lambda index, error: None)
        assert indices == [0, 1, 2, 4, 5, 6, 7]
        with pytest.raises(AudioError, match="clip 3"):
            gpu.embed_audio(many)
    assert_close(vectors, cpu.embed_audio([sound for index, sound in enumerate(many) if index != 3]))


def measured(unit: str, batches: tuple[int, ...]) -> list[dict[str, Any]]:
    """Rows of a unit of `make gpu-check`'s towers. Their figures mean nothing here."""
    from claprt_bench import gpu_inputs, gpu_task, gpu_towers

    for name in ("LATENCIES", "LEAST_LATENCIES", "WARM_UP", "SINGLE_RUNS", "REPEATS"):
        assert hasattr(gpu_towers, f"_{name}")
        setattr(gpu_towers, f"_{name}", 2)
    gpu_inputs._TIMED, gpu_inputs.LENGTHS, gpu_inputs._KINDS = 3, (0.3, 12.0), gpu_inputs._KINDS[:6]
    settings = gpu_task.Settings(
        work=str(bundle().parent),
        compute_capability="9.0",
        batches=batches,
        bundle=str(bundle()),
        seconds=0.01,
        clips=4,
    )
    rows: list[dict[str, Any]] = []
    result = gpu_towers.measure(gpu_task.Task(settings, unit, rows.append))
    assert all(result["library"] == row["library"] for row in rows)
    return rows


def _assert_measured(rows: list[dict[str, Any]], batches: tuple[int, ...]) -> None:
    assert {row["status"] for row in rows} == {"passed"}, rows
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    checked = [(row["tower"], row.get("recipe"), row.get("log_mel")) for row in parts["parity"]]
    assert set(checked) == {
        *(("audio", "head", "cuda"), ("audio", "head", "cpu"), ("audio", "windows", "cuda"), ("text", None, None))
    }
    assert all(row["holds"] and row["mean_cross_cosine"] < 0.9 for row in parts["parity"])
    assert [(row["tower"], row["batch"]) for row in parts["tower"]] == [
        (tower, batch) for tower in ("audio", "text") for batch in batches
    ]
    assert all(row["ms"] > 0 and row["per_second"] > 0 for row in parts["tower"])
    assert all(row["bytes"]["graph"] > row["bytes"]["inputs"] > 0 for row in parts["tower"] if row["batch"] == 1)
    assert [(row["log_mel"], row["p50_ms"] > 0) for row in parts["latency"]] == [("cuda", True), ("cpu", True)]
    assert {(row["log_mel"], row["samples"]) for row in parts["throughput"]} == {
        (log_mel, samples) for log_mel in ("cuda", "cpu") for samples in ("int16", "float32")
    }


def is_measured_with_tensorrt() -> None:
    """`make gpu-check`'s measurement runs, and its rows are whole."""
    rows = measured("tensorrt/fp32", (1, 2))
    assert [(row["part"], row["tower"]) for row in rows[:2]] == [("engine", "audio"), ("engine", "text")]
    _assert_measured(rows, (1, 2))


def is_measured_with_onnxruntime() -> None:
    """And its tower is told of batches that it does not have by itself."""
    from claprt.bundle import open_bundle
    from claprt.engines.device import DeviceEngine
    from claprt_bench import gpu_task, gpu_towers

    onnxruntime_stand_in()
    _assert_measured(measured("ort-cuda/fp32", (1, 2)), (1, 2))
    task = gpu_task.Task(gpu_task.Settings("", "9.0", batches=(1, 256)), "", lambda row: None)
    engine = gpu_towers._Unit(task, open_bundle(bundle()), "ort-cuda", "fp32", "full")._load("audio")
    assert isinstance(engine, DeviceEngine)
    assert engine.most == 256


def what_misses_is_not_timed() -> None:
    """A tower that computes something else: every row of it says so, and none has a time; the other one is measured."""
    onnxruntime_stand_in()
    cuda_session: Any = importlib.import_module("cuda_session")
    real = cuda_session.onnxruntime.InferenceSession

    class Wrong:
        """A session whose text vectors are turned a little."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._session = real(*arguments, **options)
            self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs

        def run(self, names: Any, inputs: Any) -> Any:
            (found,) = self._session.run(names, inputs)
            return [found + 0.02 * np.roll(found, 1, axis=1) if "input_ids" in inputs else found]

    cuda_session.onnxruntime = type("Module", (), {**vars(cuda_session.onnxruntime), "InferenceSession": Wrong})
    rows = measured("ort-cuda/fp32", (1, 2))
    text = [row for row in rows if row.get("tower") == "text"]
    assert [(row["part"], row["status"]) for row in text] == [("parity", "failed"), *[("tower", "not run")] * 2]
    assert "it misses its bound" in text[0]["reason"]
    assert not text[0]["holds"]
    assert all("ms" not in row for row in text)
    assert {row["status"] for row in rows if row not in text} == {"passed"}


def is_benchmarked() -> None:
    """`claprt bench`: kernel and towers as stages, paths, device memory; its workers are processes like this one."""
    from claprt.cli.main import main

    engines(batches=(1, 2))
    result = bundle().parent / "result.json"
    options = ["--backend", "tensorrt", "--batch", "2", "--duration", "0.01", "--repeats", "1", "--json", str(result)]
    assert main(["bench", str(bundle()), "--only", "stages,paths", *options]) == 0
    document = json.loads(result.read_text(encoding="utf-8"))
    assert document["left_out"] == []
    assert document["machine"]["gpu"]["memory_bytes"] > 0
    found = {one["id"]: one for one in document["measurements"]}
    assert {"stage/log-mel/cuda/b2", "stage/audio-tower/fp32/tensorrt/b2"} <= found.keys()
    for path in ("file", "waveform", "text"):
        one = found[f"path/{path}/fp32/tensorrt/b2"]
        assert one["log_mel"] == (None if path == "text" else "cuda")
        assert one["peak_device_bytes"] > 0
        assert one["first_call_ms"] > 0
    assert any("on tensorrt: against fp32 on ort-cpu" in check["what"] for check in document["checks"])
