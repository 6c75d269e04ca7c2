"""Not a side: makes of a checkpoint what the sides load. Runs on claprt's own Python and needs claprt[export].

The job has `source`, `revision`, `tokenizer` (for a .pt file), `work` (an empty directory),
`weights_sha256` (what its weights must be), and `wants`: of "stock" (export the towers) and "laion" (what laion-clap
wants beside its file).
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from claprt.errors import CheckpointError
from claprt_bench.reference import OPSET, TEXT_TOKENS, export_stock
from claprt_export.checkpoint import Checkpoint, load_checkpoint, quiet_transformers
from claprt_export.source import find_source, is_file

_LAION_MODELS = {96: "HTSAT-tiny", 128: "HTSAT-base"}
# laion-clap makes all three tokenizers when it is imported, and uses one.
_LAION_WANTS = ("roberta-base", "bert-base-uncased", "facebook/bart-base")
_TEXT_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id"),
)


def load(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See `serve`; the facts are fields of the sides' jobs, and under "refused" why something could not be made."""
    source, work = job["source"], Path(job["work"])
    checkpoint = load_checkpoint(source, job["revision"], job["tokenizer"])
    if checkpoint.weights_sha256 != job["weights_sha256"]:
        raise CheckpointError(
            f"not the bundle's checkpoint: {source}: its weights have the SHA-256 {checkpoint.weights_sha256[:16]}..., "
            f"the bundle's have {job['weights_sha256'][:16]}...; pass what the bundle was built of as --checkpoint"
        )
    facts: dict[str, Any] = {
        "checkpoint": str(_directory(checkpoint, source, job["revision"], work)),
        "fusion": checkpoint.fusion,
        "frames": checkpoint.log_mel.frames,
        "mels": checkpoint.log_mel.n_mels,
        "text_tokens": TEXT_TOKENS,
    }
    refused: dict[str, str] = {}
    for name, make in (("stock", _stock), ("laion", _laion)):
        if name in job["wants"]:
            try:
                facts |= make(checkpoint, source, work)
            except ValueError as error:
                refused[name] = str(error)
            except Exception as error:  # one peer that cannot be made is no reason to drop the others
                first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
                refused[name] = f"it cannot be made: {type(error).__name__}: {first[:300]}"
    return {}, facts | {"refused": refused}


def _directory(checkpoint: Checkpoint, source: str, revision: str | None, work: Path) -> Path:
    """The checkpoint as transformers saves one."""
    if not is_file(source):
        return find_source(source, revision).path.resolve()
    directory = work / "checkpoint"
    with quiet_transformers():
        for part in (checkpoint.model, checkpoint.feature_extractor, checkpoint.tokenizer):
            part.save_pretrained(directory)
    return directory


def _stock(checkpoint: Checkpoint, source: str, work: Path) -> dict[str, Any]:
    if checkpoint.fusion:
        raise ValueError(
            "torch.onnx.export cannot export transformers' fused audio tower: its control flow depends on the clips"
        )
    import onnxscript

    audio, text = work / "stock-audio.onnx", work / "stock-text.onnx"
    export_stock(checkpoint, audio)
    _export_text(checkpoint, text)
    exported_with = {"torch": torch.__version__, "onnxscript": onnxscript.__version__}
    return {"audio_graph": str(audio), "text_graph": str(text), "exported_with": exported_with}


class _TextTower(torch.nn.Module):
    """`get_text_features` as a module of one output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features: Any = self.model.get_text_features
        output: torch.Tensor = features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return output


def _export_text(checkpoint: Checkpoint, path: Path) -> None:
    """Export transformers' own text tower as the exporter does it, like `export_stock`."""
    ids = torch.full((2, 16), 5)
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2, max=512)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _TextTower(checkpoint.model).eval(),
            (ids, torch.ones_like(ids)),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            input_names=["input_ids", "attention_mask"],
            output_names=["text_embeds"],
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


def _laion(checkpoint: Checkpoint, source: str, work: Path) -> dict[str, Any]:
    """Directories that serve where laion-clap asks the hub: its weights are overwritten by the file's."""
    width = checkpoint.model.config.audio_config.patch_embeds_hidden_size
    if not is_file(source):
        raise ValueError("laion-clap reads LAION's .pt files; pass the one with the bundle's weights as --checkpoint")
    if width not in _LAION_MODELS:
        raise ValueError(f"laion-clap has no model whose first stage is {width} wide; its are {sorted(_LAION_MODELS)}")
    text = checkpoint.model.config.text_config
    config = transformers.RobertaConfig(**{name: getattr(text, name) for name in _TEXT_FIELDS})
    with quiet_transformers():
        transformers.RobertaModel(config).save_pretrained(work / _LAION_WANTS[0])
        for name in _LAION_WANTS:
            checkpoint.tokenizer.save_pretrained(work / name)
    return {"laion_file": str(Path(source).resolve()), "laion_model": _LAION_MODELS[width]}
