"""Retrieval: captions of a sound among all captions (audio to text), the sound of a caption among all sounds.

Rank: 1 for the best. Scores that are equal count against the query, so that vectors that are all alike find nothing.

r1, r5, r10   queries with a right answer among the first 1, 5, 10. A sound with several captions is right when any of
              them is there, as is usual for AudioCaps and Clotho (Koepke et al., Audio Retrieval with Natural Language
              Queries, 2022; LAION's CLAP).
map10         mean average precision of the first ten, 1/min(R, 10) · Σ over right answers of rank <= 10 of (right
              answers up to there / rank), R the right answers that there are. A caption has one right sound, so that
              text to audio is the mean of 1/rank up to rank 10: DCASE's measure (language-based audio retrieval, since
              2022). LAION's CLAP divides by the five captions of a sound, the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.model import Clap
from claprt_bench.evaluation.bootstrap import Share, Statistic
from claprt_bench.evaluation.dataset import Item
from claprt_bench.evaluation.scores import Scorer, Scores

_CUTS = (1, 5, 10)
_TOP = 10
# Elements of one block of scores: bounds memory.
_BLOCK = 1 << 23


class Retrieval:
    """The task; it has no settings."""

    def prepare(self, clap: Clap, items: Sequence[Item]) -> Scorer:
        """Embed all captions with one variant; what it returns takes (n, dim) vectors and their n sounds."""
        texts = list(dict.fromkeys(caption for item in items for caption in item.captions))
        known = dict(zip(texts, clap.embed_text(texts), strict=True))

        def score(vectors: NDArray[np.float32], used: Sequence[Item]) -> Scores:
            captions = list(dict.fromkeys(caption for item in used for caption in item.captions))
            column = {caption: i for i, caption in enumerate(captions)}
            texts = np.stack([known[caption] for caption in captions])
            return self.of_vectors(vectors, texts, [[column[caption] for caption in item.captions] for item in used])

        return score

    def of_vectors(
        self, sounds: NDArray[np.float32], texts: NDArray[np.float32], captions: Sequence[Sequence[int]]
    ) -> Scores:
        """The metrics.

        Args:
            sounds: (n, dim).
            texts: (m, dim), of different texts.
            captions: for each sound the numbers of its captions; two sounds may have a text in common.
        """
        a, t = sounds.astype(np.float64), texts.astype(np.float64)
        owners = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        columns = np.concatenate([np.asarray(own, dtype=np.int64) for own in captions])

        def by_sound(values: NDArray[Any]) -> Share:
            right, answers = np.zeros((2, len(captions)))
            np.add.at(right, owners, values)
            np.add.at(answers, owners, 1)
            return Share(right, answers)

        ranks = list(_audio_to_text(a, t, columns, owners))
        text_ranks = _text_to_audio(a, t, columns, owners)
        statistics: dict[str, Statistic] = {}
        right = {}
        for cut in _CUTS:
            right[f"audio_to_text_r{cut}"] = np.array([own[0] <= cut for own in ranks])
            statistics[f"audio_to_text_r{cut}"] = Share.of(right[f"audio_to_text_r{cut}"])
        statistics["audio_to_text_map10"] = Share.of(np.array([_average_precision(own) for own in ranks]))
        for cut in _CUTS:
            right[f"text_to_audio_r{cut}"] = text_ranks <= cut
            statistics[f"text_to_audio_r{cut}"] = by_sound(text_ranks <= cut)
        statistics["text_to_audio_map10"] = by_sound(np.where(text_ranks <= _TOP, 1 / text_ranks, 0.0))
        return Scores(statistics, {name: right[name] for name in ("audio_to_text_r1", "text_to_audio_r1")})


def _audio_to_text(
    sounds: NDArray[np.float64], texts: NDArray[np.float64], columns: NDArray[np.int64], owners: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """For each sound the ranks of its captions among all captions, best first.

    A text that is the caption of several sounds is as many captions.
    """
    starts = np.searchsorted(owners, np.arange(len(sounds) + 1))
    rows = max(1, _BLOCK // len(columns))
    for begin in range(0, len(sounds), rows):
        block = sounds[begin : begin + rows] @ texts.T
        for row, scores in enumerate(block):
            mine = slice(starts[begin + row], starts[begin + row + 1])
            own = -np.sort(-scores[columns[mine]])
            not_worse, of_its_own = ((found >= own[:, None]).sum(axis=1) for found in (scores[columns], own))
            yield not_worse - of_its_own + np.arange(1, len(own) + 1)


def _text_to_audio(
    sounds: NDArray[np.float64], texts: NDArray[np.float64], columns: NDArray[np.int64], owners: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each caption the rank of its sound among all sounds."""
    ranks = np.empty(len(columns), dtype=np.int64)
    rows = max(1, _BLOCK // len(sounds))
    for begin in range(0, len(columns), rows):
        part = slice(begin, begin + rows)
        scores = texts[columns[part]] @ sounds.T
        own = scores[np.arange(len(scores)), owners[part]]
        ranks[part] = (scores >= own[:, None]).sum(axis=1)  # itself counts, as the first
    return ranks


def _average_precision(ranks: NDArray[np.int64]) -> float:
    """Of ranks of all right answers, ascending."""
    first = ranks[ranks <= _TOP]
    return float((np.arange(1, len(first) + 1) / first).sum() / min(len(ranks), _TOP))
