"""Every graph of a bundle is one that TensorRT takes: parsed, and built into engines, by TensorRT-RTX without a GPU.

What the engines compute, and how fast, only a GPU can tell.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import NodeProto, TensorProto, helper, numpy_helper

from claprt.bundle import open_bundle
from tests.export import tensorrt_rtx
from tests.export.helpers import Exported
from tests.export.tensorrt_rtx import AMPERE_AND_LATER, TURING, Report, examine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(tensorrt_rtx.BINDINGS) is None and os.environ.get("CLAPRT_REQUIRE_TENSORRT_RTX") != "1",
    reason="TensorRT-RTX is not installed: pip install 'claprt[rtx]'",
)

# What each variant must build for. Those of ONNX Runtime only must not be given to TensorRT.
TARGETS: Mapping[str, Sequence[Sequence[str]]] = {
    "fp32": (AMPERE_AND_LATER,),
    "fp16": (AMPERE_AND_LATER, TURING),
    "int8": (AMPERE_AND_LATER,),
    "int8-cpu": (),
}
# What most matrix products of the engine read: an INT8 graph may be taken and then computed in floating point.
COMPUTED_IN = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}
AUDIO = {"input_features": "FLOAT", "audio_embeds": "FLOAT"}
TEXT = {"input_ids": "INT64", "attention_mask": "INT64", "text_embeds": "FLOAT"}
HARMLESS = re.compile(
    "Make sure input (input_ids|attention_mask) has Int64 binding"
    "|operand [^ ]+_beta payload type requires precision-lose casting"  # a Clip in FP16 without a maximum
)


def concerns(report: Report) -> list[str]:
    """Errors, and warnings but for the harmless ones."""
    return [*report.errors, *(warning for warning in report.warnings if not HARMLESS.search(warning))]


def assert_accepted(path: Path, variant: str, tensors: Mapping[str, str]) -> None:
    for capabilities in TARGETS[variant]:
        report = examine(path, capabilities)
        assert not concerns(report), (path.name, capabilities)
        assert report.tensors == tensors
        products: Counter[str] = Counter()
        for kernel, count in report.kernels.items():
            kind, read = kernel.split()
            if kind != "kgen":  # pointwise work, reductions and moves
                products[read] += count
        assert products.most_common(1)[0][0] == COMPUTED_IN[variant], (path.name, capabilities, report.kernels)


@pytest.mark.parametrize("tower", ["audio", "text"])
@pytest.mark.parametrize("bundle", ["demo_bundle", "demo_fused_bundle"])
def test_bundles(request: pytest.FixtureRequest, bundle: str, tower: str) -> None:
    path: Path = request.getfixturevalue(bundle)
    manifest = open_bundle(path).manifest
    tensors = TEXT if tower == "text" else AUDIO | ({"is_longer": "BOOL"} if manifest.audio.fusion else {})
    for name, variant in (manifest.text if tower == "text" else manifest.audio).variants.items():
        assert_accepted(path / variant.file, name, tensors)


@pytest.mark.full
def test_full_size(exported: Callable[[str, bool], Exported]) -> None:
    model = exported("htsat-base", True)
    assert_accepted(model.directory / "audio.fp32.onnx", "fp32", AUDIO | {"is_longer": "BOOL"})
    assert_accepted(model.directory / "text.fp32.onnx", "fp32", TEXT)


# The check itself: what it must refuse, with the reason, and what it must not.

FEATURES, UNITS = 32, 48
WEIGHT = np.random.default_rng(0).integers(-127, 128, (FEATURES, UNITS)).astype(np.int8)
SCALES = np.linspace(0.01, 0.02, UNITS, dtype=np.float32)
ZEROS = np.zeros(UNITS, np.int8)
node = helper.make_node
TO_HALF = node("Cast", ["x"], ["x_half"], name="to_half", to=TensorProto.FLOAT16)
TO_FLOAT = node("Cast", ["y_half"], ["y"], name="to_float", to=TensorProto.FLOAT)


def quantized(x: str, y: str) -> list[NodeProto]:
    """`x` rounded to eight bits, times a quantized weight."""
    return [
        node("QuantizeLinear", [x, "scale", "zero"], ["q"], name="quantize"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dequantize"),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"], name="dequantize_weight", axis=1),
        node("MatMul", ["d", "w_float"], [y], name="product"),
    ]


def weights(dtype: type[np.floating], scale: float = 0.05) -> dict[str, ArrayLike]:
    constants = {"scale": dtype(scale), "zero": np.int8(0), "w_scale": SCALES.astype(dtype), "w_zero": ZEROS}
    return {"w": WEIGHT, **constants}


def save(path: Path, nodes: Sequence[NodeProto], constants: Mapping[str, ArrayLike], external: bool = False) -> Path:
    """A graph of `nodes` from x (batch, 64, 32) to y, both float32."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64, FEATURES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save_model(model, str(path), save_as_external_data=external, size_threshold=0)
    return path


