"""What variants and engines are compared on, how, and what they must hold. Needs neither torch nor transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.errors import AudioError
from claprt.spec import LogMelSpec
from claprt_export import sentences
from claprt_export.demo import captions, sounds
from claprt_export.ranking import Agreement

SOUND_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus"}
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


def sound_names(directory: Path | None) -> list[str]:
    """What each of `verification_sounds` is, for messages."""
    names = [f"the demo sound {kind!r}" for kind in sounds.KINDS]
    names += ["silence", "one sample", "23 s of the demo sound 'rain'"]
    return names + ([] if directory is None else [str(path) for path in find_sounds(directory)[:MAX_RECORDINGS]])


def _read(path: Path, spec: LogMelSpec, seconds: float = 40.0) -> NDArray[np.float32]:
    """The beginning of a recording, mono, at the model's rate."""
    long_clip = replace(spec, clip_samples=int(seconds * spec.sampling_rate))
    with open_audio(path) as source:
        (clip,) = recipes.clips(source, long_clip, "head")
    assert isinstance(clip, recipes.WaveClip)
    return clip.waveform


def compared_recipe(spec: LogMelSpec, fusion: bool, waveform: NDArray[np.float32]) -> str:
    """What is compared of a sound: transformers has no windows, so of a long one the head, or the fusion of all."""
    return "fusion" if fusion and len(waveform) > spec.clip_samples else "head"


def find_sounds(directory: Path) -> list[Path]:
    """All recordings below a directory, in order of their names.

    Raises:
        AudioError: there are none, or no such directory.
    """
    if not directory.is_dir():
        what = "not a directory" if directory.exists() else "no such directory"
        raise AudioError(f"no recordings: {directory}: {what}; pass a directory of sounds")
    paths = sorted(p for p in directory.rglob("*") if p.suffix.lower() in SOUND_SUFFIXES and p.is_file())
    if not paths:
        raise AudioError(f"no recordings: {directory}: no file ends in {', '.join(sorted(SOUND_SUFFIXES))}")
    return paths
