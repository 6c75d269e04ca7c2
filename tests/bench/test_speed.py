"""`claprt bench` for real but short: what it writes, what stops it, and the arithmetic of its figures. No time is
asserted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy import stats

from claprt.bundle import open_bundle, sha256_file
from claprt.errors import OptionError
from claprt.manifest import Manifest
from claprt_bench.document import read_document
from claprt_bench.errors import BenchError
from claprt_bench.report import write_report
from claprt_bench.speed import plan, worker
from claprt_bench.speed.inputs import FILE_RATE, read_inputs, write_inputs
from claprt_bench.speed.jobs import Workers
from claprt_bench.speed.open_loop import arrivals
from claprt_bench.speed.options import SpeedOptions
from claprt_bench.speed.statistics import percentile, summary
from claprt_bench.speed.steps import Side, Steps, Task
from tests.runtime.cli_helpers import Cli

SHORT = ("--duration", "0.1", "--repeats", "2", "--batch", "2")
NUMBER = (int, float)


@pytest.fixture(scope="module")
def measured(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """A result of two precisions with all parts, and what was printed. Its report is that of `claprt bench report`."""
    path = tmp_path_factory.mktemp("speed") / "result.json"
    command = [sys.executable, "-m", "claprt", "bench", str(demo_bundle), *SHORT, "--precision", "fp32,int8"]
    page, again = path.with_name("page.html"), path.with_name("again.html")
    command += ["--rate", "100", "--scaling", "threads", "--json", str(path), "--html", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar in a pipe
    document = read_document(path, "speed")
    write_report([document], again)
    assert page.read_text("utf-8") == again.read_text("utf-8")
    return document, done.stdout


def test_every_measurement_is_whole(measured: tuple[dict[str, Any], str]) -> None:
    """Each stage and each path of each precision, with all fields and their types."""
    document, _ = measured
    threads = document["method"]["threads"]
    ids = [one["id"] for one in document["measurements"]]
    assert len(set(ids)) == len(ids)
    towers = {
        f"{group}/{step}/{precision}/ort-cpu/b2/t{threads}"
        for precision in ("fp32", "int8")
        for group, step in (
            *(("path", step) for step in ("file", "waveform", "text")),
            *(("stage", step) for step in ("audio-tower", "text-tower")),
        )
    }
    assert set(ids) == towers | {
        "stage/decode/b1", "stage/resample/b1", "stage/log-mel/cpu/b1", "stage/tokenizer/b1"
    }  # fmt: skip
    for one in document["measurements"]:
        calls = [sample for repeat in one["samples_ms"] for sample in repeat]
        assert len(one["samples_ms"]) == 2, one["id"]
        assert min(calls) > 0
        found = one["summary"]
        assert found["calls"] == len(calls)
        assert found["median_ms"] == pytest.approx(float(np.median(calls)), rel=1e-4)
        low, high = found["spread_ms"]
        assert low <= found["median_ms"] <= high or len(set(map(len, one["samples_ms"]))) > 1
        assert isinstance(found["cpu_ms_per_item"], NUMBER)
        is_path = one["group"] == "path"
        assert (one["first_call_ms"] is not None) == is_path
        assert (one["peak_host_bytes"] is not None) == is_path
        assert one["peak_device_bytes"] is None
        assert (one["variant"] == "int8-cpu") == (one["precision"] == "int8")
        is_text = one["step"] in ("text", "tokenizer", "text-tower")
        assert (one["audio_seconds"] is None) == is_text
        assert (found["real_time_factor"] is None) == is_text


def test_the_first_call_is_slower_than_warm_ones(measured: tuple[dict[str, Any], str]) -> None:
    """It loads the tower: what calls a first call must be one."""
    for one in measured[0]["measurements"]:
        if one["group"] == "path":
            assert one["first_call_ms"] > one["summary"]["minimum_ms"], one["id"]


def test_cold_starts_open_loop_and_scaling(measured: tuple[dict[str, Any], str]) -> None:
    document, _ = measured
    assert [one["id"] for one in document["cold_start"]] == [
        f"cold-start/{tower}/{precision}/ort-cpu" for precision in ("fp32", "int8") for tower in ("audio", "text")
    ]
    for start in document["cold_start"]:
        assert len(start["samples_ms"]) == 2
        assert start["peak_host_bytes"] > 20_000_000
    for loop in document["open_loop"]:
        assert loop["requests"] == 200 == len(loop["samples_ms"])
        assert loop["latency"]["maximum_ms"] >= loop["service"]["maximum_ms"] - 1e-6
        assert loop["latency"]["p50_ms"] <= loop["latency"]["p99_ms"] <= loop["latency"]["maximum_ms"]
    curves = {curve["id"]: curve for curve in document["scaling"]}
    assert all(curve["axis"] == "threads" and curve["points"] for curve in curves.values())
    assert len(curves) == 4  # two precisions, one clip and eight


def test_what_it_says(measured: tuple[dict[str, Any], str]) -> None:
    """The tables have every precision and path; checks come first; a machine that was not quiet is said to be so."""
    document, text = measured
    assert all(check["passed"] for check in document["checks"])
    whats = [check["what"] for check in document["checks"]]
    assert whats[0] == "log-Mel against its definition in float64, dB"
    assert "text, int8 on ort-cpu: against fp32 on ort-cpu, worst cosine" in whats
    assert f"{len(whats)} checks of values passed" in text
    for words in ("file -> vector", "waveform -> vector", "text -> vector", "audio tower", "open loop", "cold start"):
        assert words in text
    assert document["noise"]["quiet"] == (not any("not a quiet machine" in one for one in document["warnings"]))
    assert all(f"WARNING: {one}" in text for one in document["warnings"])


def test_no_machine_paths(measured: tuple[dict[str, Any], str], demo_bundle: Path) -> None:
    """A result is sent around: it must not tell where things lie."""
    assert str(demo_bundle.parent) not in json.dumps(measured[0])


def test_wrong_values_are_not_timed(demo_bundle: Path, tmp_path: Path, cli: Cli) -> None:
    """A graph that is intact and wrong: exit code 2, no result."""
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    path = bundle / "audio.int8-cpu.onnx"
    graph = onnx.load(path)
    weights = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data) if tensor.data_type == 1 else 0)
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    onnx.save(graph, path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = manifest["audio"]["variants"]["int8-cpu"]
    entry |= {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = cli("bench", bundle, *SHORT, "--precision", "int8", "--json", tmp_path / "result.json")
    assert result.code == 2
    assert "wrong values, not timed: audio, int8 on ort-cpu: against fp32" in result.err
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--batch", "0"), "bad batch: [0]"),
        (("--batch", "x"), "bad --batch: 'x'"),
        (("--batch", "2000"), "bad batch: [2000]"),
        (("--duration", "0"), "bad duration: 0 s"),
        (("--duration", "nan"), "bad duration: nan s"),
        (("--only", "stage"), "unknown part: 'stage'; choose of stages, paths, cold-start"),
        (("--scaling", "size"), "unknown axis of scaling: 'size'"),
        (("--rate", "0"), "bad rate: [0.0]"),
        (("--rate", "1e9"), "pass requests per second above 0 and up to 1000000"),
        (("--audio", "no/such/folder"), "no recordings: no/such/folder: no such directory"),
        (("--against", "laion", "--peer-python", "laion=/nope"), "no program for the peer laion: /nope"),
        (("--json", "{tmp}/x", "--html", "{tmp}/x"), "--json and --html are the same file"),
        (("--json", "{tmp}/a.wav", "--audio", "{tmp}"), "--json would replace what is read"),
        (("--rate", "ten"), "bad --rate: 'ten'"),
        (("--precision", "fp8"), "unknown precision: 'fp8'"),
        (("--precision", ","), "there are no precisions"),
        (("--json", "no/such/folder/x.json"), "the result cannot be written"),
        (("--backend", "tensorrt"), "the backend cannot run here: tensorrt"),
    ],
)
def test_bad_options(demo_bundle: Path, cli: Cli, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    """Found before anything is measured, in one line."""
    (tmp_path / "a.wav").write_text("a sound")
    result = cli("bench", demo_bundle, *(option.replace("{tmp}", str(tmp_path)) for option in options))
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_terminated_it_leaves_no_process(demo_bundle: Path, tmp_path: Path) -> None:
    """SIGTERM to the command alone ends the process that it measures with, and leaves no file."""
    command = [sys.executable, "-m", "claprt", "bench", str(demo_bundle), "--duration", "600", "--repeats", "1"]
    process = subprocess.Popen(
        [*command, "--only", "paths", "--json", str(tmp_path / "result.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    deadline = time.monotonic() + 120
    while not (children := _children(process.pid)):
        assert time.monotonic() < deadline, "no worker was started"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)
    assert list(tmp_path.glob("*claprt*")) == []
    assert not (tmp_path / "result.json").exists()


def test_a_worker_that_dies(demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed by the system, as when memory runs out: an error that says so."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    side = Side(str(demo_bundle), "fp32", "ort-cpu", 1)
    with pytest.raises(BenchError, match="a process that measures died: exit code -9"):
        Workers(tmp_path, 0.0).first(side, Task("text"))


def test_percentiles_need_calls_above_them() -> None:
    """p99 of a hundred calls would be the slowest one or two: shown from 200 calls on; the values are NumPy's."""
    samples = list(np.random.default_rng(0).exponential(size=200))
    for percent in (50, 90, 95, 99):
        assert percentile(samples, percent) == pytest.approx(float(np.percentile(samples, percent)))
    shown = {count: [percentile(samples[:count], p) is not None for p in (50, 90, 95, 99)] for count in (1, 19, 20, 40)}
    assert shown == {
        1: [True, False, False, False],
        19: [True, False, False, False],
        20: [True, True, False, False],
        40: [True, True, True, False],
    }
    assert percentile(samples[:199], 99) is None


