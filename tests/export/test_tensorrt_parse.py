"""Every graph of a bundle is one that TensorRT takes: claprt builds it into engines with TensorRT-RTX, without a GPU.

What the engines compute, and how fast, only a GPU can tell.
"""

from __future__ import annotations

import importlib
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
from claprt.engines.tensorrt.profiles import (
    DEFAULT_BATCHES,
    DEFAULT_TOKENS,
    Profile,
    audio_profiles,
    text_profiles,
)
from claprt.manifest import Manifest
from tests.export import on_tensorrt
from tests.export.helpers import Exported
from tests.export.on_tensorrt import AMPERE_AND_LATER, TURING, Report, examine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(on_tensorrt.BINDINGS) is None and os.environ.get("CLAPRT_REQUIRE_TENSORRT_RTX") != "1",
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


def assert_accepted(path: Path, variant: str, tensors: Mapping[str, str], profiles: Sequence[Profile] = ()) -> None:
    for capabilities in TARGETS[variant]:
        report = examine(
            path, capabilities, profiles if capabilities is AMPERE_AND_LATER else [*profiles[:1], *profiles[-1:]]
        )
        assert not concerns(report), (path.name, capabilities)
        assert report.tensors == tensors
        products: Counter[str] = Counter()
        for kernel, count in report.kernels.items():
            kind, read = kernel.split()
            if kind != "kgen":  # pointwise work, reductions and moves
                products[read] += count
        assert products.most_common(1)[0][0] == COMPUTED_IN[variant], (path.name, capabilities, report.kernels)


def default_profiles(manifest: Manifest, tower: str) -> Sequence[Profile]:
    """Those of `claprt engine`: one clip, up to 8, up to 64."""
    if tower == "audio":
        return audio_profiles(manifest, DEFAULT_BATCHES)
    return text_profiles(manifest, DEFAULT_BATCHES, DEFAULT_TOKENS)


@pytest.mark.parametrize(
    ("bundle", "tower"),
    [
        ("demo_bundle", "audio"),
        ("demo_bundle", "text"),
        ("demo_fused_bundle", "audio"),
        pytest.param("demo_fused_bundle", "text", marks=pytest.mark.full),  # like the other bundle's
    ],
)
def test_bundles(request: pytest.FixtureRequest, bundle: str, tower: str) -> None:
    """FP16, what `claprt engine` builds by itself, with all its profiles; the others with the first and the last.

    Each profile takes as long again. The first is of one clip or text exactly, all others leave the batch open;
    `test_full_size` in test_build.py builds all of them of every variant.
    """
    path: Path = request.getfixturevalue(bundle)
    manifest = open_bundle(path).manifest
    tensors = TEXT if tower == "text" else AUDIO | ({"is_longer": "BOOL"} if manifest.audio.fusion else {})
    variants = (manifest.text if tower == "text" else manifest.audio).variants
    assert set(variants) == set(TARGETS)
    for name, variant in variants.items():
        profiles = default_profiles(manifest, tower)
        assert_accepted(path / variant.file, name, tensors, profiles if name == "fp16" else [profiles[0], profiles[-1]])


@pytest.mark.full
def test_full_size(exported: Callable[[str, bool], Exported], demo_fused_bundle: Path) -> None:
    """The demo's inputs and profiles, with full-size weights."""
    model, manifest = exported("htsat-base", True), open_bundle(demo_fused_bundle).manifest
    for tower, tensors in (("audio", AUDIO | {"is_longer": "BOOL"}), ("text", TEXT)):
        profiles = default_profiles(manifest, tower)
        assert_accepted(model.directory / f"{tower}.fp32.onnx", "fp32", tensors, profiles)


def test_a_mean_cast_to_half_is_not_built_for_one_clip(demo_bundle: Path, tmp_path: Path) -> None:
    """Why `towers.py` has a sum times 1/n in the place of the last mean: else no FP16 engine would take one clip.

    The test's graph is the bundle's, but for that mean. Once a version builds it, the detour can go.
    """
    version = importlib.import_module(on_tensorrt.BINDINGS).__version__
    if not version.startswith("1.7."):
        pytest.skip(f"the fault is known of TensorRT-RTX 1.7, this is {version}")
    manifest = open_bundle(demo_bundle).manifest
    model = onnx.load(str(demo_bundle / manifest.audio.variants["fp16"].file))
    (place,) = (index for index, found in enumerate(model.graph.node) if found.op_type == "ReduceSum")
    total, product, cast = list(model.graph.node)[place : place + 3]
    assert (product.op_type, product.input[0], cast.op_type) == ("Mul", total.output[0], "Cast")
    mean = node("ReduceMean", list(total.input), list(product.output), name="mean", keepdims=0)
    model.graph.node.remove(product)
    model.graph.node.remove(total)
    model.graph.node.insert(place, mean)
    onnx.save(model, str(tmp_path / "mean.onnx"))
    one, some = (audio_profiles(manifest, steps) for steps in ((1,), (1, 8)))
    assert "cannot build the graph" in "".join(examine(tmp_path / "mean.onnx", profiles=one).errors)
    assert not examine(tmp_path / "mean.onnx", profiles=some[1:]).errors


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
    "no-such-operation": ([node("Fancy", ["x"], ["y"], name="fancy")], {}, ["Fancy 'fancy'.*Plugin not found"]),
    "data-dependent-shape": (
        [node("NonZero", ["x"], ["places"], name="places"), node("Cast", ["places"], ["y"], to=TensorProto.FLOAT)],
        {},
        ["NonZero 'places'.*not found in plugin registry"],
    ),
    "uint8": (
        [
            node("Cast", ["x"], ["bytes"], name="to_uint8", to=TensorProto.UINT8),
            node("Cast", ["bytes"], ["y"], to=TensorProto.FLOAT),
        ],
        {},
        ["Cast 'to_uint8'.*does not support UINT8"],
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
    path = save(tmp_path / "graph.onnx", nodes, constants)
    (error,) = examine(path).errors
    assert re.search(f"refuses the graph: {re.escape(str(path))}: .*{'.*; .*'.join(reasons)}", error)
    assert "\n" not in error


def test_not_an_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no graph" * 100)
    (error,) = examine(tmp_path / "graph.onnx").errors
    assert "refuses the graph" in error
    assert "parse" in error


def test_other_inputs_than_the_bundle_has(tmp_path: Path) -> None:
    """A graph put in a tower's place: said before the library is asked to build it."""
    path = save(tmp_path / "graph.onnx", [node("Identity", ["x"], ["y"])], {})
    profile = Profile({"input_features": ((1, 1, 1001, 64), (8, 1, 1001, 64), (8, 1, 1001, 64))})
    (error,) = examine(path, profiles=[profile]).errors
    assert "other inputs than the manifest says: x; expected input_features" in error


def test_shapes_that_the_graph_does_not_take(tmp_path: Path) -> None:
    path = save(tmp_path / "graph.onnx", [node("Identity", ["x"], ["y"])], {})
    (error,) = examine(path, profiles=[Profile({"x": ((1, 63, FEATURES),) * 3})]).errors
    assert str(path) in error
    assert "63" in error


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
