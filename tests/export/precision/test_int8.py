"""The two INT8 graphs: what stands in them, and that they compute what the simulation promised."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from claprt.errors import ExportError
from claprt_export import graph
from claprt_export.precision.int8 import for_cpu, for_tensorrt, with_weights_of
from claprt_export.precision.observe import observe
from claprt_export.precision.quantize import Form, Method, QuantizedLinear, Quantizer, linear_layers
from claprt_export.precision.simulate import int8_layers
from tests.export.precision.helpers import TOWERS, Subject, run_onnx, vectors_of, worst_error

GetSubject = Callable[[str], Subject]
FLOAT, HALF, INT8, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8


@dataclass(frozen=True)
class Quantized:
    """A tower with numbers for each layer, and its two graphs with all layers in INT8 but `kept`."""

    subject: Subject
    module: Any
    numbers: Mapping[str, QuantizedLinear]
    kept: tuple[str, ...]
    tensorrt: onnx.ModelProto
    cpu: onnx.ModelProto

    @property
    def chosen(self) -> dict[str, QuantizedLinear]:
        return {name: one for name, one in self.numbers.items() if name not in self.kept}

    def simulated(self, form: Form) -> NDArray[np.float32]:
        module = copy.deepcopy(self.module)
        if self.subject.name == "text":
            module.words.weight.data = module.words.weight.half().float()  # both graphs have this table in FP16
        with int8_layers(module, self.numbers, form, self.chosen):
            return vectors_of(module, self.subject.batches)


GetQuantized = Callable[[str, bool], Quantized]


@pytest.fixture(scope="session")
def quantized(subject: GetSubject) -> GetQuantized:
    """`quantized(tower, keep)`: with some layers kept high, or none. Read only."""

    @lru_cache
    def make(name: str, keep: bool) -> Quantized:
        tower = subject(name)
        module = tower.module
        layers = linear_layers(module)
        seen = observe(module, layers, tower.batches, len(tower.batches))
        numbers = Quantizer(module, seen, Method(smooth=True, compensate=False)).numbers("max")
        kept = tuple(layers[2::5]) if keep else ()  # among them one or two of some Q, K and V
        chosen = {layer: one for layer, one in numbers.items() if layer not in kept}
        tensorrt, cpu = (convert(with_weights_of(tower.graph, module), chosen) for convert in (for_tensorrt, for_cpu))
        return Quantized(tower, module, numbers, kept, tensorrt, cpu)

    return make


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_tensorrt_structure(quantized: GetQuantized, tmp_path: Path, name: str, keep: bool) -> None:
    """Symmetric Q/DQ around the chosen weight products and nothing else, in the form that TensorRT takes."""
    tower = quantized(name, keep)
    model = tower.tensorrt
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    assert list(model.graph.input) == list(tower.subject.graph.graph.input)
    assert list(model.graph.output) == list(tower.subject.graph.graph.output)
    constants, types = constants_of(model), types_of(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _, scale, zero = node.input
            assert constants[zero].dtype == np.int8
            assert not constants[zero].any()
            assert constants[scale].dtype == np.float16
            assert (constants[scale] > 0).all()
            assert np.isfinite(constants[scale]).all()
    integer = set()
    for product in (node for node in model.graph.node if node.op_type == "MatMul"):
        if product.name not in tower.numbers:  # attention's, the projections', the pooler's
            assert [makers[v].op_type for v in product.input if v in makers].count("DequantizeLinear") == 0
            continue
        weight = makers.get(product.input[1])
        if weight is None:
            assert constants[product.input[1]].dtype == np.float16
            assert types[product.input[0]] == HALF
            continue
        integer.add(product.name)
        assert weight.op_type == "DequantizeLinear"
        assert [(a.name, a.i) for a in weight.attribute] == [("axis", 1)]
        stored = tower.numbers[product.name]
        np.testing.assert_array_equal(constants[weight.input[0]], stored.weight.numpy().T)
        np.testing.assert_array_equal(constants[weight.input[1]], stored.weight_scale.numpy())
        assert constants[weight.input[2]].shape == (stored.weight.shape[0],)
        read = makers[product.input[0]]
        assert read.op_type == "DequantizeLinear"
        assert constants[read.input[1]].shape == ()
        assert makers[read.input[0]].op_type == "QuantizeLinear"
        assert types[product.input[0]] == types[product.output[0]] == HALF
        assert constants[read.input[1]] == stored.forms["int8"].scale
    assert integer == set(tower.chosen)
    assert bool(integer & set(tower.kept)) is False
    used = {value for node in model.graph.node for value in node.input}
    assert set(constants) <= used
    path = tmp_path / "graph.onnx"
    graph.save(model, path)
    graph.check(path, [v.name for v in model.graph.input], model.graph.output[0].name, graph.DOMAINS["int8"])


@pytest.mark.parametrize("name", TOWERS)
def test_a_shared_input_is_quantised_once(quantized: GetQuantized, name: str) -> None:
    """Q, K and V read one QuantizeLinear in both graphs; only the last text layer's Q reads the first token's."""
    for model, domain in ((quantized(name, False).tensorrt, ""), (quantized(name, False).cpu, "com.microsoft")):
        makers = {output: node for node in model.graph.node for output in node.output}
        inputs: dict[str, list[str]] = {}
        for node in model.graph.node:
            if node.name.endswith((".q", ".k", ".v")) and node.domain == domain:
                read = node.input[0]
                read = read if domain else makers[read].input[0]
                assert makers[read].op_type == "QuantizeLinear"
                inputs.setdefault(node.name.rpartition(".")[0], []).append(read)
        assert inputs
        last = max(inputs) if name == "text" else ""
        assert {block: len(set(read)) for block, read in inputs.items()} == {b: 1 + (b == last) for b in inputs}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_cpu_structure(quantized: GetQuantized, tmp_path: Path, name: str, keep: bool) -> None:
    """ONNX Runtime's own integer products with their biases inside; FP32 around them; the word table in FP16."""
    tower = quantized(name, keep)
    model = tower.cpu
    onnx.checker.check_model(model)
    constants, original = constants_of(model), constants_of(tower.subject.graph)
    products = {node.name: node for node in model.graph.node if node.domain == "com.microsoft"}
    assert {node.op_type for node in products.values()} == {"MatMulIntegerToFloat"}
    assert set(products) == set(tower.chosen)
    for layer, product in products.items():
        stored = tower.numbers[layer]
        form = stored.forms["int8-cpu"]
        value, weight, scale, weight_scale, zero, weight_zero, *bias = product.input
        np.testing.assert_array_equal(constants[weight], stored.weight.numpy().T)
        np.testing.assert_array_equal(constants[weight_scale], stored.weight_scale.numpy())
        assert constants[zero].dtype == np.uint8
        assert constants[zero] == form.zero_point
        assert constants[scale] == np.float32(form.scale)
        assert not constants[weight_zero].any()
        assert bool(bias) is (not layer.endswith(".k")), layer
        if bias:
            assert form.bias is not None
            np.testing.assert_array_equal(constants[bias[0]], form.bias.numpy())
        (quantize,) = [node for node in model.graph.node if value in node.output]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == [scale, zero] or constants[quantize.input[1]] == constants[scale]
    biases = {node.output[0] for node in products.values()}
    adds = [node for node in model.graph.node if node.op_type == "Add" and biases & set(node.input)]
    assert not [node for node in adds if any(value in constants and constants[value].ndim == 1 for value in node.input)]
    floats = {name for name, value in constants.items() if value.dtype == np.float16}
    assert floats == ({"words.weight_fp16"} if name == "text" else set())
    for layer in tower.kept:
        np.testing.assert_allclose(constants[f"{layer}.weight"].shape, original[f"{layer}.weight"].shape)
        assert constants[f"{layer}.weight"].dtype == np.float32
    path = tmp_path / "graph.onnx"
    graph.save(model, path)
    ends = [v.name for v in model.graph.input], model.graph.output[0].name
    graph.check(path, *ends, graph.DOMAINS["int8-cpu"])
    with pytest.raises(ExportError, match="MatMulIntegerToFloat"):
        graph.check(path, *ends, graph.DOMAINS["int8"])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_cpu_graph_computes_the_simulation(quantized: GetQuantized, name: str, keep: bool) -> None:
    """Far closer to it than to FP32: what differs is how a value halfway between two steps is rounded."""
    tower = quantized(name, keep)
    simulated = tower.simulated("int8-cpu")
    rounding = worst_error(simulated, tower.subject.vectors)
    assert rounding > 1e-6
    error = worst_error(run_onnx(tower.cpu, tower.subject.batches), simulated)
    assert error < max(0.05 * rounding, 1e-6), (error, rounding)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_tensorrt_graph_computes_the_simulation(quantized: GetQuantized, name: str, keep: bool) -> None:
    """The same but for FP16 around the products, which moves some values to the next step: an error of that size.

    Anything at the wrong place is orders above it.
    """
    tower = quantized(name, keep)
    simulated, found = tower.simulated("int8"), run_onnx(tower.tensorrt, tower.subject.batches)
    rounding = worst_error(simulated, tower.subject.vectors)
    assert worst_error(found, simulated) < 3 * rounding
    assert worst_error(found, tower.subject.vectors) < 3 * rounding


