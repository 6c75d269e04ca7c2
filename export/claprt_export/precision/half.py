"""FP32 ONNX graph -> typed FP16 graph with FP32 inputs and outputs.

What stays in FP32, and why:

- the log-Mel's way to the image (`tower/`, `stretch/`): in dB, FP16 would round -100 to steps of 0.06;
- LayerNormalization, Softmax, means and sums of squares: they add up many values, and FP16 overflows at 65504;
- the last norm and the unit length, whose 1e-12 FP16 does not have;
- embedding lookups and the text mask, which are added up once before the first layer (the table itself is FP16).

Everything else, the matrix products and what lies between them, is FP16. The mask's constant, -1e4, fits.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HIGH_OPS = frozenset({"LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceL2"})
# Modules of `towers` whose own operations stay FP32 ("tower" is what lies in no module). No matrix product is among
# them: TensorRT-RTX has none in FP32 for Turing.
HIGH_MODULES = frozenset({"tower", "stretch", "norm", "projection", "words"})
# Operations that move values and compute nothing: they take the type of what they move.
_MOVES = frozenset(
    {"Reshape", "Transpose", "Gather", "Squeeze", "Unsqueeze", "Slice", "Concat", "Pad", "Expand", "Split"}
)
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# A lookup table is stored in FP16 whatever reads it: what is read is cast.
_TABLES = frozenset({"words.weight"})


def module_of(node: onnx.NodeProto) -> str:
    """The module of `towers` that a node came from."""
    return node.name.split("/")[0]


def is_high(node: onnx.NodeProto, keep: Collection[str]) -> bool:
    """Whether a node stays in FP32: by its operation, its module, or because `keep` names its module."""
    module = module_of(node)
    return node.op_type in HIGH_OPS or module in HIGH_MODULES or module in keep


def to_half(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A typed FP16 copy of an FP32 graph as `claprt_export.graph` writes it.

    Args:
        model: FP32, with nodes named after modules.
        keep: further modules that stay in FP32.

    Returns:
        A new model. Its inputs and outputs have the types they had.
    """
    return _Halver(model, keep).run()


def _without_weights(model: onnx.ModelProto, large: int = 1024) -> onnx.ModelProto:
    """The graph with its large weights as inputs of the same types, so that inferring types copies none of them."""
    graph = model.graph
    weights = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > large]
    inputs = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights]
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= large]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *inputs], graph.output, small)
    return helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)


class _Halver:
    """One pass over the graph in order; each value has one type, and a cast of it is made once."""

    def __init__(self, model: onnx.ModelProto, keep: Collection[str]) -> None:
        self.model, self.keep = model, keep
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == _FLOAT}
        self.floats |= {name for name, tensor in self.constants.items() if tensor.data_type == _FLOAT}
        self.types = dict.fromkeys(self.floats, _FLOAT)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.casts: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            self._convert(node)
        for value in graph.output:
            if self.types[value.name] == _HALF:
                self._restore_output(value.name)
        result = helper.make_graph(self.nodes, graph.name, graph.input, graph.output, list(self.weights.values()))
        model = helper.make_model(result, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        model.producer_name = self.model.producer_name
        return model

    def _convert(self, node: onnx.NodeProto) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        computed = _FLOAT if is_high(node, self.keep) else _HALF
        wanted = self._moved_type(node) if node.op_type in _MOVES else computed
        for place, name in enumerate(node.input):
            if name in self.floats:
                new.input[place] = self._as(name, wanted, node)
            elif name in self.constants:
                self.weights[name] = self.constants[name]
        for name in node.output:
            if name in self.floats:
                self.types[name] = _FLOAT if node.op_type == "Cast" else wanted
        self.nodes.append(new)

    def _moved_type(self, node: onnx.NodeProto) -> int:
        """Of what moves. Two values of different types (Concat) meet in FP32, and a constant follows its reader."""
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        types = {self.types[name] for name in moved if name in self.floats and name not in self.constants}
        if not types:
            return _HALF if set(moved) & _TABLES else _FLOAT
        return types.pop() if len(types) == 1 else _FLOAT

    def _as(self, name: str, wanted: int, reader: onnx.NodeProto) -> str:
        """The value `name` in the type `wanted`: itself, a converted constant, or a cast."""
        if name in self.constants:
            return self._constant(name, wanted)
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            self.casts[name, wanted] = f"{name}_{'fp16' if wanted == _HALF else 'fp32'}"
            self.nodes.append(
                helper.make_node(
                    "Cast",
                    [name],
                    [self.casts[name, wanted]],
                    name=f"{module_of(reader)}/Cast_{len(self.nodes)}",
                    to=wanted,
                )
            )
        return self.casts[name, wanted]

    def _constant(self, name: str, wanted: int) -> str:
        tensor = self.constants[name]
        if wanted == _FLOAT:
            self.weights[name] = tensor
            return name
        half = f"{name}_fp16"
        if half not in self.weights:
            self.weights[half] = numpy_helper.from_array(half_of(numpy_helper.to_array(tensor)), half)
        return half

    def _restore_output(self, name: str) -> None:
        half = f"{name}_fp16"
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, value in enumerate(names):
                    names[place] = half if value == name else value
        self.nodes.append(helper.make_node("Cast", [half], [name], name=f"tower/Cast_{len(self.nodes)}", to=_FLOAT))


def half_of(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to FP16. A value beyond its range becomes the largest there is, never infinity."""
    limit = float(np.finfo(np.float16).max)
    return np.clip(values, -limit, limit).astype(np.float16)
