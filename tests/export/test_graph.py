"""The exported graphs as files: valid, static where engines need it, free of this machine's traces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from claprt.errors import ExportError
from claprt_export import graph
from claprt_export.checkpoint import load_checkpoint
from tests.export.helpers import Exported


@pytest.mark.parametrize("fusion", [False, True], ids=["unfused", "fused"])
def test_graphs(exported: Callable[[str, bool], Exported], fusion: bool) -> None:
    """Opset, names, types, dynamic axes; no data-dependent shapes; one Gelu node an activation; no stray metadata."""
    model = exported("tiny", fusion)
    for tower in ("audio", "text"):
        path = model.directory / f"{tower}.fp32.onnx"
        onnx.checker.check_model(str(path), full_check=True)
        proto = onnx.load(path)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
        operations = {node.op_type for node in proto.graph.node}
        assert not operations & {"NonZero", "ScatterND", "Resize", "If", "Loop", "Scan", "Erf"}
        assert "Gelu" in operations
        assert not proto.functions
        data = path.read_bytes()
        assert str(Path(graph.__file__).parent).encode() not in data
        assert b"site-packages" not in data
    frames = model.checkpoint.log_mel.frames
    batch, *rest = _shape(model.directory / "audio.fp32.onnx", "input_features")
    assert isinstance(batch, str)
    assert rest == [4 if fusion else 1, frames, 64]
    tokens = _shape(model.directory / "text.fp32.onnx", "input_ids")
    assert all(isinstance(axis, str) for axis in tokens)
    names = [value.name for value in model.audio.get_inputs()]
    assert names == (["input_features", "is_longer"] if fusion else ["input_features"])


def _shape(path: Path, name: str) -> list[int | str]:
    (value,) = [value for value in onnx.load(path).graph.input if value.name == name]
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_forbidden_operations_are_found(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, "m"])
    bad = helper.make_model(
        helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "bad", [x], [y]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    onnx.save(bad, tmp_path / "bad.onnx")
    with pytest.raises(ExportError, match="NonZero"):
        graph.check(tmp_path / "bad.onnx", ["x"], "y")
    with pytest.raises(ExportError, match=r"other inputs or outputs|NonZero"):
        graph.check(tmp_path / "bad.onnx", ["z"], "y")


def test_weights_go_beside_the_graph_only_when_they_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph over the protobuf limit (lowered here) keeps its weights in one file beside it and stays loadable."""
    weight = numpy_helper.from_array(np.ones((1000, 4), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1000])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    model = helper.make_model(
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    graph.save(model, tmp_path / "small.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    monkeypatch.setattr(graph, "SINGLE_FILE_LIMIT", 1000)
    graph.save(model, tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").stat().st_size >= 16_000
    graph.check(tmp_path / "large.onnx", ["x"], "y")


def test_libraries_that_cannot_export_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.9 fails so, in pages: one line says what failed first, and what to do."""

    def fail(*args: Any, **named: Any) -> None:
        try:
            raise ValueError("Constraints violated (batch, tokens)!\n  - Not all values")
        except ValueError as error:
            raise RuntimeError("Failed to export the model.\n\n## Exception summary") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    checkpoint = load_checkpoint("demo")
    for export in (graph.export_audio_tower, graph.export_text_tower):
        with pytest.raises(ExportError) as caught:
            export(checkpoint, tmp_path / "tower.fp32.onnx")
        message = str(caught.value)
        assert message.startswith(f"torch {torch.__version__} and onnxscript ")
        assert message.endswith(
            "cannot export tower.fp32: Constraints violated (batch, tokens)!; install newer ones: "
            "pip install -U torch onnxscript"
        )
    assert not list(tmp_path.iterdir())
