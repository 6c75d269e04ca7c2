"""Whether two sets of vectors rank sounds and texts alike: zero-shot classification and retrieval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of two labels whose cosines differ by less, neither is the better one: FP16 itself moves a cosine by that much.
TIE = 2e-4
_TOP = 10


@dataclass(frozen=True)
class Agreement:
    """How far rankings agree with the reference's. Each figure is a share, 0..1.

    Attributes:
        top1: sounds whose best label is the same.
        top1_decided: the same, where labels closer than `TIE` in the reference count as equal.
        recall_at_1: queries (texts for sounds, and sounds for texts) with the same best match.
        recall_at_10: of the reference's ten best matches, those among the ten best; mean over queries.
        map_at_10: mean average precision of the ten best, where the reference's ten best are the right ones.
    """

    top1: float
    top1_decided: float
    recall_at_1: float
    recall_at_10: float
    map_at_10: float

    @staticmethod
    def of(
        audio: NDArray[np.float32],
        text: NDArray[np.float32],
        reference_audio: NDArray[np.float32],
        reference_text: NDArray[np.float32],
    ) -> Agreement:
        """Compare (n, dim) sounds and (m, dim) labels with what they should be."""
        found = audio.astype(np.float64) @ text.astype(np.float64).T
        wanted = reference_audio.astype(np.float64) @ reference_text.astype(np.float64).T
        best, right = found.argmax(axis=1), wanted.argmax(axis=1)
        rows = np.arange(len(wanted))
        decided = (best == right) | (wanted[rows, right] - wanted[rows, best] < TIE)
        queries = [(found, wanted), (found.T, wanted.T)]
        firsts = np.concatenate([f.argmax(axis=1) == w.argmax(axis=1) for f, w in queries])
        recalls, precisions = zip(*(_ten_best(f, w) for f, w in queries), strict=True)
        return Agreement(
            float((best == right).mean()),
            float(decided.mean()),
            float(firsts.mean()),
            float(np.concatenate(recalls).mean()),
            float(np.concatenate(precisions).mean()),
        )


def _ten_best(
    found: NDArray[np.float64], wanted: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and average precision of each row's ten best columns."""
    count = min(_TOP, found.shape[1])
    order = np.argsort(-found, axis=1, kind="stable")[:, :count]
    right = np.zeros_like(wanted, dtype=bool)
    np.put_along_axis(right, np.argsort(-wanted, axis=1, kind="stable")[:, :count], True, axis=1)
    hits = np.take_along_axis(right, order, axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, count + 1)
    return hits.mean(axis=1), (precision * hits).sum(axis=1) / count
