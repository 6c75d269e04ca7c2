"""Zero-shot classification: a sound gets the class whose text is nearest.

top-1, top-5   sounds with one of their classes among the 1 or 5 nearest; top-5 only where there are more than 5 classes
map            macro mean average precision: for each class the sounds in order of their cosine with its text. That is
               what is reported for FSD50K and AudioSet, where sounds have several classes; the cosine is not normalised
               over classes, so that the order is that of a search for the class.
per class      recall and precision where a sound is taken for as many classes as it has, the nearest ones
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from claprt.files import read_regular
from claprt.model import DEFAULT_TEMPLATE, Clap
from claprt.printable import printable
from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.bootstrap import MeanAveragePrecision, Share, Statistic
from claprt_bench.evaluation.dataset import Dataset, Item
from claprt_bench.evaluation.scores import Scorer, Scores, confusion_of, per_class_of

_LINES_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class ZeroShot:
    """The classes and what is said of them.

    Attributes:
        classes: names, in the order of the document.
        texts: for each what a template is filled with.
        templates: prompt templates; several are averaged.
    """

    classes: tuple[str, ...]
    texts: tuple[str, ...]
    templates: tuple[str, ...]

    @staticmethod
    def of(dataset: Dataset, path: Path, templates: Sequence[str], labels_file: Path | None) -> ZeroShot:
        """Classes of a dataset, in prompts with spaces for underscores; or as a file says.

        Args:
            dataset: with labels.
            path: of the dataset, for messages.
            templates: none for the default.
            labels_file: UTF-8, one class a line; after a tab, what a prompt says instead of its name. Classes without
                sounds may be in it.

        Raises:
            DatasetError: fewer than two classes, two that read the same, one that is no text, or the file lacks one.
        """
        texts = {name: _spoken(name) for name in dataset.classes}
        if labels_file is not None:
            listed = _read_labels(labels_file)
            missing = [name for name in texts if name not in listed]
            if missing:
                raise DatasetError(
                    f"the file of labels lacks classes of the dataset: {labels_file}: {', '.join(missing[:5])}; it "
                    "must have all of them"
                )
            texts = listed
        if bad := [name for name, text in texts.items() if text.encode("utf-8", "ignore").decode() != text]:
            raise DatasetError(
                f"the name of a class is not valid UTF-8: {path}: {printable(bad[0])}; rename its folder"
            )
        if len(texts) < 2:
            raise DatasetError(f"there is nothing to tell apart: {path}: its only class is {next(iter(texts))!r}")
        seen: dict[str, str] = {}
        for name, text in texts.items():
            if seen.setdefault(text, name) != name:
                raise DatasetError(
                    f"two classes read the same: {path}: {seen[text]!r} and {name!r} are {text!r} in a prompt; give "
                    "them different texts with --labels-file"
                )
        return ZeroShot(tuple(texts), tuple(texts.values()), tuple(templates) or (DEFAULT_TEMPLATE,))

    def prepare(self, clap: Clap, items: Sequence[Item]) -> Scorer:
        """Embed the classes' prompts with one variant; what it returns takes (n, dim) vectors and their n sounds."""
        known = clap.embed_labels(self.texts, self.templates).vectors.astype(np.float64)
        return lambda vectors, used: self.of_scores(vectors.astype(np.float64) @ known.T, used)

    def of_scores(self, scores: NDArray[np.float64], items: Sequence[Item]) -> Scores:
        """The metrics of (n, classes) cosines."""
        column = {name: i for i, name in enumerate(self.classes)}
        truth = np.zeros(scores.shape, dtype=bool)
        for row, item in enumerate(items):
            truth[row, [column[label] for label in item.labels]] = True
        order = np.argsort(-scores, axis=1, kind="stable")
        hits = np.take_along_axis(truth, order, axis=1)
        precision = MeanAveragePrecision(scores, truth)
        statistics: dict[str, Statistic] = {"top1": Share.of(hits[:, 0])}
        if len(self.classes) > 5:
            statistics["top5"] = Share.of(np.asarray(hits[:, :5].any(axis=1)))
        statistics["map"] = precision
        single = bool((truth.sum(axis=1) == 1).all())
        confusion, confusions = confusion_of(self.classes, truth.argmax(1), order[:, 0]) if single else (None, None)
        predicted = np.zeros_like(truth)
        np.put_along_axis(predicted, order, np.arange(scores.shape[1]) < truth.sum(axis=1, keepdims=True), axis=1)
        return Scores(
            statistics,
            right={"top1": hits[:, 0]},
            per_class=per_class_of(self.classes, truth, predicted, precision.by_class()),
            confusion=confusion,
            confusions=confusions,
        )


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _read_labels(path: Path) -> dict[str, str]:
    """Classes and their texts."""
    try:
        data = read_regular(path, _LINES_MAX_BYTES)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"the file of labels cannot be read: {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"the file of labels is not UTF-8: {path}: byte {error.start}; convert the file") from error
    if b"\0" in data:
        raise DatasetError(f"the file of labels is not UTF-8: {path}: byte {data.index(0)} is 0x00; convert the file")
    texts: dict[str, str] = {}
    for line in re.split(r"\r\n|\n|\r", text):
        name, said = (part.strip() for part in line.partition("\t")[::2])
        if not name:
            continue
        if name in texts:
            raise DatasetError(f"a class is given twice: {path}: {name!r}; give each once")
        texts[name] = said or _spoken(name)
    if not texts:
        raise DatasetError(f"there are no labels: {path} has only blank lines; write one class a line")
    return texts
