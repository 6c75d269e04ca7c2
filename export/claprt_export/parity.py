"""Proof that a bundle computes what its checkpoint computes: transformers on one side, the claprt runtime on the other.

Both sides start from the same waveforms and texts and share nothing: transformers' feature extractor, tokenizer and
model here; log-Mel, tokenizer and engine of the runtime there. For sounds longer than a clip transformers chooses crops
at random; there the reference gets the runtime's log-Mel, and the tower alone is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.errors import ExportError
from claprt.log_mel import LogMel
from claprt.model import Clap
from claprt_export.checkpoint import Checkpoint
from claprt_export.comparison import Comparison, Verification, compared_recipe, verification_texts
from claprt_export.demo import sounds
from claprt_export.ranking import Agreement


@dataclass(frozen=True)
class Reference:
    """Inputs, and what transformers makes of them: unit vectors (n, dim) of sounds, (m, dim) of texts."""

    description: str
    waveforms: tuple[NDArray[np.float32], ...]
    texts: tuple[str, ...]
    audio: NDArray[np.float32]
    text: NDArray[np.float32]


def make_reference(
    checkpoint: Checkpoint,
    description: str,
    waveforms: Sequence[NDArray[np.float32]],
    tick: Callable[[int], None] = lambda done: None,
) -> Reference:
    """Transformers' vectors of the waveforms and of `verification_texts`. `tick` hears how many sounds are done."""
    vectors = []
    for done, waveform in enumerate(waveforms):
        tick(done + 1)
        vectors.append(_reference_of(checkpoint, waveform))
    texts = verification_texts()
    return Reference(
        f"{description}, {len(texts)} texts",
        tuple(waveforms),
        texts,
        np.stack(vectors),
        reference_texts(checkpoint, texts),
    )


def compare(clap: Clap, reference: Reference, tick: Callable[[int], None] = lambda done: None) -> Verification:
    """Compare a loaded bundle with its checkpoint's vectors."""
    spec, found = clap.manifest.audio.log_mel, []
    for done, waveform in enumerate(reference.waveforms):
        tick(done + 1)
        found.append(clap.embed_audio(waveform, recipe=compared_recipe(spec, clap.manifest.audio.fusion, waveform))[0])
    audio, text = np.stack(found), clap.embed_text(reference.texts)
    labels = slice(-len(sounds.KINDS), None)
    return Verification(
        reference.description,
        Comparison.of(audio, reference.audio),
        Comparison.of(text, reference.text),
        Agreement.of(audio, text[labels], reference.audio, reference.text[labels]),
    )


def require(verification: Verification, variant: str) -> None:
    """Refuse a variant that misses a bound.

    Raises:
        ExportError: with the figures.
    """
    missed = verification.missed(variant)
    if missed:
        raise ExportError(
            f"the exported {variant} misses its bounds against transformers: {'; '.join(missed)}; "
            + (
                "please report this checkpoint"
                if variant == "fp32"
                else "build without it (--precision), or calibrate on sounds and captions like your own (--calibration)"
            )
        )


def _reference_of(checkpoint: Checkpoint, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transformers' vector of one waveform, (dim,)."""
    spec = checkpoint.log_mel
    if len(waveform) <= spec.clip_samples:
        return reference_audio(checkpoint, waveform)
    channels = 4 if checkpoint.fusion else 1
    with open_audio(waveform, spec.sampling_rate) as source:
        (clip,) = recipes.clips(source, spec, compared_recipe(spec, checkpoint.fusion, waveform), channels)
    features = recipes.features(clip, LogMel(spec), channels)
    return reference_tower(checkpoint, features[None], np.array([[clip.is_longer]]))[0]


def reference_audio(checkpoint: Checkpoint, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transformers' vector of a sound that fits into one clip, (dim,). `is_longer` is False, as it truly is."""
    if checkpoint.log_mel.int16:  # with real int16, which the runtime avoids
        waveform = np.asarray((np.clip(waveform, -1, 1) * np.float32(32767)).astype(np.int16) / 32767, np.float32)
    extracted = checkpoint.feature_extractor(
        waveform, sampling_rate=checkpoint.log_mel.sampling_rate, return_tensors="np"
    )
    features = np.asarray(extracted["input_features"], dtype=np.float32)
    return reference_tower(checkpoint, features, np.zeros((1, 1), dtype=np.bool_))[0]


def reference_tower(
    checkpoint: Checkpoint, features: NDArray[np.float32], is_longer: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Transformers' vectors of log-Mel inputs, (n, dim)."""
    with torch.inference_mode():
        output = checkpoint.model.get_audio_features(
            input_features=torch.from_numpy(features), is_longer=torch.from_numpy(is_longer)
        )
    return np.asarray(output.pooler_output.numpy())


def reference_texts(checkpoint: Checkpoint, texts: Sequence[str]) -> NDArray[np.float32]:
    """Transformers' vectors of texts, (n, dim)."""
    tokens = checkpoint.tokenizer(
        list(texts), padding=True, truncation=True, max_length=checkpoint.max_tokens, return_tensors="pt"
    )
    with torch.inference_mode():
        output = checkpoint.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
    return np.asarray(output.pooler_output.numpy())
