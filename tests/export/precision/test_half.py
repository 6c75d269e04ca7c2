"""The typed FP16 graph: which value has which type, which numbers fit, and that it computes the same."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from claprt_export.precision.half import half_of, to_half
from tests.export.precision.helpers import TOWERS, Subject, run_onnx, worst_error

GetSubject = Callable[[str], Subject]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
PRODUCTS = {"MatMul", "Gemm", "Conv"}
# What FP16 must not compute: sums of many values, and what overflows or vanishes.
WIDE = {"LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceL2"}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every value, as onnx infers it. The checker refuses an operation on two types."""
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("name", TOWERS)
def test_types(subject: GetSubject, name: str) -> None:
    """No value of two types meets another; products are FP16, sums of many values FP32; the ends are as they were."""
    original = subject(name).graph
    model = to_half(original)
    types = types_of(model)
    assert list(model.graph.input) == list(original.graph.input)
    assert list(model.graph.output) == list(original.graph.output)
    assert types[model.graph.output[0].name] == FLOAT
    products = 0
    for node in model.graph.node:
        assert node.name, node.op_type
        read = [types[value] for value in node.input if value and types[value] in (FLOAT, HALF)]
        given = [types[value] for value in node.output if types[value] in (FLOAT, HALF)]
        if node.op_type == "Cast":
            continue
        assert len({*read, *given}) <= 1, node
        if node.op_type in PRODUCTS:
            products += 1
            assert read[0] == HALF, node
        if node.op_type in WIDE:
            assert read[0] == FLOAT, node
    assert products == sum(node.op_type in PRODUCTS for node in original.graph.node)


@pytest.mark.parametrize("name", ["audio", "fused"])
def test_decibels_are_not_rounded(subject: GetSubject, name: str) -> None:
    """From the input to the patches' convolution everything is FP32: -100 dB in FP16 would be off by 0.03."""
    model = to_half(subject(name).graph)
    types, reached = types_of(model), {"input_features"}
    for node in model.graph.node:
        if reached & set(node.input) and node.op_type not in (*PRODUCTS, "Cast"):
            reached |= set(node.output)
            assert all(types[value] == FLOAT for value in node.output), node
    assert len(reached) > 5