AUDIO_KINDS = ("q", "k", "v", "out", "up", "down", "reduction")
KINDS = [("audio", kind) for kind in AUDIO_KINDS] + [("text", kind) for kind in AUDIO_KINDS[:-1]]


@pytest.mark.parametrize(("name", "kind"), KINDS, ids="-".join)
@pytest.mark.parametrize("form", ["int8", "int8-cpu"])
def test_each_kind_of_layer_alone(quantized: GetQuantized, form: Form, name: str, kind: str) -> None:
    """One layer in INT8: shift, bias and all are where they belong, or the graph would be far from the simulation."""
    tower = quantized(name, False)
    module = copy.deepcopy(tower.module)
    layer = [layer for layer in tower.numbers if layer.endswith(f".{kind}")][-1]
    model = with_weights_of(tower.subject.graph, module)
    one = {layer: tower.numbers[layer]}
    result = for_tensorrt(model, one) if form == "int8" else for_cpu(model, one)
    found = run_onnx(result, tower.subject.batches)
    if name == "text":
        module.words.weight.data = module.words.weight.half().float()
    with int8_layers(module, one, form, one):
        simulated = vectors_of(module, tower.subject.batches)
    assert np.abs(simulated - tower.subject.vectors).max() > 1e-5
    np.testing.assert_allclose(found, simulated, atol=4e-3 if form == "int8" else 2e-4)


