"""What torch.onnx.export makes of transformers' towers, in ONNX Runtime, with transformers' extractor and tokenizer.

The job has `audio_graph`, `text_graph`, `checkpoint`, `sampling_rate` and `text_tokens`. The session's options are the
defaults but for the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import transformers


def load(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See `serve`."""
    extractor = transformers.ClapFeatureExtractor.from_pretrained(job["checkpoint"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"])
    tokens = job["text_tokens"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    audio, text = (
        ort.InferenceSession(job[graph], options, providers=["CPUExecutionProvider"])
        for graph in ("audio_graph", "text_graph")
    )

    def embed_audio(waveforms: list[Any]) -> Any:
        inputs = extractor(waveforms, sampling_rate=job["sampling_rate"], return_tensors="np")
        return audio.run(None, {"input_features": np.asarray(inputs["input_features"], dtype=np.float32)})[0]

    def embed_text(texts: list[str]) -> Any:
        inputs = tokenizer(texts, padding="max_length", max_length=tokens, truncation=True, return_tensors="np")
        names = ("input_ids", "attention_mask")
        return text.run(None, {name: np.asarray(inputs[name], dtype=np.int64) for name in names})[0]

    versions = {"onnxruntime": ort.__version__, "transformers": transformers.__version__, **job["exported_with"]}
    subnormals = "ONNX Runtime's default options: subnormal floats are computed, not flushed to zero"
    padding = f"texts padded to {tokens} tokens, as CLAP was trained; claprt pads to the longest"
    return {"waveform": embed_audio, "text": embed_text}, {
        "versions": versions,
        "notes": {"waveform": [subnormals], "text": [subnormals, padding]},
    }
