"""Would TensorRT take this ONNX graph? Asked of TensorRT-RTX through claprt's own builder; neither needs a GPU.

A program of its own, `python on_tensorrt.py GRAPH [--capabilities 7.5 ...] [--json]`: the library prints as it likes
and may crash, neither of which should happen to the tests. `examine` runs it and reads its report.

The parser goes by an operation's name and ignores its domain: `com.microsoft`'s Gelu or QuantizeLinear pass here.
`claprt_export.graph.check` is what refuses domains.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from claprt.engines.tensorrt.build import BuildOptions, build_plan
from claprt.engines.tensorrt.library import Heard, load_library
from claprt.engines.tensorrt.profiles import Profile
from claprt.errors import BackendError

BACKEND = "tensorrt-rtx"
BINDINGS = "tensorrt_rtx_bindings"
# One engine serves all of these. RTX does not know 9.0 and 10.0: they need the full TensorRT.
AMPERE_AND_LATER = ("8.0", "8.6", "8.9", "12.0")
# Needs an engine of its own. A matrix product with an FP32 result is refused, even between quantized values.
TURING = ("7.5",)
# Smallest, typical and largest size of open axes where no profiles are given.
AXES = {"batch": (1, 8, 32), "tokens": (1, 32, 128)}

# A kernel in the builder's list of them: its kind (gemm, kgen, ...) and the types of what it reads.
# Each profile has its own: "Name: layers.0.q [profile 1]_myl1_7, LayerType: ...".
_KERNEL = re.compile(r"^Name: .*?, LayerType: (\w+), Inputs: .*?Datatype: (\w+)", re.MULTILINE)

_MARK = "report: "


@dataclass(frozen=True)
class Report:
    """What became of a graph. It was accepted if there are no `errors`.

    A warning may be serious: unsigned Q/DQ, for one, is accepted and computed as if it were signed.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    tensors: Mapping[str, str] = field(default_factory=dict)  # inputs and outputs: name -> type
    products: Mapping[str, int] = field(default_factory=dict)  # matrix products and convolutions: type -> count
    kernels: Mapping[str, int] = field(default_factory=dict)  # of the engine: kind and type of first input -> count
    engine_bytes: int = 0
    seconds: float = 0.0


def examine(
    graph: Path,
    capabilities: Sequence[str] = AMPERE_AND_LATER,
    profiles: Sequence[Profile] = (),
    timeout: float = 300.0,
    python: str = sys.executable,
) -> Report:
    """Build one engine of the graph for all of `capabilities`, in another process.

    Without `profiles` there is one, of the open axes' names (`AXES`).
    """
    shapes = json.dumps([dict(profile.shapes) for profile in profiles])
    command = [python, __file__, str(graph), "--json", "--profiles", shapes, "--capabilities", *capabilities]
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


def build(graph: Path, capabilities: Sequence[str], profiles: Sequence[Profile] = ()) -> Report:
    """The same in this process."""
    library = load_library(BACKEND)
    heard, start = _Heard(library.trt), time.perf_counter()
    parsed = _Parsed(library.trt, heard.log, graph)
    try:
        options = BuildOptions(compute_capabilities=tuple(capabilities))
        built = build_plan(library, graph, profiles or [parsed.profile()], options)
    except BackendError as error:
        return Report((str(error),), tuple(heard.warnings), parsed.tensors, parsed.products)
    return Report(
        errors=(),
        warnings=built.warnings,
        tensors=parsed.tensors,
        products=parsed.products,
        kernels=dict(Counter(" ".join(found) for found in _KERNEL.findall(heard.kernels))),
        engine_bytes=len(built.plan),
        seconds=round(time.perf_counter() - start, 2),
    )


class _Heard(Heard):
    """Hears the list of kernels too: what an engine consists of is said nowhere else."""

    kernels = ""

    def hear(self, level: str, message: str) -> None:
        super().hear(level, message)
        if message.startswith("Layers:"):
            self.kernels += f"{message}\n"


class _Parsed:
    """What the parser makes of a graph, for the report; the builder parses it by itself."""

    def __init__(self, trt: Any, log: Any, graph: Path) -> None:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        trt.OnnxParser(network, log).parse_from_file(str(graph))
        self._inputs = [network.get_input(i) for i in range(network.num_inputs)]
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        multiply = (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION)
        self.tensors = {tensor.name: tensor.dtype.name for tensor in [*self._inputs, *outputs]}
        self.products = dict(Counter(layer.get_output(0).dtype.name for layer in layers if layer.type in multiply))
        self._kept = builder, network  # as long as its tensors

    def profile(self) -> Profile:
        """Of the names of the open axes."""
        shapes = {}
        for tensor in self._inputs:
            axes = [
                (size, size, size) if size >= 0 else AXES[tensor.get_dimension_name(axis)]
                for axis, size in enumerate(tensor.shape)
            ]
            low, typical, high = zip(*axes, strict=True)
            shapes[tensor.name] = low, typical, high
        return Profile(shapes)


def _profiles(text: str) -> list[Profile]:
    return [
        Profile({name: (low, typical, high) for name, (low, typical, high) in one.items()}) for one in json.loads(text)
    ]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Build an engine of an ONNX graph with TensorRT-RTX.")
    parser.add_argument("graph", type=Path)
    parser.add_argument("--capabilities", nargs="+", default=AMPERE_AND_LATER, metavar="X.Y", help="of the one engine")
    parser.add_argument("--profiles", type=_profiles, default=[], metavar="JSON", help="shapes; default: one profile")
    parser.add_argument("--json", action="store_true", help="in one line, and with status 0 whatever it says")
    options = parser.parse_args()
    report = build(options.graph, options.capabilities, options.profiles)
    if options.json:
        print(f"\n{_MARK}{json.dumps(asdict(report))}")  # on a line of its own, whatever was printed before
        return
    for name, value in asdict(report).items():
        print(f"{name}: {value}")
    sys.exit(bool(report.errors))


if __name__ == "__main__":
    main()
