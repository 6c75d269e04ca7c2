"""Supervised probe: logistic regression (scikit-learn, L2, lbfgs) on frozen vectors.

What is held out, the first of these that there is:

--folds K          K stratified folds, shuffled by the seed
splits             the dataset's test split (validation split, where it has no test split), trained on its train split
a fold column      each fold once, trained on the others, as ESC-50 prescribes
otherwise          5 stratified folds

C is chosen by cross-validation inside the training part, from `CS`, the smaller of equals; where the dataset has folds,
sounds of one fold stay together there too. What is held out takes no part in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.head import Head
from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.bootstrap import BalancedAccuracy, Share
from claprt_bench.evaluation.dataset import TEST_SPLITS, TRAIN_SPLITS, VALIDATION_SPLITS, Dataset, Item
from claprt_bench.evaluation.scores import Scores, confusion_of, per_class_of

CS = (0.1, 1.0, 10.0, 100.0, 1000.0)
# Where the training part is too small to choose: vectors have unit length, so that little less than this says nothing.
_DEFAULT_C = 10.0
_INNER, _FOLDS = 3, 5
_MAX_ITERATIONS = 2000

Hook = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Fold:
    """Sounds that are held out together, and those that are trained on, by index."""

    name: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Probe:
    """The task: classes and what is held out of n sounds.

    Attributes:
        classes: names, in the order of the document.
        truth: (n,) the class's number of each sound.
        groups: (n,) the dataset's own folds, None if it has none.
        folds: what is held out in turn.
        how: the same for people.
        seed: of shuffles.
    """

    classes: tuple[str, ...]
    truth: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    folds: tuple[Fold, ...]
    how: str
    seed: int

    @staticmethod
    def of(dataset: Dataset, path: Path, folds: int | None, seed: int) -> Probe:
        """Decide what is held out.

        Args:
            dataset: with labels, of the sounds that can be used.
            path: of the dataset, for messages.
            folds: how many stratified folds; None as the module says.
            seed: of shuffles.

        Raises:
            DatasetError: sounds with several labels, fewer than two classes, too few sounds for so many folds, or a
                sound without fold.
        """
        if dataset.multi_label:
            raise DatasetError(f"the probe takes sounds of one class each: {path}: some have several; use zero-shot")
        items, classes = dataset.items, tuple(dataset.classes)
        if len(classes) < 2:
            raise DatasetError(f"there is nothing to tell apart: {path}: its only class is {classes[0]!r}")
        number = {name: i for i, name in enumerate(classes)}
        truth = np.array([number[item.labels[0]] for item in items])
        names = [item.fold for item in items]
        groups = None
        if any(name is not None for name in names):
            if None in names:
                lost = items[names.index(None)].name
                raise DatasetError(f"a sound has no fold: {path}: {lost}; give each one, or pass --folds 5")
            groups = np.unique([str(name) for name in names], return_inverse=True)[1]
        parts, how = _held_out(items, truth, groups, folds, seed, path)
        for part in parts:
            if len(np.unique(truth[part.train])) < 2:
                raise DatasetError(f"fewer than two classes to train on: {path}: without {part.name}; pass --folds 5")
        return Probe(classes, truth, groups, tuple(parts), how, seed)

    def score(self, vectors: NDArray[np.float32], done: Hook) -> Scores:
        """Train on and predict (n, dim) vectors of one variant; `done` is called after each fold."""
        predicted = np.full(len(self.truth), -1)
        rows, notes = [], []
        for fold in self.folds:
            model, c, notice = self._fit(vectors, fold.train)
            predicted[fold.test] = model.predict(vectors[fold.test])
            right = predicted[fold.test] == self.truth[fold.test]
            rows.append({"fold": fold.name, "items": len(fold.test), "accuracy": float(right.mean()), "c": c})
            notes += [f"fold {fold.name}: {text}" for text in notice]
            done()
        held = np.flatnonzero(predicted >= 0)
        truth, predicted = self.truth[held], predicted[held]
        identity = np.eye(len(self.classes), dtype=bool)
        confusion, confusions = confusion_of(self.classes, truth, predicted)
        return Scores(
            {
                "accuracy": Share.of(truth == predicted),
                "balanced_accuracy": BalancedAccuracy(truth == predicted, truth),
            },
            right={"accuracy": truth == predicted},
            per_class=per_class_of(self.classes, identity[truth], identity[predicted]),
            confusion=confusion,
            confusions=confusions,
            per_fold=rows,
            notes=notes,
        )

    def head(self, vectors: NDArray[np.float32], space_id: str, on: str) -> Head:
        """A head trained on all sounds, those that were held out too; `on` says on what, for people."""
        model, c, _ = self._fit(vectors, np.arange(len(self.truth)))
        return to_head(model, [self.classes[i] for i in model.classes_], space_id, f"{on}, C = {c:g}")

    def _fit(self, vectors: NDArray[np.float32], train: NDArray[np.int64]) -> tuple[Any, float, list[str]]:
        """A classifier trained on some of the sounds, its C, and what the user should know."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
        from threadpoolctl import threadpool_limits

        x, y, notes = vectors[train].astype(np.float64), self.truth[train], []
        splits = self._inner(train)
        model = LogisticRegression(C=_DEFAULT_C, max_iter=_MAX_ITERATIONS)
        # One thread: several wait for each other more than they compute, up to 2,000 sounds of 512 numbers at least.
        with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if splits:
                search = GridSearchCV(model, {"C": list(CS)}, scoring="accuracy", cv=splits, error_score="raise")
                model = search.fit(x, y).best_estimator_
            else:
                notes.append(f"too few sounds of a class to choose C: {_DEFAULT_C:g} was taken")
                model.fit(x, y)
        if any(issubclass(item.category, ConvergenceWarning) for item in caught):
            notes.append(f"a logistic regression did not converge in {_MAX_ITERATIONS} steps")
        return model, float(model.C), notes

    def _inner(self, train: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Parts of the training part to choose C by; none where a class is too small."""
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

        y = self.truth[train]
        groups = None if self.groups is None else self.groups[train]
        members = np.bincount(y)[np.unique(y)]
        if groups is not None and len(np.unique(groups)) >= 2:
            count, kind = min(_INNER, len(np.unique(groups)), int(members.max())), StratifiedGroupKFold
        else:
            count, kind = min(_INNER, int(members.min())), StratifiedKFold
        if count < 2:
            return []
        splitter = kind(count, shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a class has fewer sounds than there are parts
            splits = list(splitter.split(train[:, None], y, groups))
        return [(a, b) for a, b in splits if len(np.unique(y[a])) >= 2 and len(b)]


def to_head(model: Any, classes: Sequence[str], space_id: str, trained: str) -> Head:
    """A fitted `LogisticRegression` as a head. One of two classes has one row of weights, for the second."""
    weights, bias = model.coef_, model.intercept_
    if len(weights) == 1:
        weights, bias = np.concatenate([np.zeros_like(weights), weights]), np.append(0.0, bias)
    return Head(list(classes), weights.astype(np.float32), bias.astype(np.float32), space_id, trained)


def _held_out(
    items: Sequence[Item],
    truth: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    folds: int | None,
    seed: int,
    path: Path,
) -> tuple[list[Fold], str]:
    splits = [(item.split or "").lower() for item in items]
    train = np.flatnonzero([split in TRAIN_SPLITS for split in splits])
    if folds is None and len(train):
        for names in (TEST_SPLITS, VALIDATION_SPLITS):
            test = np.flatnonzero([split in names for split in splits])
            if len(test):
                return [
                    Fold("test", train, test)
                ], f"{len(test)} sounds of the dataset's own split, trained on {len(train)}"
    if folds is None and groups is not None and len(np.unique(groups)) >= 2:
        everyone = np.arange(len(items))
        named = {int(group): items[int(np.argmax(groups == group))].fold or "" for group in np.unique(groups)}
        order = sorted(
            named, key=lambda group: (0, int(named[group]), "") if named[group].isdecimal() else (1, 0, named[group])
        )
        parts = [Fold(named[group], everyone[groups != group], everyone[groups == group]) for group in order]
        return parts, f"each of the dataset's {len(parts)} folds in turn"
    from sklearn.model_selection import StratifiedKFold

    count = _FOLDS if folds is None else folds
    smallest = int(np.bincount(truth).min())
    if smallest < count:
        raise DatasetError(
            f"too few sounds for {count} folds: {path}: a class has {smallest}; pass a smaller --folds, or more sounds"
        )
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    parts = [Fold(str(i + 1), a, b) for i, (a, b) in enumerate(splitter.split(truth[:, None], truth))]
    return parts, f"{count} stratified folds, each in turn"
