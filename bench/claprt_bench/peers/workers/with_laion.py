"""laion-clap, LAION's own package, on one of LAION's .pt files.

The job has `laion_file`, `laion_model` ("HTSAT-tiny", "HTSAT-base") and `fusion`. The working directory has directories
named as the three hub repositories that the package wants when it is imported and made (see `with_checkpoint`).
"""

from __future__ import annotations

import importlib.metadata
import sys
import types
from typing import Any

import numpy as np
import torch
import transformers

_TORCHVISION = ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional")


class _Absent(types.ModuleType):
    """Stands in for torchvision while laion-clap is imported: it takes names from it that only its training uses."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


def load(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See `serve`."""
    torch.set_num_threads(job["threads"])
    laion_clap, notes = _import()
    clap = laion_clap.CLAP_Module(enable_fusion=job["fusion"], device="cpu", amodel=job["laion_model"])
    clap.load_ckpt(job["laion_file"], verbose=False)

    def embed_audio(waveforms: list[Any]) -> Any:
        with torch.inference_mode():
            return clap.get_audio_embedding_from_data(np.stack(waveforms))

    def embed_text(texts: list[str]) -> Any:
        with torch.inference_mode():
            return clap.get_text_embedding(texts)

    versions = {name: importlib.metadata.version(name) for name in ("laion-clap", "torch", "transformers")}
    padding = "texts padded to 77 tokens by laion-clap; claprt pads to the longest"
    return {"waveform": embed_audio, "text": embed_text}, {
        "versions": versions,
        "notes": {"waveform": notes, "text": [padding, *notes]},
    }


def _import() -> tuple[Any, list[str]]:
    notes = []
    for name in ("BertModel", "RobertaModel", "BartModel", "BertTokenizer", "RobertaTokenizer", "BartTokenizer"):
        getattr(transformers, name)  # transformers looks for torchvision itself: now, before something stands in for it
    try:
        import torchvision  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules.update({f"torchvision{name}": _Absent(f"torchvision{name}") for name in _TORCHVISION})
        notes.append("torchvision, which only laion-clap's training uses, was not there")
    import laion_clap

    for name in [name for name, module in sys.modules.items() if isinstance(module, _Absent)]:
        del sys.modules[name]
    return laion_clap, notes
