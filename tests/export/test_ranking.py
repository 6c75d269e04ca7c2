"""Agreement of rankings, against a computation by hand: plain loops over sorted lists, as the definitions say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from claprt_export.ranking import TIE, Agreement


def vectors(seed: int, count: int, dim: int = 6) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(count, dim))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def ten_best(query: NDArray[np.float32], items: NDArray[np.float32]) -> list[int]:
    scores = [math.fsum(float(a) * float(b) for a, b in zip(query, item, strict=True)) for item in items]
    return sorted(range(len(items)), key=lambda i: (-scores[i], i))[:10]


@pytest.mark.parametrize(("sounds", "labels"), [(25, 14), (5, 3), (30, 10), (1, 1), (12, 40)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3, 2.0])
def test_by_brute_force(sounds: int, labels: int, noise: float) -> None:
    wanted_audio, wanted_text = vectors(1, sounds), vectors(2, labels)
    audio, text = wanted_audio + noise * vectors(3, sounds), wanted_text + noise * vectors(4, labels)
    found = Agreement.of(audio, text, wanted_audio, wanted_text)
    firsts: list[bool] = []
    top1: list[bool] = []
    recalls, precisions = [], []
    for ours, ours_items, theirs, their_items in (
        (audio, text, wanted_audio, wanted_text),
        (text, audio, wanted_text, wanted_audio),
    ):
        for query, reference in zip(ours, theirs, strict=True):
            got, right = ten_best(query, ours_items), ten_best(reference, their_items)
            firsts.append(got[0] == right[0])
            recalls.append(len(set(got) & set(right)) / len(right))
            hits, total = 0, 0.0
            for rank, item in enumerate(got, start=1):
                if item in right:
                    hits += 1
                    total += hits / rank
            precisions.append(total / len(right))
        top1 = top1 or firsts[:]
    assert found.top1 == pytest.approx(np.mean(top1))
    assert found.recall_at_1 == pytest.approx(np.mean(firsts))
    assert found.recall_at_10 == pytest.approx(np.mean(recalls))
    assert found.map_at_10 == pytest.approx(np.mean(precisions))
    if noise == 0:
        assert found == Agreement(1.0, 1.0, 1.0, 1.0, 1.0)
    if noise == 2.0 and sounds > 20:
        assert found.top1 < 0.9
        assert found.map_at_10 < found.recall_at_10 < 1


@pytest.mark.parametrize(("gap", "decided"), [(0.5 * TIE, 1.0), (2 * TIE, 0.0)])
def test_ties(gap: float, decided: float) -> None:
    """Two labels that the reference hardly tells apart: choosing the other is no disagreement that counts."""
    audio = np.array([[1.0, 0.0]], np.float32)

    def labels(first: float, second: float) -> NDArray[np.float32]:
        return np.array([[c, math.sqrt(1 - c * c)] for c in (first, second)], np.float32)

    found = Agreement.of(audio, labels(0.5, 0.5 + gap), audio, labels(0.5 + gap, 0.5))
    assert found.top1 == 0.0
    assert found.top1_decided == decided


def test_equal_scores_rank_alike() -> None:
    """Labels given twice have equal scores: the same vectors still agree with themselves."""
    audio, text = vectors(1, 4), np.repeat(vectors(2, 3), 2, axis=0)
    assert Agreement.of(audio, text, audio, text) == Agreement(1.0, 1.0, 1.0, 1.0, 1.0)
