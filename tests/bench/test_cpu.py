"""The CPU benchmark, for real but tiny: a process of its own, few runs, no time asserted."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from claprt.errors import AudioError, ExportError, OptionError
from claprt_bench import cold_start, cpu, graphs, inputs, install_size
from claprt_bench.checks import check_log_mel, check_spread, check_vectors
from claprt_bench.errors import BenchError
from claprt_bench.machine import Neighbours, describe
from claprt_bench.prepare import FULL_SIZE, Prepared, _Steps
from claprt_bench.reference import Reference, export_stock
from claprt_export.checkpoint import load_checkpoint
from claprt_export.demo import CHECKPOINTS
from claprt_export.random_checkpoint import save_random_checkpoint
from tests.specs import TINY, UNFUSED

# Measures the demo bundle against its checkpoint; the bundle's own graph stands in for the stock one. Then what must
# stop a measurement, and the state of subnormals that each side gets while ONNX sessions exist.
MEASURE = """
import dataclasses, json, sys
from pathlib import Path
import numpy as np
import claprt
from claprt.errors import ClaprtError
from claprt_bench import cpu
from claprt_bench.cpu_rows import Options
from claprt_bench.prepare import Prepared
from claprt_bench.reference import as_it_comes, flushed

checkpoint, bundle, without_int8, wrong = map(Path, sys.argv[1:])
prepared = Prepared(checkpoint, bundle, bundle / "audio.fp32.onnx", Path("no such file"))
options = Options(repeats=2, starts=1, pause=0.0, warm_up=1, targets=True, batches=(1, 2))
groups = ("waveform", "graph", "log-mel", "text")
document, rows = cpu.measure(prepared, options, groups, profile=True)
print(json.dumps(document), flush=True)
print(json.dumps(cpu.report(document, rows)), flush=True)

few = dataclasses.replace(options, repeats=1, warm_up=0, batches=(2,))
document, _ = cpu.measure(dataclasses.replace(prepared, bundle=without_int8), few, ("waveform",))
print(json.dumps(document["rows"]))

def error(group, **changes):
    try:
        cpu.measure(dataclasses.replace(prepared, **changes), few, (group,))
    except ClaprtError as found:
        return str(found)