def test_summary() -> None:
    """Throughput counts slow calls in full: 3 calls of 4 items in 40 ms are 300 a second."""
    found = summary([[5.0, 15.0], [20.0]], batch=4, audio_seconds=10.0, cpu_ms=60.0)
    assert found["items_per_second"] == pytest.approx(300)
    assert found["real_time_factor"] == pytest.approx(3000)
    assert found["spread_ms"] == [10.0, 20.0]
    assert found["median_ms"] == 15.0
    assert found["cpu_ms_per_item"] == pytest.approx(5)
    assert found["cores_used"] == pytest.approx(1.5)


class _Stalls(Steps):
    """A step that takes 1 ms, and 300 ms the tenth time."""

    def __init__(self) -> None:
        pass

    def call(self, task: Task) -> Any:
        return lambda index: time.sleep(0.3 if index == 10 else 0.001)


def test_the_open_loop_counts_waiting() -> None:
    """Requests every 10 ms, and one of them stalls for 300 ms. Those that were due meanwhile waited: their latencies
    are what Lindley's recursion makes of the times due and of service, and the service times hide it."""
    due = [index / 100 for index in range(60)]
    found = worker.open_loop(_Stalls(), {"task": {"step": "waveform"}, "pause": 0.0, "due": due, "seconds": 10.0})
    latency, service = np.array(found["latency_ms"]), np.array(found["service_ms"])
    free = 0.0
    for index, at in enumerate(1000 * np.array(due)):
        free = max(free, at) + service[index]
        assert latency[index] >= free - at - 1e-3  # sleeping may end late, never early
    assert latency[10] >= 300
    for later in range(11, 40):
        assert latency[later] >= 300 - 10 * (later - 10) - 1e-3
    assert (service > 100).sum() == 1
    assert (latency > 100).sum() >= 20