REFUSED: Mapping[str, tuple[list[NodeProto], dict[str, ArrayLike], list[str]]] = {
    "dynamic-quantization": (
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], name="dynamic"),
            node("MatMulInteger", ["q", "w", "zero"], ["i"], name="integer"),
            node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        ],
        {"w": WEIGHT},
        ["DynamicQuantizeLinear 'dynamic'", "MatMulInteger 'integer'"],
    ),
    "com.microsoft": (
        [node("BiasGelu", ["x", "bias"], ["y"], name="bias_gelu", domain="com.microsoft")],
        {"bias": np.ones(FEATURES, np.float32)},
        ["BiasGelu 'bias_gelu'.*Plugin not found"],
    ),
    "mixed-types": (
        [TO_HALF, node("Add", ["x_half", "bias"], ["y"], name="mixed")],
        {"bias": np.ones(FEATURES, np.float32)},
        ["Add 'mixed'.*types Half and Float"],
    ),
    "unsigned": (
        quantized("x", "y"),
        weights(np.float32) | {"zero": np.uint8(128)},
        ["'quantize'.*Non-zero zero point"],
    ),
    "zero-scale": (quantized("x", "y"), weights(np.float32, scale=0.0), ["'quantize'.*must all be positive"]),
    "int32-bias": (
        [
            node("DequantizeLinear", ["bias", "scale"], ["bias_float"], name="dequantize_bias"),
            node("Add", ["x", "bias_float"], ["y"]),
        ],
        {"bias": np.ones(FEATURES, np.int32), "scale": np.float32(0.1)},
        ["'dequantize_bias'.*type Int32"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    nodes, constants, reasons = REFUSED[name]
    report = examine(save(tmp_path / "graph.onnx", nodes, constants))
    assert len(report.errors) == len(reasons)
    for error, reason in zip(report.errors, reasons, strict=True):
        assert re.search(reason, error, re.DOTALL)


def test_refused_by_the_builder(tmp_path: Path) -> None:
    """Parsed, but not built: TensorRT-RTX has no FP32 products on Turing, not even between quantized values."""
    path = save(tmp_path / "graph.onnx", quantized("x", "y"), weights(np.float32))
    assert not concerns(examine(path))
    (error,) = examine(path, TURING).errors
    assert re.search("'product' for Turing .*FP32 GEMM is not supported", error)


@pytest.mark.parametrize("capabilities", [AMPERE_AND_LATER, TURING], ids=["ampere", "turing"])
@pytest.mark.parametrize("external", [False, True])
def test_half_with_int8(tmp_path: Path, external: bool, capabilities: Sequence[str]) -> None:
    """FP16 with FP32 at both ends and INT8 products, whose scales are FP16; weights in the graph or beside it."""
    nodes = [TO_HALF, *quantized("x_half", "y_half"), TO_FLOAT]
    report = examine(save(tmp_path / "graph.onnx", nodes, weights(np.float16), external), capabilities)
    assert not concerns(report)
    assert report.tensors == {"x": "FLOAT", "y": "FLOAT"}
    assert report.products == {"HALF": 1}
    assert report.kernels["gemm Int8"] == 1
    assert report.engine_bytes > WEIGHT.nbytes


def test_warnings(tmp_path: Path) -> None:
    """Those that are logged and those that are printed: what is taken may be computed as something else."""
    unsigned = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    report = examine(save(tmp_path / "unsigned.onnx", unsigned, {"s": np.float32(1), "z": np.uint8(0)}))
    assert not report.errors
    assert "Defaulting to INT8 instead" in concerns(report)[0]
    clip = [TO_HALF, node("Clip", ["x_half", "low"], ["y_half"]), TO_FLOAT]
    report = examine(save(tmp_path / "clip.onnx", clip, {"low": np.float16(0.25)}))
    assert any("precision-lose casting" in warning for warning in report.warnings)
    assert not concerns(report)


def test_crash_and_hang_are_reports(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'report: {' && kill -SEGV $$\n")
    python.chmod(0o755)
    assert examine(tmp_path / "graph.onnx", python=str(python)).errors[0] == "ended with status -11"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    assert examine(tmp_path / "graph.onnx", python=str(python), timeout=0.2).errors == ("not done after 0.2 s",)
    assert "cannot be found" in examine(tmp_path / "nothing.onnx").errors[0]