@pytest.mark.parametrize("name", TOWERS)
def test_weights_are_stored_in_half(subject: GetSubject, name: str) -> None:
    """Half the size, no constant twice, none unused, none infinite, and no cast of a constant at run time."""
    original, model = subject(name).graph, to_half(subject(name).graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    read = Counter(value for node in model.graph.node for value in node.input)
    assert all(read[name] for name in constants)
    assert not [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in constants]
    for node in model.graph.node:
        for place, value in enumerate(node.input):
            if value in constants and node.op_type in PRODUCTS:
                assert constants[value].dtype == np.float16, (node.name, place)
    for value in constants.values():
        assert np.isfinite(value).all()
    floats = sum(v.nbytes for v in map(numpy_helper.to_array, original.graph.initializer) if v.dtype == np.float32)
    kept = sum(v.nbytes for v in constants.values() if v.dtype == np.float32)
    assert sum(v.nbytes for v in constants.values() if v.dtype == np.float16) == (floats - kept) / 2
    if name == "text":
        assert constants["words.weight_fp16"].dtype == np.float16
        assert "words.weight" not in constants


@pytest.mark.parametrize("name", TOWERS)
def test_values(subject: GetSubject, name: str) -> None:
    """Close to PyTorch in FP32, and not FP32 in disguise."""
    tower = subject(name)
    error = worst_error(run_onnx(to_half(tower.graph), tower.batches), tower.vectors)
    assert 1e-9 < error < 1e-4


def test_mask(subject: GetSubject) -> None:
    """The mask of padded tokens is finite in FP16, and padding still changes nothing."""
    tower = subject("text")
    model = to_half(tower.graph)
    (ids, mask), padded = tower.batches[2], 9
    ids_padded = np.pad(ids.numpy(), ((0, 0), (0, padded)), constant_values=1)
    batch = (torch.from_numpy(ids_padded), torch.from_numpy(np.pad(mask.numpy(), ((0, 0), (0, padded)))))
    np.testing.assert_allclose(run_onnx(model, [batch]), run_onnx(model, [(ids, mask)]), atol=2e-3)
    assert worst_error(run_onnx(model, [batch]), tower.vectors[2:3]) < 1e-4
    smallest = min(numpy_helper.to_array(t).min() for t in model.graph.initializer if t.data_type in (FLOAT, HALF))
    assert -60000 < smallest <= -1e4


@pytest.mark.parametrize("name", TOWERS)
def test_keep(subject: GetSubject, name: str) -> None:
    """What is kept computes in FP32 with its FP32 weights; nothing else does; the types still fit."""
    original = subject(name).graph
    kept = next(node.name for node in original.graph.node if node.name.endswith(".up"))
    model = to_half(original, [kept])
    types = types_of(model)
    wide = {n.name for n in model.graph.node if n.op_type in PRODUCTS and types[n.input[0]] == FLOAT}
    assert wide == {kept}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    before = {tensor.name: tensor for tensor in original.graph.initializer}
    np.testing.assert_array_equal(
        numpy_helper.to_array(weights[f"{kept}.weight"]), numpy_helper.to_array(before[f"{kept}.weight"])
    )
    assert f"{kept}.weight_fp16" not in weights
    every = {node.name.split("/")[0] for node in original.graph.node}
    whole = to_half(original, every)
    tower = subject(name)
    # With all modules kept only the word table is rounded.
    assert worst_error(run_onnx(whole, tower.batches), tower.vectors) < (1e-6 if name == "text" else 1e-12)


def test_rounding_of_constants() -> None:
    """To the nearest; beyond the range to its end and not to infinity; tiny ones to subnormals."""
    values = np.array([1e6, -1e6, 65504, 65519, 65520, -3.4e38, np.float32(1) / 3, 6e-8, 0], np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    expected[np.isinf(expected)] = np.copysign(np.float16(65504), values[np.isinf(expected)])
    np.testing.assert_array_equal(half_of(values), expected)
    assert np.isfinite(half_of(values)).all()


def small(nodes: list[onnx.NodeProto], *outputs: str, weight: float = 0.5) -> onnx.ModelProto:
    """A graph of x (n, 4) with one weight (4, 4) that holds `weight`."""
    x = helper.make_tensor_value_info("x", FLOAT, ["n", 4])
    ends = [helper.make_tensor_value_info(name, FLOAT, ["n", 4]) for name in outputs]
    constants = [numpy_helper.from_array(np.full((4, 4), weight, np.float32), "w")]
    graph = helper.make_graph(nodes, "g", [x], ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_weight_beyond_the_range_of_half() -> None:
    model = to_half(small([helper.make_node("MatMul", ["x", "w"], ["y"], name="a")], "y", weight=1e5))
    (weight,) = model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), np.full((4, 4), 65504, np.float16))


def test_outputs_that_are_also_read_inside() -> None:
    """An FP16 value that is an output is cast, and whoever reads it inside reads the FP16 value; the casts are last."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="a"),
        helper.make_node("MatMul", ["y", "w"], ["hidden"], name="b"),
        helper.make_node("Softmax", ["hidden"], ["z"], name="c"),
    ]
    original = small(nodes, "y", "z")
    model = to_half(copy.deepcopy(original))
    types = types_of(model)
    assert types["y"] == types["z"] == FLOAT
    by_name = {node.name: node for node in model.graph.node}
    assert types[by_name["a"].output[0]] == HALF
    assert by_name["b"].input[0] == by_name["a"].output[0]
    reference = onnx.reference.ReferenceEvaluator(model)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    y, z = reference.run(None, {"x": x})
    np.testing.assert_allclose(y, x @ np.full((4, 4), 0.5), atol=1e-3)
    np.testing.assert_allclose(z, np.full((2, 4), 0.25), atol=1e-3)


def test_a_value_read_by_many_is_cast_once() -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], name="a"),
        *(helper.make_node("MatMul", ["s", "w"], [name], name=name) for name in "pqr"),
        helper.make_node("Add", ["p", "q"], ["t"], name="d"),
        helper.make_node("Add", ["t", "r"], ["y"], name="e"),
    ]
    model = to_half(small(nodes, "y"))
    types_of(model)
    assert Counter(node.op_type for node in model.graph.node)["Cast"] == 2  # of s, and of the output