product = lambda index: float((np.full(4, 1e-40, np.float32) * np.float32(0.5)).max())
print(json.dumps([as_it_comes(product)(0), flushed(product)(0), as_it_comes(product)(0)]))
print(json.dumps(error("graph", stock=wrong)))
honest = claprt.Clap.embed_audio
claprt.Clap.embed_audio = lambda self, clips: honest(self, clips)[::-1]
print(json.dumps(error("waveform")))
"""


@pytest.fixture(scope="module")
def measured(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What MEASURE printed: document, report, rows without INT8, subnormal products, message for a wrong graph and for
    wrong vectors."""
    directory = tmp_path_factory.mktemp("measured")
    without_int8 = directory / "bundle"
    shutil.copytree(demo_bundle, without_int8)
    manifest = json.loads((demo_bundle / "manifest.json").read_text())
    for tower in ("audio", "text"):
        manifest[tower]["variants"] = {"fp32": manifest[tower]["variants"]["fp32"]}
    (without_int8 / "manifest.json").write_text(json.dumps(manifest))
    wrong = directory / "stock.onnx"
    model = onnx.load(str(demo_bundle / "audio.fp32.onnx"))
    weight = max(model.graph.initializer, key=lambda tensor: tensor.ByteSize())
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, str(wrong))
    command = [sys.executable, "-c", MEASURE, str(CHECKPOINTS["unfused"])]
    done = subprocess.run([*command, demo_bundle, without_int8, wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_document(measured: list[Any]) -> None:
    """Machine, method, threads, and a row for each comparison with all samples and a target."""
    document = measured[0]
    machine = document["machine"]
    assert {"claprt", "torch", "transformers", "onnxruntime", "numpy"} <= set(machine["versions"])
    assert {"processor", "cpu_flags", "usable_cores", "date", "python"} <= set(machine)
    assert len(document["load_average"]["before"]) == len(document["load_average"]["after"]) == 3
    assert document["threads"]["every side"] == 2
    assert set(document["threads"]["environment"]) == set(cpu.ENVIRONMENT)
    assert document["method"]["repeats"] == 2
    assert document["model"]["parameters"]["audio"] > 100_000
    rows = {row["what"]: row for row in document["rows"]}
    assert list(rows) == [
        *(f"waveform -> vector, {p}, batch {n}" for n in (1, 2) for p in ("FP32", "INT8")),
        *(f"audio graph alone, {p}, batch {n}" for n in (1, 2) for p in ("FP32", "INT8")),
        "log-Mel alone",
        *(f"16 texts -> vectors, {p}" for p in ("FP32", "INT8")),
        "install size of claprt[cpu]",
    ]
    targets = [row["target"] and row["target"].get("ratio_at_least") for row in document["rows"]]
    assert targets == [2.2, 4.0, None, None, 1.3, None, 1.3, None, 4.0, 2.0, 4.0, None]
    for what, row in rows.items():
        assert len(row["samples"]["ours"]) == (0 if "install" in what else 2), what
        assert all(sample > 0 for side in row["samples"].values() for sample in side)
    row = rows["waveform -> vector, FP32, batch 1"]
    assert row["accuracy"]["worst_cosine"] > 0.999999
    assert row["ratio"] == pytest.approx(row["theirs"]["median"] / row["ours"]["median"])
    assert row["met"] is (row["ratio"] >= 2.2)
    assert rows["log-Mel alone"]["accuracy"]["max_abs_db"] < 0.01


def test_what_was_not_measured_says_so(measured: list[Any]) -> None:
    """A bundle without INT8 gives rows without a figure and a verdict, and the reason; so do install sizes."""
    assert [row["what"][-13:] for row in measured[2][:2]] == ["FP32, batch 2", "INT8, batch 2"]
    assert measured[2][0]["ratio"] > 0
    for row, reason in zip(measured[2][1:], ("the bundle has no int8", "--install-sizes"), strict=True):
        assert row["ours"] is row["ratio"] is row["met"] is None
        assert "not measured" in row["notes"][-1]
        assert reason in row["notes"][-1]


def test_floor_and_profile(measured: list[Any]) -> None:
    """The floor is FLOPs over a measured speed; the profile's shares add up and have the products in them."""
    floor = measured[0]["fp32_floor"]
    assert floor["gflop_per_clip"] == floor["gflop_per_clip_of_the_stock_graph"] > 0.1
    peak, least = floor["peak_gflop_per_s"], floor["floor_ms_per_clip"]
    assert least["at_median_peak"] == pytest.approx(floor["gflop_per_clip"] / peak["median"] * 1000)
    assert least["at_best_peak"] <= least["at_median_peak"]
    needed = floor["needed_ms_per_clip"]["waveform -> vector, FP32, batch 1"]
    assert needed == pytest.approx(measured[0]["rows"][0]["theirs"]["median"] / 2.2)
    assert list(measured[0]["profile"]) == ["stock export", "claprt FP32", "claprt INT8"]
    for operators in measured[0]["profile"].values():
        assert sum(operator["share"] for operator in operators) == pytest.approx(1.0)
        assert any(operator["name"].startswith("MatMul") for operator in operators)


def test_report(measured: list[Any]) -> None:
    """The text names machine and versions, has the table with verdicts, the floor and the profiles."""
    document, text = measured[:2]
    assert document["machine"]["processor"] in text
    assert f"transformers {document['machine']['versions']['transformers']}" in text
    (line,) = [line for line in text.splitlines() if line.startswith("audio graph alone, FP32, batch 1")]
    assert ">= 1.3x" in line
    assert line.split()[-1] == ("met" if document["rows"][4]["met"] else "MISSED")
    assert "FP32 floor:" in text
    assert "stock export, batch 1" in text
    assert max(map(len, text.splitlines()[5:])) <= 140


def test_each_side_has_its_own_subnormals(measured: list[Any]) -> None:
    """While ONNX sessions exist: kept for transformers, flushed for the graphs, kept again."""
    kept, lost, again = measured[3]
    assert kept == again > 0.0
    assert lost == 0.0


def test_wrong_values_stop_it(measured: list[Any]) -> None:
    """Neither a graph with one wrong weight nor vectors in the wrong order are timed."""
    assert measured[4].startswith("wrong values, not timed: audio graph, theirs: worst cosine")
    assert measured[5].startswith("wrong values, not timed: audio, fp32: worst cosine")


def unit_vectors(count: int = 4, dim: int = 16) -> NDArray[np.float32]:
    vectors = np.random.default_rng(1).standard_normal((count, dim)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_checks_of_vectors() -> None:
    """Equal vectors pass; another direction, another length, NaN and another shape do not; INT8 has its own bound."""
    good = unit_vectors()
    assert check_vectors("x", good, good, "audio", "fp32")["worst_cosine"] == pytest.approx(1.0)
    near = good + 0.004 * unit_vectors()[::-1]
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    check_vectors("x", near, good, "audio", "int8")
    nan = good.copy()
    nan[2, 3] = np.nan
    for bad in (near, -good, 1.01 * good, nan, good[:2]):
        with pytest.raises(BenchError, match="wrong values, not timed: x"):
            check_vectors("x", bad, good, "audio", "fp32")
    with pytest.raises(BenchError, match="would prove nothing"):
        check_spread(np.repeat(good[:1], 3, axis=0))
    check_spread(good)
    with pytest.raises(BenchError, match=r"0\.0200 dB off"):
        check_log_mel(np.zeros((2, 2), np.float32), np.full((2, 2), 0.02, np.float32))


def graph_of(*nodes: onnx.NodeProto, shape: list[Any], weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [given], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_flops(tmp_path: Path) -> None:
    """Two for each multiplication: a strided convolution, a product and a transposed Gemm, counted by hand."""
    model = graph_of(
        helper.make_node("Conv", ["x", "kernel"], ["a"], strides=[4, 4], name="conv"),  # (1, 6, 2, 2)
        helper.make_node("MatMul", ["a", "m"], ["b"], name="product"),  # (1, 6, 2, 5)
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "w"], ["y"], transB=1, name="gemm"),  # (1, 7)
        shape=["batch", 3, 8, 8],
        weights={"kernel": (6, 3, 4, 4), "m": (2, 5), "w": (7, 60)},
    )
    onnx.save(model, str(tmp_path / "g.onnx"))
    assert graphs.flops(tmp_path / "g.onnx") == 2 * (24 * 48 + 60 * 2 + 7 * 60)
    assert graphs.opset(tmp_path / "g.onnx") == 20
    unknown = graph_of(
        helper.make_node("MatMul", ["x", "m"], ["y"], name="product"), shape=["b", "n", 4], weights={"m": (4, 4)}
    )
    onnx.save(unknown, str(tmp_path / "u.onnx"))
    with pytest.raises(BenchError, match="cannot be counted: product"):
        graphs.flops(tmp_path / "u.onnx")


def test_stock_export(tmp_path: Path) -> None:
    """The other side's graph computes what transformers computes, at batch sizes that it was not exported with."""
    directory = save_random_checkpoint(tmp_path / "checkpoint", "tiny", depths=(2,), num_attention_heads=(1,))
    checkpoint = load_checkpoint(str(directory))
    export_stock(checkpoint, tmp_path / "stock.onnx")
    _, clips = inputs.clips(checkpoint.log_mel, None, 3)
    reference = Reference(checkpoint, threads=2)
    features = np.stack([reference.log_mel(clip) for clip in clips])[:, None]
    session = graphs.session(tmp_path / "stock.onnx", threads=2)
    for count in (1, 3):
        (found,) = session.run(None, {"input_features": features[:count]})
        check_vectors("stock", found, reference.embed_audio(clips[:count]), "audio", "fp32")


def test_clips_are_real_loud_and_different(tmp_path: Path) -> None:
    """Recordings in turn, short ones repeated, silent ones left out, made sounds for the rest; never zeros."""
    tone = np.sin(np.arange(2500) * 0.3)
    soundfile.write(tmp_path / "long.wav", tone, TINY.sampling_rate)
    soundfile.write(tmp_path / "short.wav", tone[:300], TINY.sampling_rate)
    soundfile.write(tmp_path / "silent.wav", np.zeros(2000), TINY.sampling_rate)
    description, clips = inputs.clips(TINY, tmp_path, 5)
    assert description == "5 different clips of 1 s: 5 of recordings"
    np.testing.assert_array_equal(clips[1], np.resize(clips[1][:300], 1000))
    description, clips = inputs.clips(UNFUSED, None, 3)
    assert description == "3 different clips of 10 s: 3 made by a program"
    assert {(clip.shape, clip.dtype) for clip in clips} == {((480_000,), np.dtype(np.float32))}
    assert min(float(np.abs(clip).max()) for clip in clips) > 0.01
    (tmp_path / "long.wav").unlink()
    (tmp_path / "short.wav").unlink()
    with pytest.raises(AudioError, match="no file is a sound that is loud enough"):
        inputs.clips(TINY, tmp_path, 2)


def test_cold_starts_of_both_sides(demo_bundle: Path, tmp_path: Path) -> None:
    """Both programs run, agree, and their memory is their own: nothing of this process, which holds torch, counts."""
    (clip,) = inputs.clips(UNFUSED, None, 1)[1]
    sound = tmp_path / "clip.wav"
    soundfile.write(sound, clip, UNFUSED.sampling_rate)
    starts = cold_start.measure(
        {
            "theirs": cold_start.theirs(CHECKPOINTS["unfused"], sound, 2),
            "fp32": cold_start.ours(demo_bundle, "fp32", sound, 2),
            "nothing": ["-I", "-S", "-c", "import os; os.write(1, b'abc')"],
        },
        rounds=1,
        pause=0.0,
        warm_up=0,
    )
    theirs, ours = (np.frombuffer(starts[name][0].vector, np.float32)[None] for name in ("theirs", "fp32"))
    check_vectors("cold start", ours, theirs, "audio", "fp32")
    assert starts["nothing"][0].vector == b"abc"
    assert 3e6 < starts["nothing"][0].peak_bytes < 30e6 < starts["fp32"][0].peak_bytes
    assert 0 < starts["nothing"][0].seconds < starts["theirs"][0].seconds


def test_a_cold_start_that_fails() -> None:
    """Its last line is the error."""
    with pytest.raises(RuntimeError, match=r"exit code 1: ValueError: no luck"):
        cold_start.measure({"bad": ["-c", "raise ValueError('no luck')"]}, rounds=1, pause=0.0, warm_up=0)


def test_things_are_made_once(tmp_path: Path) -> None:
    """A step runs when its inputs changed or its result is gone, and a failed one leaves nothing that looks made."""
    result = tmp_path / "result"
    made: list[int] = []

    def make() -> None:
        made.append(len(made))
        result.mkdir()

    def fail() -> None:
        raise ExportError("no")

    def steps(rebuild: bool = False) -> _Steps:
        return _Steps(tmp_path / "stamps.json", rebuild)

    steps().run(result, {"weights": "a"}, make)
    steps().run(result, {"weights": "a"}, make)
    assert made == [0]
    steps().run(result, {"weights": "b"}, make)
    steps(rebuild=True).run(result, {"weights": "b"}, make)
    assert made == [0, 1, 2]
    with pytest.raises(ExportError):
        steps().run(result, {"weights": "c"}, fail)
    assert not result.exists()
    steps().run(result, {"weights": "b"}, make)
    assert made == [0, 1, 2, 3]


def test_why_there_is_no_int8_is_kept(tmp_path: Path) -> None:
    """The reason lies beside the bundle, not in it."""
    prepared = Prepared.under(tmp_path, "tiny")
    assert prepared.refused.parent == prepared.bundle.parent == prepared.checkpoint.parent == tmp_path / "tiny"


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({}, "bench/results"),
        ({"repeats": 5}, "build/bench"),
        ({"starts": 3}, "build/bench"),
        ({"pause": 0.0}, "build/bench"),
        ({"size": "tiny"}, "build/bench"),
        ({"only": "log-mel"}, "build/bench"),
    ],
)
def test_only_a_whole_run_is_a_result(changes: dict[str, Any], folder: str) -> None:
    """A look goes to the build directory, under the same name."""
    args = {"output": None, "name": None, "repeats": 11, "starts": 5, "pause": 0.15, "size": FULL_SIZE}
    args |= {"only": ",".join(cpu.GROUPS)} | changes
    found = cpu.output_of(argparse.Namespace(**args), "AMD EPYC(tm) 9B14")
    assert found == Path(folder) / "cpu-amd-epyc-tm-9b14.json"
    named = argparse.Namespace(**args | {"name": "box"})
    assert cpu.output_of(named, "AMD EPYC").name == "cpu-box.json"


