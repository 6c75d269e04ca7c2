"""What the tests of `claprt.load`'s model share besides fixtures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt import Clap

RATE = 48_000
TEXTS = ["a dog barking", "rain", "This is a sound of a church bell, far away.", "naïve 🎺 你好", "7"]

Wave = NDArray[np.float32]


def noise(seconds: float, seed: int = 0) -> Wave:
    """Noise and a rising tone, so that no two parts of it are alike."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.05 * np.random.default_rng(seed).standard_normal(time.size)
    return (wave + 0.3 * np.sin(2 * np.pi * (200 + 300 * seed + 150 * time) * time)).astype(np.float32)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a.astype(np.float64) @ b.astype(np.float64))


def assert_unit(vectors: NDArray[np.float32], count: int, model: Clap) -> None:
    assert vectors.shape == (count, model.embedding_dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1.0, atol=1e-6)


def with_manifest(bundle: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a bundle in `folder` with another manifest."""
    copied = shutil.copytree(bundle, folder / "changed")
    document = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    change(document)
    (copied / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    return copied