def test_an_open_loop_that_cannot_keep_up_ends() -> None:
    """Requests that nobody will serve are counted with the time that they have waited."""
    due = [index / 1000 for index in range(1000)]
    found = worker.open_loop(_Stalls(), {"task": {"step": "waveform"}, "pause": 0.0, "due": due, "seconds": 0.1})
    assert found["unfinished"] > 0
    assert len(found["latency_ms"]) == 1000 == len(found["service_ms"]) + found["unfinished"]
    assert min(found["latency_ms"][-10:]) > -1000


def test_arrivals_are_a_poisson_process() -> None:
    """Exponential gaps of the mean asked for (Kolmogorov and Smirnov), the same again for the same seed."""
    times = arrivals(rate=50.0, seconds=40.0)
    gaps = np.diff([0.0, *times])
    assert len(times) == 2000
    assert stats.kstest(gaps, stats.expon(scale=1 / 50).cdf).pvalue > 0.01
    assert times == arrivals(50.0, 40.0)
    assert times != arrivals(50.0, 40.0, seed=1)


def test_orders_change_and_stages_come_last(demo_manifest: Manifest) -> None:
    """Each path is first in some repeat; stages load a tower of their own and must not be in a path's way."""
    side = Side("bundle", "fp32", "ort-cpu", 2)
    audio = plan.groups(SpeedOptions(batches=(1, 8)), [side])[1]
    firsts = {audio.turned(repeat)[0].id for repeat in range(4)}
    assert len(firsts) == 4
    for repeat in range(5):
        kinds = [one.group for one in audio.turned(repeat)]
        assert kinds == ["path"] * 4 + ["stage"] * 2
    about = audio.measurements[0].about(demo_manifest)
    assert (about["variant"], about["threads"], about["log_mel"]) == ("fp32", 2, "cpu")


