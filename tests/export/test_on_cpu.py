"""The graph made for TensorRT on a CPU whose ONNX Runtime would round it wrongly."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import claprt
from claprt.engines import ort
from claprt_export import graph, on_cpu
from tests.export.test_variants import TEXTS, cosines

# Every finite FP16 number.
NUMBERS = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
NUMBERS = NUMBERS[np.isfinite(NUMBERS)]
SCALES = (1.0, 0.5, 0.0999755859375, 3.0517578125e-05, 0.0037, 300.0)


def quantizer(scale: np.float16) -> onnx.ModelProto:
    """QuantizeLinear of FP16 alone."""
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], "Q")
    constants = [numpy_helper.from_array(np.array(scale), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.INT8, ["n"])
    inside = helper.make_graph([node], "graph", [x], [y], constants)
    return helper.make_model(inside, opset_imports=[helper.make_opsetid("", graph.OPSET)], ir_version=10)


def computed(model: onnx.ModelProto) -> NDArray[np.int8]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": NUMBERS})[0])


def defined(scale: np.float16) -> NDArray[np.int8]:
    """As ONNX's specification has it: saturate(round_half_to_even(x / scale))."""
    return np.asarray(np.clip(np.rint(NUMBERS.astype(np.float64) / np.float64(scale)), -128, 127).astype(np.int8))


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_written_out_is_the_operation(scale: float) -> None:
    """For every FP16 number: halves between two steps, and what saturates, among them."""
    half = np.float16(scale)
    np.testing.assert_array_equal(computed(on_cpu.written_out(quantizer(half))), defined(half))


def test_what_is_said_of_this_onnx_runtime_is_true() -> None:
    """From 1.30 on it rounds; before, it does not: should another release differ, this fails."""
    right = all(np.array_equal(computed(quantizer(np.float16(scale))), defined(np.float16(scale))) for scale in SCALES)
    assert ort.quantizes_half() == right


@pytest.mark.parametrize(
    ("version", "right"), [("1.20.1", False), ("1.29.0", False), ("1.30.0", True), ("1.31.0.dev20261101", True)]
)
def test_versions(monkeypatch: pytest.MonkeyPatch, version: str, right: bool) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert ort.quantizes_half() == right


@pytest.mark.parametrize("limit", [graph.SINGLE_FILE_LIMIT, 1000], ids=["one file", "weights beside it"])
@pytest.mark.parametrize("bundle", ["demo_bundle", "demo_fused_bundle"])
def test_a_bundle_where_it_would_be_wrong(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: str, limit: int
) -> None:
    """A copy runs, holds the bounds of INT8, and is gone afterwards; the other variants are the bundle's own."""
    path: Path = request.getfixturevalue(bundle)
    monkeypatch.setattr(on_cpu, "quantizes_half", lambda: False)
    monkeypatch.setattr(ort, "quantizes_half", lambda: False)
    monkeypatch.setattr(graph, "SINGLE_FILE_LIMIT", limit)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.1, 48_000 * seconds).astype(np.float32) for seconds in (1, 9, 12)]
    exact = claprt.load(path)
    with on_cpu.running(path, "int8") as clap:
        assert clap.space_id == exact.space_id
        assert len(list(tmp_path.rglob("*.data"))) == (2 if limit == 1000 else 0)
        text, audio = clap.embed_text(TEXTS), clap.embed_audio(sounds)
    assert not list(tmp_path.iterdir())
    assert 1e-6 < 1 - cosines(text, exact.embed_text(TEXTS)).min() < 1e-3
    assert 1e-6 < 1 - cosines(audio, exact.embed_audio(sounds)).min() < 5e-4
    for variant in ("fp32", "fp16", "int8-cpu"):
        with on_cpu.running(path, variant) as clap:
            assert clap.variant == variant
            assert not list(tmp_path.iterdir())


def test_a_graph_where_it_would_be_wrong(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cpu, "quantizes_half", lambda: False)
    with on_cpu.runnable(demo_bundle / "text.int8.onnx", "int8") as path:
        onnx.checker.check_model(str(path), full_check=True)
        assert "QuantizeLinear" not in {node.op_type for node in onnx.load(str(path)).graph.node}
    assert not path.exists()
    with on_cpu.runnable(demo_bundle / "text.int8-cpu.onnx", "int8-cpu") as path:
        assert path == demo_bundle / "text.int8-cpu.onnx"