def test_command_line_errors() -> None:
    """A line that says what is wrong, exit code 2, before anything is built; the last one after the restart."""
    for arguments, lines in ((["--only", "nothing"], 1), (["--repeats", "0"], 1), (["--size", "huge"], 2)):
        command = [sys.executable, "-m", "claprt_bench.cpu", *arguments]
        environment = {key: value for key, value in os.environ.items() if key not in cpu.ENVIRONMENT}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 2
        assert [line[:14] for line in done.stderr.splitlines()] == ["claprt_bench: "] * lines
    with pytest.raises(OptionError):
        cpu._groups("")


def test_install_sizes_are_honest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not asked for: no figure. Torch with CUDA: no ratio. Else both bounds count. Links and folders weigh nothing."""
    assert install_size.install_row(None, targets=True).met is None
    for sizes, met in (
        (install_size.InstallSizes(190_000_000, 1_500_000_000, "2.13.0+cpu", False), True),
        (install_size.InstallSizes(201_000_000, 1_500_000_000, "2.13.0+cpu", False), False),
        (install_size.InstallSizes(190_000_000, 1_000_000_000, "2.13.0+cpu", False), False),
        (install_size.InstallSizes(190_000_000, 6_000_000_000, "2.13.0", True), None),
    ):
        monkeypatch.setattr(install_size, "install_sizes", lambda pip_args, sizes=sizes: sizes)
        row = install_size.install_row([], targets=True)
        assert row.met is met
        assert row.ours == (sizes.ours / 1e6,)
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to("a")
    assert install_size._size(tmp_path) == 5


def test_machine() -> None:
    """Flags are those of this processor; what others use is measured, not our own work."""
    flags = describe(())["cpu_flags"]
    assert isinstance(flags, list)
    if os.path.exists("/proc/cpuinfo"):  # noqa: PTH110
        assert set(flags) <= set(Path("/proc/cpuinfo").read_text().split())
    neighbours = Neighbours()
    sum(range(10_000_000))
    cores = neighbours.cores()
    assert cores is None or 0 <= cores["others"] <= (os.cpu_count() or 1) + 0.5