def test_curves() -> None:
    """Every axis has the range that is promised, in ascending order."""
    side = Side("bundle", "fp32", "ort-cpu", 2)
    options = SpeedOptions(scaling=("batch", "threads", "clip", "labels"))
    curves = plan.curves(options, side, cores=6)
    ranges = {curve.id.split("/")[1]: [x for x, _, _ in curve.points] for curve in curves}
    assert ranges["batch"] == [1, 2, 4, 8, 16, 32, 64]
    assert ranges["threads"] == [1, 2, 4, 6]
    assert (ranges["clip"][0], ranges["clip"][-1]) == (1, 600)
    assert (ranges["labels"][0], ranges["labels"][-1]) == (1, 10_000)
    assert all(values == sorted(values) for values in ranges.values())
    assert {side.threads for curve in curves if curve.axis == "threads" for _, _, side in curve.points} == {1, 2, 4, 6}


def test_files_are_the_clips(demo_manifest: Manifest, tmp_path: Path) -> None:
    """So that the path from a file and that from a waveform do the same work."""
    import soundfile

    spec = demo_manifest.audio.log_mel
    write_inputs(tmp_path, spec, None)
    inputs = read_inputs(tmp_path)
    assert inputs.clips.shape == (8, spec.clip_samples)
    assert len({clip.tobytes() for clip in inputs.clips}) == 8
    info = soundfile.info(inputs.files[3])
    assert (info.samplerate, info.channels, info.subtype) == (FILE_RATE, 2, "PCM_16")
    assert info.frames == round(spec.clip_samples * FILE_RATE / spec.sampling_rate)


def test_peak_memory_is_that_of_the_worker_alone() -> None:
    """A large process that starts a small one must not be counted into it, and what was freed again counts."""
    code = (
        "import numpy; from claprt_bench.speed.memory import peak_bytes; "
        "big = numpy.ones(50_000_000, numpy.uint8); del big; print(peak_bytes())"
    )
    ballast = np.ones(600_000_000, dtype=np.uint8)
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert ballast.any()
    assert 50_000_000 < peak < 300_000_000


def test_unknown_options_of_the_module() -> None:
    with pytest.raises(OptionError, match="bad number of repeats: 0"):
        SpeedOptions(repeats=0)


@pytest.fixture(scope="module")
def demo_manifest(demo_bundle: Path) -> Manifest:
    return open_bundle(demo_bundle).manifest


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
