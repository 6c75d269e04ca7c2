"""Training batches: clips of balanced classes, and captions for every label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers import ClapProcessor

from claprt_export.demo.captions import CLASS_TEMPLATE, LABELS, TEMPLATES, phrases
from claprt_export.demo.sounds import KINDS
from demo import data, features
from demo.augment import FLOOR, augment, mix
from demo.model import COMMON_WORDS

CAPTIONS_PER_LABEL = 2
STRIPS = 4  # the tower folds 1024 frames into four strips of 256


@dataclass(frozen=True)
class Batch:
    """features: float32 (b, c, 1001, 64) dB; longer: bool (b, 1); targets: float32 (b, labels)."""

    features: torch.Tensor
    longer: torch.Tensor
    targets: torch.Tensor


class Sampler:
    """Draws training batches: balanced classes, augmented, on the fly."""

    def __init__(self, corpus: data.Corpus, fusion: bool, size: int, digit_share: float, seed: int) -> None:
        self.corpus, self.fusion, self.size = corpus, fusion, size
        self.rng = np.random.default_rng(seed)
        self.noise = torch.Generator().manual_seed(seed)
        kinds = len(KINDS)
        digits = len(LABELS) - kinds
        self.weights = np.asarray([(1 - digit_share) / kinds] * kinds + [digit_share / digits] * digits)
        labels = range(len(LABELS))
        self.short = [np.flatnonzero(corpus.short_labels == label) for label in labels]
        self.long = [np.flatnonzero(corpus.long_labels == label) for label in labels]

    def _labels(self, count: int) -> np.ndarray:
        return self.rng.choice(len(LABELS), count, p=self.weights)

    def _short(self, labels: np.ndarray) -> torch.Tensor:
        """Clips of 10 s, float32 (b, 1, 1001, 64)."""
        rows = [int(self.rng.choice(self.short[label])) for label in labels]
        clips = self.corpus.short[rows]
        return torch.from_numpy(clips.astype(np.float32))[:, None]

    def _long(self, labels: np.ndarray) -> torch.Tensor:
        """Fusion input of long clips, float32 (b, 4, 1001, 64): shrunk whole, three crops."""
        clips = []
        for label in labels:
            row = int(self.rng.choice(self.long[label]))
            frames = int(self.corpus.long_frames[row])
            whole = torch.from_numpy(self.corpus.long[row, :frames].astype(np.float32))
            clips.append(self._fuse(whole))
        return torch.stack(clips)

    def _fuse(self, whole: torch.Tensor) -> torch.Tensor:
        """The extractor's fusion of one log-mel (frames, 64), frames > 1001."""
        size = features.FRAMES
        parts = np.array_split(np.arange(len(whole) - size + 1), 3)
        starts = [int(self.rng.choice(part)) if len(part) else 0 for part in parts]
        shrunk = functional.interpolate(
            whole[None, None], size=[size, features.MELS], mode="bilinear", align_corners=False
        )[0, 0]
        return torch.stack([shrunk, *(whole[start : start + size] for start in starts)])

    def draw(self) -> Batch:
        """The next batch."""
        many = self.size // 3 if self.fusion else 0
        labels = self._labels(self.size)
        clips = self._short(labels[many:])
        longer = torch.zeros(self.size, 1, dtype=torch.bool)
        if self.fusion:
            clips = clips.repeat(1, 4, 1, 1)
            clips = torch.cat([self._long(labels[:many]), clips])
            longer[:many] = True
            # the extractor marks a random short clip as longer when none is
            longer[many:] = torch.rand(self.size - many, 1, generator=self.noise) < 0.1
        targets = functional.one_hot(torch.from_numpy(labels), len(LABELS)).float()
        # only clips of the same sort are mixed: a long clip's crops are of different places
        sorts = [slice(0, many), slice(many, self.size)]
        for sort in [s for s in sorts if s.stop > s.start]:
            clips[sort], targets[sort] = mix(clips[sort], targets[sort], self.noise)
        return Batch(augment(clips, self.noise), longer, targets)

    def draw_mosaic(self) -> Batch:
        """Four stretches of 2.5 s of four clips in a row, in each clip of the batch.

        The tower folds 10 s into four strips, so each strip can be asked for its own label: four
        times the lessons for the same work. targets: float32 (b, 4, labels).
        """
        labels = self._labels(self.size * STRIPS)
        clips = self._short(labels)
        size = features.FRAMES // STRIPS
        starts = self.rng.integers(0, features.FRAMES - size, (2, len(clips)))
        parts = []
        for clip, pair in zip(clips, starts.T, strict=True):
            # of two places the louder one: a stretch of silence teaches nothing
            both = [clip[:, start : start + size] for start in pair]
            parts.append(max(both, key=lambda part: float(part.mean())))
        targets = functional.one_hot(torch.from_numpy(labels), len(LABELS)).float()
        mixed, targets = mix(torch.stack(parts), targets, self.noise)
        rows = augment(mixed, self.noise).reshape(self.size, 1, size * STRIPS, features.MELS)
        rows = functional.pad(rows, (0, 0, 0, features.FRAMES - size * STRIPS), value=FLOOR)
        if self.fusion:
            rows = rows.repeat(1, 4, 1, 1)
        longer = torch.zeros(self.size, 1, dtype=torch.bool)
        return Batch(rows, longer, targets.reshape(self.size, STRIPS, -1))


class Captioner:
    """Draws captions for every label and tokenizes them."""

    def __init__(self, processor: ClapProcessor, seed: int) -> None:
        self.tokenizer = processor.tokenizer
        self.rng = np.random.default_rng(seed)
        said = {word for label in LABELS for phrase in phrases(label) for word in phrase.split()}
        self.words = [word for word in COMMON_WORDS.split() if word not in said]

    def _any_words(self, most: int) -> str:
        """0 to ``most`` words that name no sound."""
        return " ".join(self.rng.choice(self.words, self.rng.integers(most + 1)))

    def draw(self, loose: float = 0.1) -> dict[str, torch.Tensor]:
        """Tokens of `CAPTIONS_PER_LABEL` captions for each label, label by label.

        loose: share of captions that put the phrase between any words instead of a template.
        """
        texts = []
        for label in LABELS:
            choices = phrases(label)
            for _ in range(CAPTIONS_PER_LABEL):
                plain = self.rng.random() < 0.3  # the label itself must be well known
                phrase = label if plain else choices[self.rng.integers(len(choices))]
                if self.rng.random() < loose:
                    text = f"{self._any_words(6)} {phrase} {self._any_words(4)}".strip()
                    text += "." if self.rng.random() < 0.5 else ""
                elif self.rng.random() < 0.2:
                    text = CLASS_TEMPLATE.format(phrase)
                else:
                    text = TEMPLATES[self.rng.integers(len(TEMPLATES))].format(phrase)
                case = self.rng.random()
                text = text.lower() if case < 0.15 else text
                text = text[:1].upper() + text[1:] if case > 0.75 else text
                texts.append(text)
        return dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
