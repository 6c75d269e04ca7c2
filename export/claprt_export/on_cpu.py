"""Running the INT8 graph that is made for TensorRT on a CPU, to verify it, whatever ONNX Runtime there is.

Before 1.30 its QuantizeLinear of FP16 cuts the fraction off on CPUs (microsoft/onnxruntime#32452), an error far above
INT8's own; and Python 3.10 ends with 1.23. There a copy of the graph is run, with that operation written out in FP32 as
the ONNX specification defines it: saturate(round_half_to_even(x / scale)).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from claprt.bundle import open_bundle
from claprt.engines.ort import quantizes_half
from claprt.manifest import MANIFEST_FILE, Variant
from claprt.model import Clap, load_variant
from claprt_export import graph

FORM, STAND_IN = "int8", "int8-cpu"


@contextlib.contextmanager
def running(bundle: Path, variant: str) -> Iterator[Clap]:
    """One variant of a bundle on the CPU, as `claprt.model.load_variant` loads it.

    Where ONNX Runtime would compute it wrong it is a copy, whose variant is called "int8-cpu".

    Raises:
        As `claprt.load`.
    """
    if variant != FORM or quantizes_half():
        yield load_variant(bundle, variant)
        return
    with tempfile.TemporaryDirectory(prefix="claprt-on-cpu-") as folder:
        _copy(bundle, Path(folder))
        yield load_variant(folder, STAND_IN)


@contextlib.contextmanager
def runnable(path: Path, variant: str) -> Iterator[Path]:
    """The graph of a variant that ONNX Runtime computes right on this CPU: the file itself, or a copy for a while."""
    if variant != FORM or quantizes_half():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="claprt-on-cpu-") as folder:
        graph.save(written_out(onnx.load(str(path))), Path(folder) / path.name)
        yield Path(folder) / path.name


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each QuantizeLinear of FP16 by the operations that define it. The model is changed, and returned."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(name: str, value: float) -> str:
        if name not in constants:
            constants[name] = numpy_helper.from_array(np.array(value, np.float32), name)
            model.graph.initializer.append(constants[name])
        return name

    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        scale = constants.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is None or scale.data_type != TensorProto.FLOAT16:
            nodes.append(node)
            continue
        assert not numpy_helper.to_array(constants[node.input[2]]).any()  # symmetric: nothing to add
        name = node.output[0]
        divisor = constant(f"{scale.name}_fp32", float(numpy_helper.to_array(scale)))
        lowest, highest = constant("int8_lowest", -128), constant("int8_highest", 127)
        steps: list[tuple[str, list[str], dict[str, int]]] = [
            ("Cast", [node.input[0]], {"to": TensorProto.FLOAT}),
            ("Div", [f"{name}.0", divisor], {}),
            ("Round", [f"{name}.1"], {}),
            ("Clip", [f"{name}.2", lowest, highest], {}),
            ("Cast", [f"{name}.3"], {"to": TensorProto.INT8}),
        ]
        for number, (op, inputs, attributes) in enumerate(steps):
            output = name if number == len(steps) - 1 else f"{name}.{number}"
            nodes.append(helper.make_node(op, inputs, [output], f"{node.name}/{op}_{number}", **attributes))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _copy(path: Path, folder: Path) -> None:
    """A bundle with the one variant, written out."""
    bundle = open_bundle(path)
    manifest = bundle.manifest
    tokenizer = bundle.verified(manifest.text.tokenizer)
    (folder / tokenizer.name).write_bytes(tokenizer.read_bytes())
    made: dict[str, Variant] = {}
    for tower in (manifest.audio, manifest.text):
        for entry in tower.variants[FORM].files:
            bundle.verified(entry)
        name = tower.variants[FORM].file
        graph.save(written_out(onnx.load(str(path / name))), folder / name)
        made[name] = graph.entry(folder / name)
    audio, text = ({STAND_IN: made[tower.variants[FORM].file]} for tower in (manifest.audio, manifest.text))
    changed = replace(
        manifest, audio=replace(manifest.audio, variants=audio), text=replace(manifest.text, variants=text)
    )
    (folder / MANIFEST_FILE).write_text(changed.to_json(), encoding="utf-8")
