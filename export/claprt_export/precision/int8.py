"""FP32 ONNX graph -> the two INT8 graphs of a tower.

`for_tensorrt`: the typed FP16 graph with QuantizeLinear/DequantizeLinear pairs around the weight products, symmetric,
scales in FP16. That is the form in which TensorRT computes the products in INT8 and still fuses each attention into
one kernel; layers that stay higher are FP16.

`for_cpu`: ONNX Runtime's own `MatMulIntegerToFloat`, everything else FP32. Written out, because its optimizer finds
that operation in a Q/DQ graph only in some places: not where three products share one input, and never with the bias.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from claprt_export.precision.half import half_of, to_half
from claprt_export.precision.quantize import QuantizedLinear

MICROSOFT = "com.microsoft"


def for_tensorrt(
    model: onnx.ModelProto, numbers: Mapping[str, QuantizedLinear], keep: Collection[str] = ()
) -> onnx.ModelProto:
    """Typed FP16 with INT8 products.

    Args:
        model: FP32, from `with_weights_of` the tower that the numbers were chosen for. It is used up.
        numbers: the layers that become INT8, by module.
        keep: modules that stay FP32, as in `half.to_half`.
    """
    biases = {f"{name}.bias": layer.forms["int8"].bias for name, layer in numbers.items()}
    for tensor in model.graph.initializer:
        bias = biases.get(tensor.name)
        if bias is not None:
            tensor.CopyFrom(numpy_helper.from_array(bias.numpy(), tensor.name))
    result = to_half(model, keep)
    del model.graph.initializer[:]
    graph = _Editor(result)
    for name, layer in numbers.items():
        product = graph.products[name]
        weight = graph.add(f"{name}.weight_int8", layer.weight.T.contiguous().numpy())
        scales = graph.add(f"{name}.weight_scale", half_of(layer.weight_scale.numpy()))
        zeros = graph.add(f"{name}.weight_zero", np.zeros(len(layer.weight_scale), np.int8))
        scale = graph.add(f"{name}.input_scale", half_of(np.array(layer.forms["int8"].scale, np.float32)))
        zero = graph.add("int8_zero", np.array(0, np.int8))
        source, whole = product.input[0], layer.forms["int8"].scale
        shift = layer.forms["int8"].shift
        if shift is not None:
            constant = graph.add(f"{name}.input_shift", half_of(shift.numpy()))
            source = graph.once(("shift", name), "Sub", [source, constant], f"{name}.input_shifted", f"{name}/Sub")
        quantized = graph.once(
            ("Q", source, whole),
            "QuantizeLinear",
            [source, scale, zero],
            f"{name}.input_int8",
            f"{name}/QuantizeLinear",
        )
        value = graph.once(
            ("DQ", name), "DequantizeLinear", [quantized, scale, zero], f"{name}.input", f"{name}/DequantizeLinear"
        )
        weights = graph.once(
            ("W", name), "DequantizeLinear", [weight, scales, zeros], f"{name}.weight", f"{name}/Weight", axis=1
        )
        product.input[0], product.input[1] = value, weights
    return graph.finish()


def for_cpu(model: onnx.ModelProto, numbers: Mapping[str, QuantizedLinear]) -> onnx.ModelProto:
    """FP32 with INT8 products, in operations that ONNX Runtime's CPU provider has kernels for.

    Args:
        model: FP32, from `with_weights_of` the tower that the numbers were chosen for. It is used up.
        numbers: the layers that become INT8, by module.
    """
    graph = _Editor(model)
    for name, layer in numbers.items():
        form = layer.forms["int8-cpu"]
        product = graph.products[name]
        source = product.input[0]
        scale = graph.add(f"{name}.input_scale", np.array(form.scale, np.float32))
        zero = graph.add(f"{name}.input_zero", np.array(form.zero_point, np.uint8))
        quantized = graph.once(
            ("Q", source, (form.low, form.high)),
            "QuantizeLinear",
            [source, scale, zero],
            f"{name}.input_uint8",
            f"{name}/QuantizeLinear",
        )
        inputs = [
            quantized,
            graph.add(f"{name}.weight_int8", layer.weight.T.contiguous().numpy()),
            scale,
            graph.add(f"{name}.weight_scale", layer.weight_scale.numpy()),
            zero,
            graph.add(f"{name}.weight_zero", np.zeros(len(layer.weight_scale), np.int8)),
        ]
        output = product.output[0]
        if form.bias is not None:
            inputs.append(graph.add(f"{name}.bias_int8", form.bias.numpy()))
            output = graph.take_bias(product)
        graph.replace(product, helper.make_node("MatMulIntegerToFloat", inputs, [output], name=name, domain=MICROSOFT))
    _half_tables(graph)
    graph.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return graph.finish()


def _half_tables(graph: _Editor) -> None:
    """The word table in FP16: half of what is left of the text tower, and its rows are summed up only once."""
    for node in list(graph.nodes):
        if node.op_type == "Gather" and node.input[0] == "words.weight":
            table = numpy_helper.to_array(graph.constants["words.weight"])
            name, output = graph.add("words.weight_fp16", half_of(table)), node.output[0]
            gather = helper.make_node("Gather", [name, node.input[1]], [f"{output}_fp16"], name=node.name)
            gather.attribute.extend(node.attribute)
            cast = helper.make_node(
                "Cast", [f"{output}_fp16"], [output], name=f"{node.name}_cast", to=TensorProto.FLOAT
            )
            graph.replace(node, gather, cast)


def with_weights_of(model: onnx.ModelProto, tower: nn.Module) -> onnx.ModelProto:
    """Give a tower's graph the weights that the tower has now, and an Add for each bias that is new. Returns it."""
    values: dict[str, NDArray[np.float32]] = {}
    linears: set[str] = set()
    for name, module in tower.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            values[f"{name}.bias"] = module.bias.detach().numpy()
        if isinstance(module, nn.LayerNorm):
            values[f"{name}.weight"] = module.weight.detach().numpy()
        if isinstance(module, nn.Linear):
            linears.add(name)
            values[f"{name}.weight"] = module.weight.detach().numpy()
    graph = _Editor(model)
    for name in linears & graph.products.keys():
        values[f"{name}.weight"] = values[f"{name}.weight"].T  # a product's weight is (in, out), a Gemm's is not
        if f"{name}.bias" in values and f"{name}.bias" not in graph.constants:
            product = graph.products[name]
            output = product.output[0]
            product.output[0] = f"{output}_unbiased"
            bias = graph.add(f"{name}.bias", values[f"{name}.bias"])
            graph.behind(product, helper.make_node("Add", [product.output[0], bias], [output], name=f"{name}/Add"))
    for name, tensor in graph.constants.items():
        if name in values:
            assert list(values[name].shape) == list(tensor.dims), name
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[name]), name))
    return graph.finish()


