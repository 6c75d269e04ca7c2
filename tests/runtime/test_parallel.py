"""Many clips on the CPU: side by side on one thread each, with the same bits, order and errors as one by one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import claprt
from claprt.cpu_clips import CpuClips
from claprt.embedder import AudioEmbedder
from claprt.engines.ort import OrtEngine
from claprt.errors import AudioError, AudioNotFoundError, BackendError, BundleError
from claprt.manifest import AudioInfo
from tests.sounds import noise
from tests.specs import TINY

RATE = 48_000
INFO = AudioInfo(TINY, TINY.frames, 1.0, False, "windows", {})
Wave = NDArray[np.float32]


class Tower:
    """An engine that only notes what runs, where, and how much of it at a time; its vectors are sums of the log-Mel."""

    inputs = ("input_features",)

    def __init__(self, lanes: int, work: Callable[[], object] = lambda: time.sleep(0.002)) -> None:
        self.lanes, self.work = lanes, work
        self.threads: list[str] = []  # of the runs
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.single: Tower | None = None

    def lane(self) -> Tower:
        if self.single is None:
            assert not threading.current_thread().name.startswith("claprt")
            self.single = Tower(1, self.work)
        return self.single

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        features = inputs["input_features"]
        assert features.shape == (1, 1, TINY.frames, TINY.n_mels)
        with self.lock:
            self.threads.append(threading.current_thread().name)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.work()
        finally:
            with self.lock:
                self.at_once -= 1
        vectors: NDArray[np.float32] = features.astype(np.float32).sum(axis=2).reshape(1, -1)
        return vectors

    def embedder(self) -> AudioEmbedder:
        return AudioEmbedder(CpuClips(self, INFO, batch_size=1), INFO, TINY.n_mels)

    @property
    def runs(self) -> tuple[int, int]:
        """How many clips ran side by side, and how many alone."""
        return len(self.single.threads) if self.single else 0, len(self.threads)


def sounds(count: int) -> list[Wave]:
    return [noise(500 + index, seed=index) for index in range(count)]


def embed(tower: Tower, clips: Any, **hooks: Any) -> tuple[list[int], NDArray[np.float32]]:
    return tower.embedder().embed(clips, None, "windows", **hooks)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("claprt")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert workers() == []


# What runs where


@pytest.mark.parametrize(
    ("lanes", "clips", "runs"),
    [
        (1, 1, (0, 1)),
        (1, 5, (0, 5)),
        (2, 0, (0, 0)),
        (2, 1, (0, 1)),
        (2, 2, (2, 0)),
        (2, 3, (2, 1)),
        (2, 6, (6, 0)),
        (3, 2, (2, 0)),
        (4, 2, (0, 2)),
        (4, 3, (3, 0)),
        (4, 4, (4, 0)),
        (4, 6, (4, 2)),
        (4, 7, (7, 0)),
        (8, 20, (16, 4)),
        (64, 3, (0, 3)),
    ],
)
def test_whole_waves_run_side_by_side_and_a_small_rest_alone(lanes: int, clips: int, runs: tuple[int, int]) -> None:
    tower = Tower(lanes)
    indices, vectors = embed(tower, sounds(clips))
    assert indices == list(range(clips))
    assert tower.runs == runs
    assert set(tower.threads) <= {threading.current_thread().name}
    np.testing.assert_array_equal(vectors, embed(Tower(1), sounds(clips))[1])


def test_lanes_are_all_used_and_no_more() -> None:
    """Each of the first clips waits until all of them run: that would time out if fewer did."""
    together = threading.Barrier(4)
    tower = Tower(4, work=lambda: together.wait(timeout=20))
    embed(tower, sounds(12))
    assert tower.lane().most_at_once == 4


def test_the_windows_of_one_sound_run_side_by_side() -> None:
    tower = Tower(3)
    long, short = noise(3_900, seed=1), noise(700, seed=2)  # 7 clips and 1
    _, vectors = embed(tower, [long, short])
    assert tower.runs == (8, 0)
    np.testing.assert_array_equal(vectors, embed(Tower(1), [long, short])[1])


def test_order_does_not_depend_on_which_run_ends_first() -> None:
    random = np.random.default_rng(0)
    tower = Tower(4, work=lambda: time.sleep(float(random.uniform(0, 0.01))))
    clips = sounds(21)
    np.testing.assert_array_equal(embed(tower, clips)[1], embed(Tower(1), clips)[1])


def test_two_clips_a_lane_are_taken_on_and_no_more() -> None:
    """While nothing comes out of the engine, nothing more goes in: neither sounds nor the windows of one."""
    for endless in (False, True):
        go, taken = threading.Event(), 0

        def source(endless: bool = endless) -> Iterator[Wave]:
            nonlocal taken
            for clip in [noise(20_500)] if endless else sounds(40):
                taken += not endless
                yield clip

        def windows(_: int, endless: bool = endless) -> None:
            nonlocal taken
            taken += endless

        tower = Tower(3, work=lambda go=go: go.wait(20))  # type: ignore[misc]
        with ThreadPoolExecutor(1, thread_name_prefix="caller") as caller:
            done = caller.submit(embed, tower, source(), on_progress=windows)
            stalled = -1
            while stalled != taken or tower.lane().at_once < 3:
                stalled = taken
                time.sleep(0.2)
            assert 5 <= taken <= 6
            assert tower.lane().at_once == 3
            go.set()
            assert len(done.result(timeout=20)[0]) == (1 if endless else 40)


# Errors


def test_bad_sounds_are_reported_by_their_index_and_the_others_go_on() -> None:
    late = noise(5_000, seed=3)
    late[3_300] = np.nan  # its first windows are in the lanes by then
    good = sounds(4)
    clips: list[Any] = [good[0], "missing.wav", late, good[1], np.empty(0, np.float32), late, good[2], good[3]]
    errors: list[tuple[int, AudioError]] = []
    tower = Tower(2)
    indices, vectors = embed(tower, clips, on_error=lambda *error: errors.append(error))
    assert indices == [0, 3, 6, 7]
    assert [index for index, _ in errors] == [1, 2, 4, 5]
    assert isinstance(errors[0][1], AudioNotFoundError)
    assert "3300" in str(errors[1][1])
    np.testing.assert_array_equal(vectors, embed(Tower(1), good)[1])


def test_a_bad_sound_in_the_middle_is_raised_by_its_index() -> None:
    clips = sounds(9)
    clips[5][100] = np.inf
    tower = Tower(2)
    with pytest.raises(AudioError, match=r"^clip 5: .*sample 100 "):
        embed(tower, clips)
    assert workers() == []


def test_an_engine_that_fails_in_a_lane_is_raised_and_is_no_fault_of_a_sound() -> None:
    calls = iter(range(100))

    def third_fails() -> None:
        if next(calls) == 2:
            raise BackendError("out of order")

    errors: list[int] = []
    tower = Tower(2, work=third_fails)
    with pytest.raises(BackendError, match="out of order"):
        embed(tower, sounds(40), on_error=lambda index, _: errors.append(index))
    assert errors == []
    assert workers() == []
    assert sum(tower.runs) < 12  # the others were not begun


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("hook", ["on_progress", "on_error", "sounds"])
def test_what_the_callers_code_raises_comes_out_at_once(kind: type[BaseException], hook: str) -> None:
    """Ctrl-C reaches the calling thread, wherever it is."""

    def stop(*_: object) -> None:
        raise kind

    def source() -> Iterator[Any]:
        yield from sounds(6)
        if hook == "sounds":
            stop()
        yield "missing.wav"
        raise AssertionError("not stopped")

    tower = Tower(2, work=lambda: time.sleep(0.05))
    with pytest.raises(kind):
        embed(tower, source(), **({} if hook == "sounds" else {hook: stop}))
    assert workers() == []
    assert sum(tower.runs) <= 6


def test_files_are_closed_when_a_lane_fails(tmp_path: Path) -> None:
    def fail() -> None:
        raise BackendError("broken")

    import soundfile

    soundfile.write(tmp_path / "long.wav", noise(30_000), TINY.sampling_rate)
    with pytest.raises(BackendError):
        embed(Tower(2, work=fail), [tmp_path / "long.wav"])
    if Path("/proc/self/fd").is_dir():
        opened = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        assert tmp_path / "long.wav" not in opened


# Callers at the same time


def test_callers_at_the_same_time_share_the_lanes() -> None:
    tower = Tower(2)
    embedder = tower.embedder()
    expected = embed(Tower(1), sounds(8))[1]
    with ThreadPoolExecutor(6, thread_name_prefix="caller") as callers:
        for result in callers.map(lambda _: embedder.embed(sounds(8), None, "windows")[1], range(12)):
            np.testing.assert_array_equal(result, expected)
    assert tower.runs == (96, 0)
    assert tower.lane().most_at_once == 2


# The real engine


def waves() -> list[Wave]:
    """Noise, silence, a click, a tone, full and short: 8 sounds, 11 windows."""
    tone = np.sin(np.arange(11 * RATE) * 0.05).astype(np.float32)
    click = np.zeros(RATE, np.float32)
    click[7] = 1.0
    sounds = [noise(RATE * (1 + seed), seed=seed) for seed in range(3)]
    return [*sounds, tone, np.zeros(9, np.float32), click, noise(17 * RATE, seed=5), tone[:RATE] * np.float32(1e-4)]


@pytest.mark.parametrize(
    ("name", "recipe"), [("demo_bundle", "windows"), ("demo_fused_bundle", "windows"), ("demo_fused_bundle", "fusion")]
)
def test_not_a_bit_depends_on_the_number_of_threads_or_on_the_lanes(
    request: pytest.FixtureRequest, name: str, recipe: str
) -> None:
    bundle: Path = request.getfixturevalue(name)
    for precision in claprt.load(bundle).manifest.precisions:
        alone = claprt.load(bundle, precision=precision, threads=1)
        expected = np.concatenate([alone.embed_audio(wave, recipe=recipe) for wave in waves()])
        for threads in (2, 5):
            model = claprt.load(bundle, precision=precision, threads=threads)
            np.testing.assert_array_equal(model.embed_audio(waves(), recipe=recipe), expected)
            for wave, vector in zip(waves(), expected, strict=True):
                np.testing.assert_array_equal(model.embed_audio(wave, recipe=recipe)[0], vector)


def test_engine_and_lane_agree_on_every_bit(demo_bundle: Path) -> None:
    """Without anything between: the two sessions of one engine, and both do run."""
    manifest = claprt.load(demo_bundle).manifest
    graph = demo_bundle / manifest.audio.variants["fp32"].file
    engine = OrtEngine([graph], ("input_features",), manifest.model.embedding_dim, threads=4)
    assert engine.lanes == 4
    assert engine.lane() is engine.lane() is not engine
    assert engine.lane().lanes == 1
    assert engine.lane().lane() is engine.lane()
    shape = (1, 1, manifest.audio.frames, manifest.audio.log_mel.n_mels)
    for seed in range(5):
        features = np.random.default_rng(seed).normal(-30.0, 25.0, shape).astype(np.float32)
        inputs = {"input_features": features}
        np.testing.assert_array_equal(engine.run(inputs), engine.lane().run(inputs))


def test_a_session_is_made_when_it_is_needed(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are in memory twice only where both ways are gone."""
    made: list[int] = []
    real = onnxruntime.InferenceSession

    def session(model: object, options: Any, **rest: Any) -> Any:
        made.append(options.intra_op_num_threads)
        return real(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    wave = noise(RATE)
    many = claprt.load(demo_bundle, threads=2)
    many.embed_audio([wave] * 4)
    many.embed_audio([wave] * 2)
    assert made == [1]
    many.embed_audio(wave)
    many.embed_audio([wave] * 3)
    assert made == [1, 2]
    made.clear()
    alone = claprt.load(demo_bundle, threads=1)
    alone.embed_audio([wave] * 4)
    alone.embed_audio(wave)
    assert made == [1]


def test_another_graph_in_the_place_of_the_one_that_was_loaded(demo_bundle: Path, tmp_path: Path) -> None:
    """The second session must not have the weights of a bundle that was written there meanwhile."""
    copied = shutil.copytree(demo_bundle, tmp_path / "copied")
    model = claprt.load(copied, threads=2)
    expected = model.embed_audio(noise(RATE))
    graph = copied / model.manifest.audio.variants["fp32"].file
    shutil.copy(graph, tmp_path / "other")
    (tmp_path / "other").replace(graph)
    with pytest.raises(BundleError, match=r"changed since the bundle was loaded: .*load the bundle again"):
        model.embed_audio([noise(RATE)] * 2)
    np.testing.assert_array_equal(model.embed_audio(noise(RATE)), expected)


def test_callers_at_the_same_time_get_the_same_bits(demo_bundle: Path) -> None:
    """On a model whose engines have not started: all meet in the first use of both sessions."""
    sets = [waves()[:2], waves()[2:4], waves()[6:7], waves()[:1], waves()]
    model = claprt.load(demo_bundle, threads=2)
    alone = claprt.load(demo_bundle, threads=1)
    expected = [alone.embed_audio(some) for some in sets]
    with ThreadPoolExecutor(len(sets), thread_name_prefix="caller") as callers:
        for _ in range(2):
            for found, right in zip(callers.map(model.embed_audio, sets), expected, strict=True):
                np.testing.assert_array_equal(found, right)


# The end of the process

USE = """
import os, signal, sys, threading
import numpy as np
import claprt

clap = claprt.load({bundle!r}, threads=2)
wave = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) * 0.1
"""


def run(bundle: Path, code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    script = USE.format(bundle=str(bundle)) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize(
    ("code", "returned"),
    [
        ("clap.embed_audio([wave] * 6); assert threading.active_count() == 1", 0),
        ("try: clap.embed_audio([wave] * 5 + ['missing'])\nexcept claprt.errors.AudioError: sys.exit(7)", 7),
        ("clap.embed_many([wave] * 9, on_progress=lambda index: index == 5 and sys.exit(8))", 8),
        ("clap.embed_audio([wave] * 5 + [np.empty(0)])", 1),
        ("threading.Thread(target=clap.embed_audio, args=([wave] * 40,)).start()", 0),
        ("kept = clap._audio.get()._clips([wave] * 3, None, 'head', {}, None, None); next(kept)", 0),
    ],
    ids=["used", "error caught", "exit in a hook", "error", "left running", "left open"],
)
def test_the_process_ends(demo_bundle: Path, code: str, returned: int) -> None:
    done = run(demo_bundle, code)
    assert done.returncode == returned, done.stderr
    assert ("Traceback" in done.stderr) == (returned == 1), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_can_embed(demo_bundle: Path) -> None:
    code = """
first = clap.embed_audio([wave] * 4)
child = os.fork()
if not child:
    signal.alarm(30)
    os._exit(0 if np.array_equal(clap.embed_audio([wave] * 4), first) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    done = run(demo_bundle, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_while_others_embed_can_embed(demo_bundle: Path) -> None:
    """What other threads had taken, they never give back there."""
    code = """
first = clap.embed_audio([wave] * 4)
for _ in range(3):
    threading.Thread(target=lambda: [clap.embed_audio([wave] * 8) for _ in range(1000)], daemon=True).start()
for wait in range(5):
    threading.Event().wait(0.1 + 0.03 * wait)
    child = os.fork()
    if not child:
        signal.alarm(30)
        os._exit(0 if np.array_equal(clap.embed_audio([wave] * 4), first) else 1)
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
    done = run(demo_bundle, code)
    assert done.returncode == 0, done.stderr


def test_an_interrupt_ends_it_promptly(demo_bundle: Path) -> None:
    """Ctrl-C in the middle of endless sounds."""
    code = """
def endless():
    while True:
        yield wave

clap.embed_audio([wave] * 2)
clap.embed_many(endless(), on_progress=lambda index: index == 8 and print("running", flush=True))
"""
    script = USE.format(bundle=str(demo_bundle)) + code
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert time.monotonic() - sent < 10
    assert process.returncode in (-signal.SIGINT, 130)
    assert "KeyboardInterrupt" in shown
