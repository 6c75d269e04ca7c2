"""What a task finds with one variant, and tables of classes that tasks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt_bench.evaluation.bootstrap import Statistic
from claprt_bench.evaluation.dataset import Item

# A matrix of more classes is left out of the document; the most frequent confusions are always in it.
MAX_CONFUSION = 100
_MOST_CONFUSED = 10


@dataclass(frozen=True, eq=False)
class Scores:
    """What a task found with one variant.

    Attributes:
        statistics: the metrics, by name.
        right: of those that variants are compared by, each answer: right or not.
        per_class, confusion, confusions, per_fold: as in the document, None where they make no sense.
        notes: what the user should know.
    """

    statistics: Mapping[str, Statistic]
    right: Mapping[str, NDArray[np.bool_]]
    per_class: Sequence[Mapping[str, Any]] | None = None
    confusion: Mapping[str, Any] | None = None
    confusions: Sequence[Mapping[str, Any]] | None = None
    per_fold: Sequence[Mapping[str, Any]] | None = None
    notes: Sequence[str] = ()


Scorer = Callable[[NDArray[np.float32], Sequence[Item]], Scores]


def confusion_of(
    classes: Sequence[str], truth: NDArray[np.int64], predicted: NDArray[np.int64]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The confusion matrix (rows: true class), None for too many classes; and the most frequent confusions."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = [(int(place) // len(classes), int(place) % len(classes)) for place in order]
    most = [
        {"label": classes[row], "predicted": classes[column], "items": int(wrong[row, column])}
        for row, column in pairs
        if wrong[row, column]
    ]
    matrix = {"labels": list(classes), "counts": counts.tolist()} if len(classes) <= MAX_CONFUSION else None
    return matrix, most


def per_class_of(
    classes: Sequence[str],
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    average_precision: Sequence[float | None] | None = None,
) -> list[dict[str, Any]]:
    """Items, recall, precision and average precision of each class; None where one is not defined (0 of 0).

    Args:
        classes: names, (c,).
        truth: (n, c), the classes of each sound.
        predicted: (n, c), the classes that each sound was taken for.
        average_precision: (c,), if the task has it.
    """
    there, said, hits = truth.sum(axis=0), predicted.sum(axis=0), (truth & predicted).sum(axis=0)
    return [
        {
            "label": name,
            "items": int(there[i]),
            "recall": float(hits[i] / there[i]) if there[i] else None,
            "precision": float(hits[i] / said[i]) if said[i] else None,
            "average_precision": average_precision[i] if average_precision is not None else None,
        }
        for i, name in enumerate(classes)
    ]