class _Editor:
    """A graph's nodes and constants, to change them in place and in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.products = {node.name: node for node in self.nodes if node.op_type == "MatMul"}
        self.producers = {output: node for node in self.nodes for output in node.output}
        self._made: dict[object, str] = {}

    def add(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a constant, or find it."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def once(self, key: object, op: str, inputs: list[str], output: str, name: str, **attributes: int) -> str:
        """The output of a new node, or of the one made before under this key."""
        if key not in self._made:
            self._made[key] = output
            node = helper.make_node(op, inputs, [output], name=name, **attributes)
            self._insert_behind(node, inputs[0])
        return self._made[key]

    def _insert_behind(self, node: onnx.NodeProto, value: str) -> None:
        producer = self.producers.get(value)
        at = 0 if producer is None else self._place(producer) + 1
        self.nodes.insert(at, node)
        self.producers[node.output[0]] = node

    def _place(self, node: onnx.NodeProto) -> int:
        return next(place for place, other in enumerate(self.nodes) if other is node)

    def take_bias(self, product: onnx.NodeProto) -> str:
        """Remove the Add of a product's bias, and return the value that it gave."""
        add = next(n for n in self.nodes if n.op_type == "Add" and product.output[0] in n.input)
        self.remove(add)
        return str(add.output[0])

    def remove(self, node: onnx.NodeProto) -> None:
        """Take a node out."""
        del self.nodes[self._place(node)]

    def behind(self, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
        """Insert a node behind another."""
        self.nodes.insert(self._place(node) + 1, new)
        self.producers.update(dict.fromkeys(node.output, node))
        self.producers[new.output[0]] = new

    def replace(self, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Put other nodes where one was."""
        place = self._place(node)
        self.nodes[place : place + 1] = new
        for other in new:
            self.producers.update(dict.fromkeys(other.output, other))

    def finish(self) -> onnx.ModelProto:
        """Write back what is still read."""
        graph = self.model.graph
        read = {name for node in self.nodes for name in node.input}
        nodes = self.nodes[:]
        kept = [tensor for name, tensor in self.constants.items() if name in read]
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.model
