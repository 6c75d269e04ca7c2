"""The shapes that an engine is built for.

An engine has optimisation profiles: ranges of input shapes, each tuned for one. Here there is one for each step of the
batch (1, 8, 64 gives batches of 1, of 2 to 8, of 9 to 64, each tuned for its largest) and, for texts, for each step of
their length in tokens. What fits no profile is split by whoever runs the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from claprt.errors import OptionError
from claprt.manifest import Manifest

DEFAULT_BATCHES = (1, 8, 64)
# Prompts for zero-shot classification have about 10 tokens, captions rarely more than 77; texts are padded to multiples
# of 8.
DEFAULT_TOKENS = (16, 80)
_LARGEST_BATCH = 4096

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """Inclusive bounds of one open axis, and the size that is tuned for."""

    low: int
    typical: int
    high: int


@dataclass(frozen=True)
class Profile:
    """One optimisation profile: of each input the smallest, the typical and the largest shape."""

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    @property
    def batch(self) -> tuple[int, int]:
        """Smallest and largest batch."""
        low, _, high = next(iter(self.shapes.values()))
        return low[0], high[0]

    def admits(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether inputs of these shapes can be run in this profile."""
        return all(
            len(low) == len(shapes[name])
            and all(least <= size <= most for least, size, most in zip(low, shapes[name], high, strict=True))
            for name, (low, _, high) in self.shapes.items()
        )


def audio_profiles(manifest: Manifest, batches: Sequence[int]) -> tuple[Profile, ...]:
    """Profiles of the audio tower, one for each step of the batch.

    Raises:
        OptionError: the steps are not ascending positive integers.
    """
    info = manifest.audio
    features = (info.channels, info.log_mel.frames, info.log_mel.n_mels)
    profiles = []
    for batch in _ranges(batches, "batch", _LARGEST_BATCH):
        shapes = {"input_features": _shapes(batch, *features)}
        if info.fusion:
            shapes["is_longer"] = _shapes(batch, 1)
        profiles.append(Profile(shapes))
    return tuple(profiles)


def text_profiles(manifest: Manifest, batches: Sequence[int], tokens: Sequence[int]) -> tuple[Profile, ...]:
    """Profiles of the text tower: for each step of the length, one for each step of the batch.

    The tower's limit is always the last step of the length. Long texts are rare and need much memory: the batches of a
    step are bounded so that they hold no more tokens than the largest batch of the step before the last.

    Raises:
        OptionError: the steps are not ascending positive integers, or a length is beyond the tower's limit.
    """
    limit = manifest.text.max_tokens
    _ranges(batches, "batch", _LARGEST_BATCH)
    lengths = _ranges(tokens, "tokens", limit)
    most = max(batches) * lengths[-1].high
    if lengths[-1].high < limit:
        lengths.append(Range(lengths[-1].high + 1, limit, limit))
    profiles = []
    for length in lengths:
        fitting = [step for step in batches if step * length.high <= most] or [1]
        for batch in _ranges(fitting, "batch", _LARGEST_BATCH):
            shape = tuple(
                (number, count)
                for number, count in zip(
                    (batch.low, batch.typical, batch.high), (length.low, length.typical, length.high), strict=True
                )
            )
            profiles.append(Profile(dict.fromkeys(("input_ids", "attention_mask"), (shape[0], shape[1], shape[2]))))
    return tuple(profiles)


def _ranges(steps: Sequence[int], what: str, limit: int) -> list[Range]:
    """(1, 8) -> 1 … 1, 2 … 8; each typical size is the largest: that is where the time goes."""
    if not steps or list(steps) != sorted(set(steps)) or not all(1 <= step <= limit for step in steps):
        raise OptionError(f"bad steps of {what}: {', '.join(map(str, steps))}; pass ascending integers of 1 to {limit}")
    return [Range(low + 1, step, step) for low, step in zip((0, *steps[:-1]), steps, strict=True)]


def _shapes(batch: Range, *rest: int) -> tuple[Shape, Shape, Shape]:
    return (batch.low, *rest), (batch.typical, *rest), (batch.high, *rest)
