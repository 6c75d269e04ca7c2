"""optimum-onnx: it has no export configuration for CLAP, so here is one for each tower, as its guide says.

`main_export` with those, then ORTModelForCustomTasks with the defaults but for the threads. The job has `checkpoint`,
`frames`, `mels`, `sampling_rate`, `text_tokens`, `fusion`, `work` (a directory to export to). optimum-onnx 0.1.0, which
exports through TorchScript.
"""

from __future__ import annotations

import importlib.metadata
import time
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
import transformers
from optimum.exporters.onnx import main_export
from optimum.exporters.onnx.base import OnnxConfig
from optimum.onnxruntime import ORTModelForCustomTasks
from optimum.utils import DummyInputGenerator, NormalizedConfig

_PACKAGES = ("optimum", "optimum-onnx", "transformers", "torch", "onnxruntime")


class _Tower(torch.nn.Module):
    """One method of ClapModel as a model: the exporter asks a model for these attributes."""

    def __init__(self, clap: Any) -> None:
        super().__init__()
        self.clap, self.config, self.dtype, self.device = clap, clap.config, clap.dtype, clap.device


class _AudioTower(_Tower):
    def forward(self, input_features: torch.Tensor) -> dict[str, Any]:
        return {"audio_embeds": _tensor(self.clap.get_audio_features(input_features=input_features))}


class _TextTower(_Tower):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
        features = self.clap.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return {"text_embeds": _tensor(features)}


def _tensor(output: Any) -> Any:
    return getattr(output, "pooler_output", output)


def load(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See `serve`."""
    if job["fusion"]:  # a trace fixes whether some clip is long
        raise RuntimeError("optimum's export is a trace, and one of a fused audio tower gives wrong vectors")
    directory, tokens, output = job["checkpoint"], job["text_tokens"], Path(job["work"]) / "optimum"
    start = time.perf_counter()
    _export(directory, output, job["frames"], job["mels"])
    exported = f"optimum's export took {time.perf_counter() - start:.0f} s, not in the times"
    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    audio, text = (
        ORTModelForCustomTasks.from_pretrained(output, file_name=f"{name}.onnx", session_options=options)
        for name in ("audio", "text")
    )
    extractor = transformers.ClapFeatureExtractor.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    def embed_audio(waveforms: list[Any]) -> Any:
        inputs = extractor(waveforms, sampling_rate=job["sampling_rate"], return_tensors="pt")
        return audio(input_features=inputs["input_features"]).audio_embeds.numpy()

    def embed_text(texts: list[str]) -> Any:
        inputs = tokenizer(texts, padding="max_length", max_length=tokens, truncation=True, return_tensors="pt")
        return text(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).text_embeds.numpy()

    padding = f"texts padded to {tokens} tokens, as CLAP was trained; claprt pads to the longest"
    config = "optimum has no export configuration for CLAP; one of ours, made as its guide says"
    return {"waveform": embed_audio, "text": embed_text}, {
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "notes": {"waveform": [config, exported], "text": [config, padding]},
    }


def _export(directory: str, output: Path, frames: int, mels: int) -> None:
    class Features(DummyInputGenerator):  # type: ignore[misc]
        SUPPORTED_INPUT_NAMES = ("input_features",)

        def __init__(self, task: str, normalized_config: Any, batch_size: int = 2, **others: Any) -> None:
            self.batch_size = batch_size

        def generate(self, input_name: str, framework: str = "pt", **others: Any) -> Any:
            return torch.full((self.batch_size, 1, frames, mels), -30.0)

    class Tokens(DummyInputGenerator):  # type: ignore[misc]
        SUPPORTED_INPUT_NAMES = ("input_ids", "attention_mask")

        def __init__(self, task: str, normalized_config: Any, batch_size: int = 2, **others: Any) -> None:
            self.batch_size = batch_size

        def generate(self, input_name: str, framework: str = "pt", **others: Any) -> Any:
            return torch.full((self.batch_size, 16), 5 if input_name == "input_ids" else 1)

    class AudioConfig(OnnxConfig):  # type: ignore[misc]
        NORMALIZED_CONFIG_CLASS, DUMMY_INPUT_GENERATOR_CLASSES = NormalizedConfig, (Features,)
        inputs = {"input_features": {0: "batch_size"}}  # noqa: RUF012
        outputs = {"audio_embeds": {0: "batch_size"}}  # noqa: RUF012

    class TextConfig(OnnxConfig):  # type: ignore[misc]
        NORMALIZED_CONFIG_CLASS, DUMMY_INPUT_GENERATOR_CLASSES = NormalizedConfig, (Tokens,)
        inputs = {name: {0: "batch_size", 1: "sequence_length"} for name in ("input_ids", "attention_mask")}  # noqa: RUF012
        outputs = {"text_embeds": {0: "batch_size"}}  # noqa: RUF012

    config = transformers.AutoConfig.from_pretrained(directory)
    main_export(
        directory,
        output=output,
        task="feature-extraction",
        library_name="transformers",
        local_files_only=True,
        custom_onnx_configs={"audio": AudioConfig(config), "text": TextConfig(config)},
        fn_get_submodels=lambda clap: {"audio": _AudioTower(clap), "text": _TextTower(clap)},
    )
