"""transformers as `from_pretrained` returns it: extractor, tokenizer, ClapModel; eager or through torch.compile.

The job has `checkpoint` (a directory), `sampling_rate`, `text_tokens` and `compile`. transformers 4 and 5.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers


def load(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See `serve`."""
    if job["compile"]:
        _check_compiler()
    torch.set_num_threads(job["threads"])
    directory, tokens = job["checkpoint"], job["text_tokens"]
    extractor = transformers.ClapFeatureExtractor.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.ClapModel.from_pretrained(directory).float().eval()
    audio, text = model.get_audio_features, model.get_text_features
    if job["compile"]:
        # One graph for each shape, the fastest that torch.compile makes.
        audio, text = (torch.compile(function, dynamic=False) for function in (audio, text))

    def embed_audio(waveforms: list[Any]) -> Any:
        inputs = extractor(waveforms, sampling_rate=job["sampling_rate"], return_tensors="pt")
        if model.config.audio_config.enable_fusion:  # the extractor marks one short clip as long, at random
            inputs["is_longer"] = torch.zeros_like(torch.as_tensor(inputs["is_longer"]))
        with torch.inference_mode():
            return _vectors(audio(**inputs))

    def embed_text(texts: list[str]) -> Any:
        inputs = tokenizer(texts, padding="max_length", max_length=tokens, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return _vectors(text(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]))

    padding = f"texts padded to {tokens} tokens, as CLAP was trained; claprt pads to the longest"
    notes: dict[str, list[str]] = {"text": [padding]}
    if model.config.audio_config.enable_fusion:
        notes["waveform"] = ["ClapFeatureExtractor marks a random short clip as long; that is undone before the model"]
    if job["compile"]:
        _compile(job, embed_audio, embed_text, notes)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"waveform": embed_audio, "text": embed_text}, {"versions": versions, "notes": notes}


def _vectors(output: Any) -> Any:
    """The vectors of either version: 5 returns an output object, 4 the vectors."""
    return getattr(output, "pooler_output", output).numpy()


def _check_compiler() -> None:
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise RuntimeError(f"torch.compile needs a C++ compiler, and there is no {compiler}; install one or set CXX")


def _compile(
    job: dict[str, Any],
    embed_audio: Callable[[list[Any]], Any],
    embed_text: Callable[[list[str]], Any],
    notes: dict[str, list[str]],
) -> None:
    """Compile for every shape that will be timed, and note how long the first run of each took."""
    import numpy as np

    clips = list(np.load(job["clips"]["waveform"], allow_pickle=False))
    for batch in job["batches"]:
        start = time.perf_counter()
        embed_audio(clips[:batch])
        notes.setdefault(f"waveform/b{batch}", []).append(_said(start, f"batch {batch}"))
    start = time.perf_counter()
    embed_text(job["texts"])
    notes["text"].append(_said(start, f"{len(job['texts'])} texts"))


def _said(start: float, what: str) -> str:
    return f"torch.compile took {time.perf_counter() - start:.0f} s for {what}, first run included; not in the times"
