"""ONNX graphs by themselves: sessions of equal options, their arithmetic, and where their time goes."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from claprt_bench.errors import BenchError
from claprt_bench.rows import aligned

# (m, k, n) of the product that stands for the processor's peak: larger than any of the towers', small enough for L3.
PEAK_PRODUCT = (1024, 1536, 1536)


@dataclass(frozen=True)
class Operator:
    """All nodes of one type in a profile: how many, their milliseconds a run, their share of the run (0..1)."""

    name: str
    count: int
    milliseconds: float
    share: float


def session(graph: Path | bytes, threads: int, profile: Path | None = None) -> ort.InferenceSession:
    """A session as every side gets it: `threads`, subnormals flushed, optimizations as they come, CPU only.

    Args:
        graph: file, or a serialised model.
        threads: of one run.
        profile: prefix of the profile to write; None writes none.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"]
    )


def peak_product() -> tuple[bytes, NDArray[np.float32], float]:
    """A graph of one large float32 matrix product with a constant matrix, its input `a`, and its FLOPs."""
    m, k, n = PEAK_PRODUCT
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((k, n), dtype=np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "peak",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [m, n])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString(), rng.standard_normal((m, k), dtype=np.float32), 2.0 * m * k * n


def opset(path: Path) -> int:
    """The standard domain's opset that a graph is written in."""
    model = onnx.load(str(path), load_external_data=False)
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def flops(path: Path) -> float:
    """FLOPs of a run at batch 1: two for each multiplication of its MatMul, Gemm and Conv nodes.

    Raises:
        BenchError: a shape cannot be inferred.
    """
    model = onnx.load(str(path))
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes.update({tensor.name: list(tensor.dims) for tensor in graph.initializer})
    return 2.0 * sum(_multiplications(node, shapes) for node in graph.node)


def _multiplications(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return 0
    left, right, result = (shapes.get(name, [-1]) for name in (node.input[0], node.input[1], node.output[0]))
    if min(*left, *right, *result) < 0:
        raise BenchError(f"the arithmetic of a graph cannot be counted: {node.name}: {left} x {right} -> {result}")
    if node.op_type == "Conv":  # weight (out, in / groups, kernel...): one product of in / groups · kernel an output
        return math.prod(result) * math.prod(right[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(result) * left[0 if transposed else -1]


def profile(graph: Path, feeds: dict[str, NDArray[Any]], threads: int, runs: int = 7) -> list[Operator]:
    """Where a run's time goes: ONNX Runtime's own profile, the median of each node over `runs`, by operator."""
    with tempfile.TemporaryDirectory() as directory:
        profiled = session(graph, threads, Path(directory) / "profile")
        for _ in range(runs + 1):
            profiled.run(None, feeds)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["name"], event["args"]["op_name"]].append(event["dur"] / 1000)
    by_operator: dict[str, list[float]] = defaultdict(list)
    for (_, operator), times in nodes.items():
        by_operator[operator].append(statistics.median(times[1:]))  # the first run allocates
    total = sum(sum(times) for times in by_operator.values())
    found = [Operator(name, len(times), sum(times), sum(times) / total) for name, times in by_operator.items()]
    return sorted(found, key=lambda operator: -operator.milliseconds)


def profile_table(operators: list[Operator]) -> str:
    """A profile as aligned text, the longest first."""
    lines = [("operator", "nodes", "ms", "share")]
    lines += [(o.name, str(o.count), f"{o.milliseconds:.2f}", f"{100 * o.share:.1f} %") for o in operators]
    total = sum(operator.milliseconds for operator in operators)
    lines.append(("all", str(sum(operator.count for operator in operators)), f"{total:.2f}", ""))
    return aligned(lines, left=(0,))