def test_standard_operators_mean_what_we_think(quantized: GetQuantized) -> None:
    """ONNX's own reference evaluator, which shares no code with ONNX Runtime, computes the same from the Q/DQ graph.

    But for FP16 sums in another order, which move some values to the next step.
    """
    tower = quantized("text", False)
    evaluator = onnx.reference.ReferenceEvaluator(tower.tensorrt)
    ids, mask = (tensor.numpy() for tensor in tower.subject.batches[0])
    (found,) = evaluator.run(None, {"input_ids": ids, "attention_mask": mask})
    expected = run_onnx(tower.tensorrt, tower.subject.batches[:1])
    rounding = worst_error(expected, tower.subject.vectors[:1])
    assert worst_error(found, expected) < 3 * rounding


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, subject: Subject) -> None:
        names = [value.name for value in subject.graph.graph.input]
        self.feeds = iter([dict(zip(names, map(torch.Tensor.numpy, batch), strict=True)) for batch in subject.batches])

    def get_next(self) -> Any:
        return next(self.feeds, None)


@pytest.mark.parametrize("name", TOWERS)
def test_as_good_as_the_quantizer_of_onnxruntime(quantized: GetQuantized, tmp_path: Path, name: str) -> None:
    """Its static symmetric Q/DQ of the same products, on the same data, is not closer to FP32 than either graph."""
    tower = quantized(name, False)
    quantize_static(
        str(tower.subject.path),
        str(tmp_path / "theirs.onnx"),
        _Reader(tower.subject),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=list(tower.numbers),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )
    theirs = onnx.load(str(tmp_path / "theirs.onnx"))
    assert Counter(n.op_type for n in theirs.graph.node)["QuantizeLinear"] > len(tower.numbers) / 3
    error = worst_error(run_onnx(theirs, tower.subject.batches), tower.subject.vectors)
    module = tower.subject.module
    seen = observe(module, list(tower.numbers), tower.subject.batches, len(tower.subject.batches))
    numbers = Quantizer(module, seen, Method()).numbers("max")
    for convert in (for_tensorrt, for_cpu):
        model = convert(with_weights_of(tower.subject.graph, module), numbers)
        assert worst_error(run_onnx(model, tower.subject.batches), tower.subject.vectors) < error


@pytest.mark.parametrize("form", ["int8", "int8-cpu"])
def test_padding_changes_nothing(quantized: GetQuantized, form: str) -> None:
    """Of a padded text's tokens only the true ones count, in INT8 too: intervals are constants of the graph."""
    tower = quantized("text", False)
    model = tower.tensorrt if form == "int8" else tower.cpu
    ids, mask = tower.subject.batches[0]
    padded = torch.nn.functional.pad(ids, (0, 11), value=1), torch.nn.functional.pad(mask, (0, 11))
    alone, found = (run_onnx(model, [batch]) for batch in ((ids, mask), padded))
    np.testing.assert_allclose(found, alone, atol=5e-3 if form == "int8" else 1e-5)


def _order_is_kept(nodes: list[NodeProto], known: set[str]) -> bool:
    for node in nodes:
        if not {value for value in node.input if value} <= known:
            return False
        known |= set(node.output)
    return True


@pytest.mark.parametrize("name", TOWERS)
def test_nodes_are_in_order(quantized: GetQuantized, name: str) -> None:
    """Every value is made before it is read: parsers that do not sort depend on it."""
    for model in (quantized(name, True).tensorrt, quantized(name, True).cpu):
        known = {v.name for v in (*model.graph.input, *model.graph.initializer)}
        assert _order_is_kept(list(model.graph.node), known)
