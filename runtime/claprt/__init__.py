"""claprt: CLAP, deployed. Audio-text embeddings and zero-shot sound classification without PyTorch.

import claprt

clap = claprt.load("bundle/")
clap.classify("a.wav", ["dog", "rain"])
clap.embed_audio(["a.wav"]) @ clap.embed_text(["a dog barking"]).T
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from claprt._version import __version__
from claprt.errors import (
    AudioError,
    AudioNotFoundError,
    BackendError,
    BundleError,
    BundleNotFoundError,
    CheckpointError,
    ClaprtError,
    ClaprtWarning,
    ExportError,
    MissingExtraError,
    OptionError,
    SpaceMismatchError,
    TextError,
)

if TYPE_CHECKING:
    from claprt.head import ClassProbability, Head, load_head
    from claprt.model import Clap, Prediction, Similarity, load
    from claprt.vectors import Embeddings, load_embeddings

__all__ = [
    "AudioError",
    "AudioNotFoundError",
    "BackendError",
    "BundleError",
    "BundleNotFoundError",
    "CheckpointError",
    "Clap",
    "ClaprtError",
    "ClaprtWarning",
    "ClassProbability",
    "Embeddings",
    "ExportError",
    "Head",
    "MissingExtraError",
    "OptionError",
    "Prediction",
    "Similarity",
    "SpaceMismatchError",
    "TextError",
    "__version__",
    "load",
    "load_embeddings",
    "load_head",
]

# Loaded when first asked for: `claprt --help` and the error classes need no NumPy.
_LAZY = {
    "Clap": "claprt.model",
    "ClassProbability": "claprt.head",
    "Embeddings": "claprt.vectors",
    "Head": "claprt.head",
    "Prediction": "claprt.model",
    "Similarity": "claprt.model",
    "load": "claprt.model",
    "load_embeddings": "claprt.vectors",
    "load_head": "claprt.head",
}

if not TYPE_CHECKING:  # type checkers would take it for a promise of every name

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
