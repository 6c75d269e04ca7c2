"""What the towers are checked and timed on: sounds of many kinds and lengths, and inputs of the towers made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.audio_io import AudioInput, open_audio
from claprt.bundle import Bundle
from claprt.log_mel import LogMel
from claprt.manifest import Manifest
from claprt.recipes import clips, features
from claprt.spec import LogMelSpec
from claprt.tokenizer import Tokenizer
from claprt_bench.gpu_task import TOKENS
from claprt_export.comparison import TEXTS, find_sounds, verification_texts
from claprt_export.demo.sounds import KINDS, render

LENGTHS: tuple[float, ...] = (0.3, 3.0, 10.0, 27.0)  # seconds: of a clip, less, more
_RECORDINGS = 16
_KINDS = KINDS[::2]
_TIMED = 24


def varied_sounds(spec: LogMelSpec, folder: Path | None) -> list[AudioInput]:
    """Sounds of all lengths: sweeps, noise, voices, the demo's kinds, silence, one sample; every second one int16.

    Args:
        spec: of the model.
        folder: recordings, of which the first are taken too; None for none.
    """
    rng = np.random.default_rng(5)
    waves: list[NDArray[np.float32]] = []
    for index, seconds in enumerate(LENGTHS):
        t = np.arange(round(seconds * spec.sampling_rate)) / spec.sampling_rate
        waves += [sweep(t), voice(t, 90.0 + 40.0 * index), (0.2 * rng.standard_normal(t.size)).astype(np.float32)]
        waves += [render(kind, 9_000_000 + index, seconds) for kind in _KINDS[index :: len(LENGTHS)]]
    waves += [np.zeros(spec.sampling_rate, np.float32), np.full(1, 0.5, np.float32)]
    sounds: list[AudioInput] = [
        wave if index % 2 else (wave.clip(-1, 1) * 32_767).astype(np.int16) for index, wave in enumerate(waves)
    ]
    return sounds + ([] if folder is None else list(find_sounds(folder)[:_RECORDINGS]))


def sweep(t: NDArray[np.float64]) -> NDArray[np.float32]:
    """From 30 Hz to 20 kHz, exponentially, over the times `t` (seconds)."""
    rate = np.log(20_000 / 30) / t[-1]
    return np.asarray(0.5 * np.sin(2 * np.pi * 30 * (np.exp(rate * t) - 1) / rate), dtype=np.float32)


def voice(t: NDArray[np.float64], pitch: float) -> NDArray[np.float32]:
    """Like speech: harmonics of a wandering pitch (Hz) under formants that move, four syllables a second."""
    phase = 2 * np.pi * pitch * (t + 0.02 * np.sin(2 * np.pi * 0.7 * t))
    total = np.zeros_like(t)
    moving = 0.5 + 0.5 * np.sin(2 * np.pi * 1.3 * t)
    formants = ((500 + 300 * moving, 80.0), (1_100 + 900 * (1 - moving), 120.0), (2_500 + 200 * moving, 180.0))
    for number in range(1, 41):
        gain = sum(1 / (1 + ((number * pitch - centre) / width) ** 2) for centre, width in formants)
        total += gain / number**0.5 * np.sin(number * phase)
    total *= np.clip(np.sin(2 * np.pi * 4 * t), 0, None)
    return np.asarray(0.6 * total / (np.abs(total).max() + 1e-9), dtype=np.float32)


def texts() -> list[str]:
    """Short and long ones."""
    return list(verification_texts())


def timed_sounds(spec: LogMelSpec) -> list[NDArray[np.int16]]:
    """Clips of the model's length, each another noise."""
    result = []
    for index in range(_TIMED):
        wave = np.random.default_rng(index).standard_normal(spec.clip_samples)
        wave = np.cumsum(wave) if index % 2 else wave
        wave *= np.linspace(0.05, 1.0, spec.clip_samples) ** (index % 5)
        result.append((wave / np.abs(wave).max() * 30_000).astype(np.int16))
    return result


def tower_inputs(bundle: Bundle, tower: str, batch: int) -> dict[str, NDArray[Any]]:
    """Inputs of `batch` rows, all different, such as real ones are: log-Mel of sounds, tokens of sentences."""
    return text_inputs(bundle, batch) if tower == "text" else audio_inputs(bundle.manifest, batch)


def text_inputs(bundle: Bundle, batch: int) -> dict[str, NDArray[Any]]:
    """Rows of `TOKENS` tokens, none of them padding."""
    info = bundle.manifest.text
    known = [text for text in TEXTS if text.isascii()]
    long = []
    for index in range(batch):
        words = f"{index} {' '.join(known[index % len(known) :] + known)}".split()
        long.append(" ".join(words[:TOKENS]))  # a word is a token at least
    ids, mask = Tokenizer(bundle.verified(info.tokenizer), info)(long)
    count = min(TOKENS, info.max_tokens)
    assert mask[:, :count].all()
    return {"input_ids": np.ascontiguousarray(ids[:, :count]), "attention_mask": np.ones((batch, count), np.int64)}


def audio_inputs(manifest: Manifest, batch: int) -> dict[str, NDArray[Any]]:
    """Log-Mel of the timed sounds; where they come again, each time 0.7 dB quieter."""
    info = manifest.audio
    log_mel, recipe = LogMel(info.log_mel), "fusion" if info.fusion else "head"
    rows = []
    for wave in timed_sounds(info.log_mel)[:batch]:
        (clip,) = clips(open_audio(wave, info.log_mel.sampling_rate), info.log_mel, recipe, info.channels)
        rows.append(features(clip, log_mel, info.channels))
    order = np.arange(batch)
    quieter = np.float32(0.7) * (order // len(rows)).astype(np.float32)
    inputs: dict[str, NDArray[Any]] = {
        "input_features": np.ascontiguousarray(np.stack(rows)[order % len(rows)] - quieter[:, None, None, None])
    }
    if info.fusion:
        inputs["is_longer"] = order[:, None] % 2 == 0
    return inputs
