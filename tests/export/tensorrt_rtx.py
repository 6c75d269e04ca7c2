"""Would TensorRT take this ONNX graph? Asked of TensorRT-RTX, which parses graphs and builds engines without a GPU.

A program of its own, `python tensorrt_rtx.py GRAPH [--capabilities SM75 ...] [--json]`: the library prints as it likes
and may crash, neither of which should happen to the tests. `examine` runs it and reads its report.

The parser goes by an operation's name and ignores its domain: `com.microsoft`'s Gelu or QuantizeLinear pass here.
`claprt_export.graph.check` is what refuses domains.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]  # of each input: smallest, typical, largest

BINDINGS = "tensorrt_rtx_bindings"
# One engine serves all of these. RTX does not know SM90 and SM100: they need the full TensorRT.
AMPERE_AND_LATER = ("SM80", "SM86", "SM89", "SM120")
# Needs an engine of its own. A matrix product with an FP32 result is refused, even between quantized values.
TURING = ("SM75",)
# Smallest, typical and largest size of the axes that bundles leave open.
AXES = {"batch": (1, 8, 32), "tokens": (1, 32, 128)}

# A kernel in the builder's list of them: its kind (gemm, kgen, ...) and the types of what it reads.
_KERNEL = re.compile(r"^Name: \S+, LayerType: (\w+), Inputs: .*?Datatype: (\w+)", re.MULTILINE)

_MARK = "report: "


@dataclass(frozen=True)
class Report:
    """What became of a graph. It was accepted if there are no `errors`.

    A warning may be serious: unsigned Q/DQ, for one, is accepted and computed as if it were signed.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    tensors: Mapping[str, str] = field(default_factory=dict)  # inputs and outputs: name -> type
    layers: Mapping[str, int] = field(default_factory=dict)  # of the parsed network: kind -> count
    products: Mapping[str, int] = field(default_factory=dict)  # its matrix products and convolutions: type -> count
    kernels: Mapping[str, int] = field(default_factory=dict)  # of the engine: kind and type of first input -> count
    engine_bytes: int = 0
    seconds: float = 0.0


def examine(
    graph: Path, capabilities: Sequence[str] = AMPERE_AND_LATER, timeout: float = 300.0, python: str = sys.executable
) -> Report:
    """Parse the graph and build one engine for all of `capabilities`, in another process."""
    command = [python, __file__, str(graph), "--json", "--capabilities", *capabilities]
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired:
        return Report(errors=(f"not done after {timeout:g} s",))
    said = [line for line in (process.stdout + "\n" + process.stderr).splitlines() if line.strip()]
    reports = [line for line in said if line.startswith(_MARK)]
    if process.returncode or len(reports) != 1:
        return Report(errors=(f"ended with status {process.returncode}", *said[-5:]))
    report: dict[str, Any] = json.loads(reports[0].removeprefix(_MARK))
    errors, warnings = report.pop("errors"), report.pop("warnings")
    # Some warnings do not go through the library's log, but are printed.
    return Report(tuple(errors), (*warnings, *(line for line in said if line not in reports)), **report)


def build(graph: Path, capabilities: Sequence[str] = AMPERE_AND_LATER, shapes: Shapes | None = None) -> Report:
    """The same in this process. Without `shapes` they follow from the names of the open axes (`AXES`)."""
    trt = importlib.import_module(BINDINGS)
    start = time.perf_counter()
    log = _log(trt)
    builder = trt.Builder(log)
    # By name: the integer moved between versions, and is 0 here.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    # From the file, not from its bytes: weights beside the graph are found relative to it.
    if not parser.parse_from_file(str(graph)):
        errors = tuple(_parser_error(parser.get_error(i)) for i in range(parser.num_errors))
        return Report(errors or ("not parsed, and no reason given",), tuple(log.warnings))

    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    multiply = (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else kernels are listed without types
    config.add_optimization_profile(_profile(builder, inputs, shapes))
    config.num_compute_capabilities = len(capabilities)
    for i, name in enumerate(capabilities):
        config.set_compute_capability(trt.ComputeCapability.__members__[name], i)
    engine = builder.build_serialized_network(network, config)
    return Report(
        errors=() if engine is not None else tuple(log.errors) or ("no engine, and no reason given",),
        warnings=tuple(log.warnings),
        tensors={tensor.name: tensor.dtype.name for tensor in inputs + outputs},
        layers=dict(Counter(layer.type.name for layer in layers)),
        products=dict(Counter(layer.get_output(0).dtype.name for layer in layers if layer.type in multiply)),
        kernels=dict(Counter(" ".join(found) for found in _KERNEL.findall(log.kernels))),
        engine_bytes=engine.nbytes if engine is not None else 0,
        seconds=round(time.perf_counter() - start, 2),
    )


def _log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        """Keeps what the library says; why a build fails and what an engine consists of is said nowhere else."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.kernels = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(_readable(message))
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)
            elif message.startswith("Layers:"):
                self.kernels = message

    return Log()


def _parser_error(error: Any) -> str:
    where = f"{error.node_operator()} {error.node_name()!r}: " if error.node_operator() else ""
    return f"{where}{_readable(error.desc())} ({error.code().name})"


def _readable(message: str) -> str:
    """Without the complaints about the missing GPU that come with every error."""
    return "\n".join(line for line in message.splitlines() if "catchCudaError" not in line) or message


def _profile(builder: Any, inputs: Sequence[Any], shapes: Shapes | None) -> Any:
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        axes = [
            (size, size, size) if size >= 0 else AXES[tensor.get_dimension_name(axis)]
            for axis, size in enumerate(tensor.shape)
        ]
        profile.set_shape(tensor.name, *(zip(*axes, strict=True) if shapes is None else shapes[tensor.name]))
    return profile


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Parse an ONNX graph and build an engine with TensorRT-RTX.")
    parser.add_argument("graph", type=Path)
    parser.add_argument("--capabilities", nargs="+", default=AMPERE_AND_LATER, metavar="SM", help="of the one engine")
    parser.add_argument("--json", action="store_true", help="in one line, and with status 0 whatever it says")
    options = parser.parse_args()
    report = build(options.graph, options.capabilities)
    if options.json:
        print(f"\n{_MARK}{json.dumps(asdict(report))}")  # on a line of its own, whatever was printed before
        return
    for name, value in asdict(report).items():
        print(f"{name}: {value}")
    sys.exit(bool(report.errors))


if __name__ == "__main__":
    main()
