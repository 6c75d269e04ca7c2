"""What a dataset is made of: sounds with labels or captions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from claprt_bench.errors import DatasetError

TRAIN_SPLITS = frozenset(("train", "training"))
TEST_SPLITS = frozenset(("test", "testing", "eval", "evaluation"))
VALIDATION_SPLITS = frozenset(("val", "valid", "validation", "dev"))
EXPECTED = "expected DATASET/<class>/<sound>, or a CSV or Parquet file of paths with labels or captions"


@dataclass(frozen=True)
class Options:
    """How a dataset is to be read; None is found out.

    Attributes:
        path_column, label_column, fold_column, split_column: names of a table's columns.
        caption_columns: the same, of captions.
        label_separator: between the labels of one sound.
        audio_root: what the paths in a table are relative to.
        split: take the rows of this split only.
    """

    path_column: str | None = None
    label_column: str | None = None
    caption_columns: tuple[str, ...] = ()
    fold_column: str | None = None
    split_column: str | None = None
    label_separator: str | None = None
    audio_root: Path | None = None
    split: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A sound that cannot be used, and why, in one line without the machine's paths."""

    path: str
    why: str


@dataclass(frozen=True)
class Item:
    """One sound of a dataset.

    Attributes:
        name: its path relative to the dataset's sounds, with slashes.
        path: where it is.
        labels: one or more, or none for captions.
        captions: one or more, or none for labels.
        fold, split: what the dataset says, if it says anything.
    """

    name: str
    path: str
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    fold: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Dataset:
    """What a dataset lists. That the files are there is not checked yet.

    Attributes:
        name: of the directory or the table.
        items: in the order of the table, or of their paths.
        skipped: rows without a path, or without what the task needs.
        warnings: what the user should know.
    """

    name: str
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """All labels, sorted; numbers by value."""
        labels = {label for item in self.items for label in item.labels}
        return sorted(labels, key=by_number)

    @property
    def multi_label(self) -> bool:
        """Whether a sound has several labels."""
        return any(len(item.labels) > 1 for item in self.items)


def by_number(name: str) -> tuple[int, int, str]:
    """A key to sort names by: numbers first, by value."""
    return (0, int(name), name) if name.isascii() and name.isdigit() and len(name) < 19 else (1, 0, name)


def check_split(path: Path, wanted: str | None, there: Iterable[str | None]) -> None:
    """Check that a dataset has the split that is wanted.

    Raises:
        DatasetError: it has not.
    """
    names = sorted({name for name in there if name is not None})
    if wanted is not None and wanted not in names:
        what = f"its splits are {', '.join(map(repr, names[:20]))}" if names else "it says nothing of splits"
        raise DatasetError(f"there is no split {wanted!r}: {path}: {what}; pass another --split, or --split-column")
