"""From a deployment tower to an ONNX file, and the checks that every exported graph must pass."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch

from claprt.bundle import sha256_file
from claprt.engines.ort import first_line
from claprt.errors import ExportError
from claprt.manifest import FileEntry, Variant
from claprt_export.checkpoint import Checkpoint
from claprt_export.towers import AudioTower, TextTower

OPSET = 20
# A larger graph keeps its weights in a file beside it. Engines map that into memory; of a protobuf they make copies:
# ONNX Runtime took three times as long to load a full-size text tower, and 700 MB instead of 390.
SINGLE_FILE_LIMIT = 16 << 20
# Operations whose result shape depends on data, that branch, or that engines execute badly.
FORBIDDEN_OPS = frozenset(
    {"NonZero", "ScatterND", "ScatterElements", "Scatter", "Resize", "Upsample", "If", "Loop", "Scan", "Unique"}
    | {"Compress", "NonMaxSuppression"}
)

# Operation domains that a variant's graph may use: standard ONNX, and for CPUs ONNX Runtime's own.
DOMAINS = {"fp32": ("",), "fp16": ("",), "int8": ("",), "int8-cpu": ("", "com.microsoft")}


def export_audio_tower(checkpoint: Checkpoint, path: Path) -> AudioTower:
    """Write the audio tower: `input_features` (batch, channels, frames, mels), [`is_longer`] -> `audio_embeds`.

    Returns the tower that was written.

    Raises:
        ExportError: torch or onnxscript is too old for it, or the graph is not what it must be.
    """
    tower = AudioTower(checkpoint.model, checkpoint.log_mel.frames).eval()
    channels = 4 if checkpoint.fusion else 1
    features = torch.full((2, channels, checkpoint.log_mel.frames, checkpoint.log_mel.n_mels), -30.0)
    batch = torch.export.Dim("batch", min=1)
    args: tuple[torch.Tensor, ...] = (features,)
    dynamic: dict[str, Any] = {"input_features": {0: batch}}
    if checkpoint.fusion:
        args = (features, torch.tensor([[True], [False]]))
        dynamic["is_longer"] = {0: batch}
    _export(tower, args, dynamic, "audio_embeds", path)
    return tower


def export_text_tower(checkpoint: Checkpoint, path: Path) -> TextTower:
    """Write the text tower: `input_ids`, `attention_mask` (batch, tokens) int64 -> `text_embeds`.

    Returns the tower that was written.

    Raises:
        ExportError: as `export_audio_tower`.
    """
    tower = TextTower(checkpoint.model).eval()
    ids = torch.full((2, 16), 3, dtype=torch.int64)
    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=1, max=tower.max_tokens)}
    dynamic = {"input_ids": shape, "attention_mask": shape}
    _export(tower, (ids, torch.ones_like(ids)), dynamic, "text_embeds", path)
    return tower


def _export(
    tower: torch.nn.Module, args: tuple[torch.Tensor, ...], dynamic: dict[str, Any], output: str, path: Path
) -> None:
    # The exporter announces every torchvision operator that it cannot find, and its own deprecations.
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                tower,
                args,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                input_names=list(dynamic),
                output_names=[output],
                verbose=False,
            )
    except Exception as error:  # torch's, onnxscript's, onnx_ir's, ...: they share no class
        raise ExportError(
            f"torch {torch.__version__} and onnxscript {version('onnxscript')} cannot export {path.stem}: "
            f"{_reason(error)}; install newer ones: pip install -U torch onnxscript"
        ) from error
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    model = program.model_proto
    _name_after_modules(model)
    _strip(model)
    save(model, path)
    check(path, inputs=list(dynamic), output=output)


def _reason(error: BaseException) -> str:
    """The first line of what was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _name_after_modules(model: onnx.ModelProto) -> None:
    """Name each node "module/operator_number", and the weight of each Linear "module.weight", (in, out).

    What changes the precision of a layer, and what reports on it, then finds it by the name it has in `towers`. The
    exporter transposes weights and numbers them.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        path = [scope for scope in ast.literal_eval(scopes)[:-1] if scope and not scope.startswith("_")]
        module = path[-1] if path else "tower"
        node.name = f"{module}/{node.op_type}_{number}"
        if node.op_type == "MatMul" and node.input[1] in constants:
            node.name = module
            renamed[node.input[1]] = f"{module}.weight"
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: stack traces with this machine's paths, and unused nodes."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    del graph.value_info[:]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in graph.node if used & set(node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    model.producer_name, model.producer_version = "claprt", ""


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph; its weights go into `<name>.data` beside it when it is large, and out of `model`."""
    if model.ByteSize() < SINGLE_FILE_LIMIT:
        onnx.save_model(model, str(path))
        return
    data = path.with_name(path.name + ".data")
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=1024,
    )
    data.chmod(path.stat().st_mode)  # onnx makes it readable for its owner only


def entry(path: Path) -> Variant:
    """What a manifest says of a graph that `save` wrote, and of its weights."""
    data = path.with_name(path.name + ".data")
    own = file_entry(path)
    return Variant(own.file, own.sha256, own.bytes, (file_entry(data),) if data.exists() else ())


def file_entry(path: Path) -> FileEntry:
    """What a manifest says of a file in the bundle's directory."""
    return FileEntry(path.name, sha256_file(path), path.stat().st_size)


def check(path: Path, inputs: Sequence[str], output: str, domains: Collection[str] = ("",)) -> None:
    """Check a written graph.

    Raises:
        ExportError: `onnx.checker` objects, the graph has an operation of `FORBIDDEN_OPS` or of a domain that is not in
            `domains`, or its inputs or outputs are not the ones of the bundle format.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        raise ExportError(f"the exported graph is not valid ONNX: {path.name}: {str(error).splitlines()[0]}") from error
    graph = onnx.load(str(path), load_external_data=False).graph
    bad = sorted({node.op_type for node in graph.node if node.op_type in FORBIDDEN_OPS or node.domain not in domains})
    if bad:
        raise ExportError(f"the exported graph has operations that a bundle must not have: {path.name}: {bad}")
    found = [value.name for value in graph.input], [value.name for value in graph.output]
    if found != (list(inputs), [output]):
        raise ExportError(f"the exported graph has other inputs or outputs than asked for: {path.name}: {found}")
