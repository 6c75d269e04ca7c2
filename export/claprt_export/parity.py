"""Proof that a bundle computes what its checkpoint computes: transformers on one side, the claprt runtime on the other.

Both sides start from the same waveforms and texts and share nothing: transformers' feature extractor, tokenizer and
model here; log-Mel, tokenizer and engine of the runtime there. For sounds longer than a clip transformers chooses crops
at random; there the reference gets the runtime's log-Mel, and the tower alone is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.errors import ExportError
from claprt.log_mel import LogMel
from claprt.model import Clap
from claprt.spec import LogMelSpec
from claprt_export import sentences
from claprt_export.checkpoint import Checkpoint
from claprt_export.demo import captions, sounds
from claprt_export.precision.data import find_sounds
from claprt_export.ranking import Agreement

# FP32 against PyTorch: what the worst vector and the worst element must hold.
FP32_MIN_COSINE = 0.999999
FP32_MAX_ABS = 1e-5
MAX_RECORDINGS = 64


@dataclass(frozen=True)
class Bound:
    """What a variant's worst vector must hold: its cosine with transformers' vector, by tower."""

    audio: float
    text: float


BOUNDS = {
    "fp32": Bound(FP32_MIN_COSINE, FP32_MIN_COSINE),
    "fp16": Bound(0.9999, 0.9999),
    "int8": Bound(0.9995, 0.999),
    "int8-cpu": Bound(0.9995, 0.999),
}

TEXTS = (
    "a dog barking",
    "This is a sound of rain.",
    "Thunder rolls over the sea while a church bell strikes in the distance",
    "siren",
    "Someone whistles a tune, a door slams, and footsteps fade away down a long stone corridor.",
    "naïve café, 2×4 — ¿qué? 你好 🎺",
    "a person saying the digit seven",
    "engine " * 30,
    "An old wooden clock ticks slowly on the wall, a kettle begins to boil, children laugh outside, and then, all at "
    "once, the radio starts to play a waltz by a small string orchestra recorded long ago in a large and empty hall.",
)


@dataclass(frozen=True)
class Comparison:
    """Two sets of unit vectors, row by row.

    Attributes:
        count: rows.
        worst_cosine, mean_cosine: between a row and its reference.
        max_abs: largest absolute difference of an element.
        mean_cross_cosine: mean cosine between different reference rows. Near 1 the comparison would prove nothing.
    """

    count: int
    worst_cosine: float
    mean_cosine: float
    max_abs: float
    mean_cross_cosine: float

    @staticmethod
    def of(found: NDArray[np.float32], reference: NDArray[np.float32]) -> Comparison:
        """Compare (n, dim) unit vectors in float64."""
        a, b = (x.astype(np.float64) for x in (found, reference))
        cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        cross = (b @ b.T)[~np.eye(len(b), dtype=bool)]
        return Comparison(
            len(a),
            float(cosines.min()),
            float(cosines.mean()),
            float(np.abs(a - b).max()),
            float(cross.mean()) if cross.size else 1.0,
        )

    def within_fp32_bounds(self) -> bool:
        """Whether the FP32 bounds hold (a NaN does not)."""
        return self.worst_cosine >= FP32_MIN_COSINE and self.max_abs <= FP32_MAX_ABS

    def __str__(self) -> str:
        return (
            f"{self.count} inputs, worst cosine {self.worst_cosine:.9f}, max abs {self.max_abs:.2e}, "
            f"mean cosine between different inputs {self.mean_cross_cosine:.3f}"
        )


@dataclass(frozen=True)
class Verification:
    """What a bundle's variant was compared on and with what result."""

    inputs: str
    audio: Comparison
    text: Comparison
    agreement: Agreement

    def to_json(self) -> dict[str, Any]:
        """For the manifest and the report."""
        return asdict(self)

    def missed(self, variant: str) -> list[str]:
        """The bounds of `variant` that do not hold, each with its figures."""
        result = []
        for tower, comparison in (("audio", self.audio), ("text", self.text)):
            bound = float(getattr(BOUNDS[variant], tower))
            ok = comparison.within_fp32_bounds() if variant == "fp32" else comparison.worst_cosine >= bound
            if not ok:
                limit = f", max abs <= {FP32_MAX_ABS:g}" if variant == "fp32" else ""
                result.append(f"{tower} tower: {comparison}; needed: worst cosine >= {bound}{limit}")
        if variant in ("fp32", "fp16") and self.agreement.top1_decided < 1.0:
            result.append(f"top-1 agrees for {self.agreement.top1_decided:.4f} of the sounds; needed: all")
        return result


@dataclass(frozen=True)
class Reference:
    """Inputs, and what transformers makes of them: unit vectors (n, dim) of sounds, (m, dim) of texts."""

    description: str
    waveforms: tuple[NDArray[np.float32], ...]
    texts: tuple[str, ...]
    audio: NDArray[np.float32]
    text: NDArray[np.float32]


def verification_texts() -> tuple[str, ...]:
    """What a build is verified on: all kinds of texts, and last a label for each kind of demo sound."""
    return TEXTS + sentences.VERIFICATION + tuple(captions.CLASS_TEMPLATE.format(kind) for kind in sounds.KINDS)


def verification_sounds(spec: LogMelSpec, directory: Path | None) -> tuple[str, list[NDArray[np.float32]]]:
    """The waveforms that a build is verified on, at the model's rate, and a description of them.

    Every kind of demo sound at several lengths, silence, one sample, a sound longer than a clip, and, where a directory
    of recordings is given, each of them (at most MAX_RECORDINGS, the first 40 s).

    Raises:
        AudioError: the directory has no sounds.
    """
    result = [
        sounds.render(kind, seed=7_000_000 + index, duration=(0.4, 3.3, 7.0, 10.0)[index % 4])
        for index, kind in enumerate(sounds.KINDS)
    ]
    result += [np.zeros(48_000, np.float32), np.full(1, 0.5, np.float32), sounds.render("rain", 7_100_000, 23.0)]
    description = f"{len(result)} synthesised sounds"
    if directory is not None:
        paths = find_sounds(directory)[:MAX_RECORDINGS]
        result += [_read(path, spec) for path in paths]
        description += f", {len(paths)} recordings"
    return description, result


def _read(path: Path, spec: LogMelSpec, seconds: float = 40.0) -> NDArray[np.float32]:
    """The beginning of a recording, mono, at the model's rate."""
    long_clip = replace(spec, clip_samples=int(seconds * spec.sampling_rate))
    with open_audio(path) as source:
        (clip,) = recipes.clips(source, long_clip, "head")
    assert isinstance(clip, recipes.WaveClip)
    return clip.waveform


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
        found.append(clap.embed_audio(waveform, recipe=_recipe(spec, clap.manifest.audio.fusion, waveform))[0])
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


def _recipe(spec: LogMelSpec, fusion: bool, waveform: NDArray[np.float32]) -> str:
    """What is compared of a sound: transformers has no windows, so of a long one the head, or the fusion of all."""
    return "fusion" if fusion and len(waveform) > spec.clip_samples else "head"


def _reference_of(checkpoint: Checkpoint, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transformers' vector of one waveform, (dim,)."""
    spec = checkpoint.log_mel
    if len(waveform) <= spec.clip_samples:
        return reference_audio(checkpoint, waveform)
    channels = 4 if checkpoint.fusion else 1
    with open_audio(waveform, spec.sampling_rate) as source:
        (clip,) = recipes.clips(source, spec, _recipe(spec, checkpoint.fusion, waveform), channels)
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
