"""Sounds with labels or captions: from a tree of folders, or from a table.

A tree is DATASET/<class>/**/<sound>; where all the top folders are called after splits (train, test, ...) it is
DATASET/<split>/<class>/**/<sound>. A directory with meta/esc50.csv is read through that.

A table has one row for each sound, or several for a sound with several captions, with a column of paths and columns of
labels or captions. Paths are relative to the table's directory, or to `audio` in it or beside it, whichever holds the
files, or to the `audio_root` that is given. A name without suffix is tried with `.wav`, `.flac`, `.mp3` and `.ogg`, and
within the folder `fold<n>` of its row's fold, as ESC-50, UrbanSound8K, FSD50K, Clotho and AudioCaps come.

A sound has several labels where a separator of labels is given, where the column is called `labels` (separated by
semicolons, or by commas where there is no semicolon in the whole column), or where the column holds lists (Parquet).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from claprt_bench.errors import DatasetError

SOUND_SUFFIXES = frozenset(
    (
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64"),
        *(".rf64", ".m4a", ".aac", ".mp4", ".webm", ".mka", ".wma"),
    )
)
TRAIN_SPLITS = frozenset(("train", "training"))
TEST_SPLITS = frozenset(("test", "testing", "eval", "evaluation"))
VALIDATION_SPLITS = frozenset(("val", "valid", "validation", "dev"))
_EXPECTED = "expected DATASET/<class>/<sound>, or a CSV or Parquet file of paths with labels or captions"


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


def read_dataset(path: Path, wants: str, options: Options | None = None) -> Dataset:
    """List a dataset.

    Args:
        path: a directory, or a CSV or Parquet file.
        wants: "labels" or "captions": what the task needs of each sound.
        options: how to read it.

    Raises:
        DatasetError: it is not there, is not a dataset, or has nothing to use.
        MissingExtraError: pyarrow is not installed, for Parquet.
    """
    from claprt_bench.evaluation import listing
    from claprt_bench.evaluation.table import CSV_SUFFIXES, PARQUET_SUFFIXES

    options = options or Options()
    esc50 = path / "meta" / "esc50.csv"
    if path.is_dir() and esc50.is_file():
        dataset = listing.read_listing(esc50, path.resolve().name, wants, options)
    elif path.is_dir():
        dataset = _tree(path, wants, options)
    elif path.is_file() and path.suffix.lower() in CSV_SUFFIXES + PARQUET_SUFFIXES:
        dataset = listing.read_listing(path, path.stem, wants, options)
    else:
        what = "neither a directory nor a CSV or Parquet file" if path.exists() else "there is no such path"
        raise DatasetError(f"not a dataset: {path}: {what}; {_EXPECTED}")
    return dataset


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


def _tree(root: Path, wants: str, options: Options) -> Dataset:
    if wants != "labels":
        raise DatasetError(f"folders have no captions: {root}; pass a CSV or Parquet file of paths and captions")
    given = [name for name in ("path_column", "label_column", "fold_column", "split_column") if getattr(options, name)]
    if given or options.audio_root is not None or options.label_separator is not None:
        what = f"--{given[0].replace('_', '-')}" if given else "--audio-root or --label-separator"
        raise DatasetError(f"{what} is for tables: {root} is a directory; leave it out, or pass its CSV")
    try:
        folders, stray = _entries(root)
        if folders and {folder.name.lower() for folder in folders} <= TRAIN_SPLITS | TEST_SPLITS | VALIDATION_SPLITS:
            parts: list[tuple[str | None, list[Path]]] = [(split.name, _entries(split)[0]) for split in folders]
        else:
            parts = [(None, folders)]
        check_split(root, options.split, [split for split, _ in parts])
        items, empty = [], []
        for split, classes in parts:
            if options.split not in (None, split):
                continue
            for folder in classes:
                sounds = list(_sounds(folder))
                items += [
                    Item(Path(sound).relative_to(root).as_posix(), sound, (folder.name,), split=split)
                    for sound in sounds
                ]
                if not sounds:
                    empty.append(folder.name)
    except OSError as error:
        raise DatasetError(
            f"the dataset cannot be read: {error.filename}: {error.strerror}; check its permissions"
        ) from (error)
    if not items:
        tables = sorted(p.name for p in root.iterdir() if p.suffix.lower() in (".csv", ".tsv", ".parquet"))
        hint = f"; or pass {root / tables[0]}" if tables else ""
        what = f"{len(stray)} sounds, but no folders of classes" if stray else "no sounds in folders of classes"
        raise DatasetError(f"not a dataset: {root}: {what}; {_EXPECTED}{hint}")
    warnings = []
    if stray:
        warnings.append(f"{len(stray)} sounds beside the folders of classes have no class and are left out")
    if empty:
        warnings.append(f"{len(empty)} folders hold no sounds and are left out: {', '.join(sorted(set(empty))[:5])}")
    return Dataset(root.resolve().name, tuple(items), warnings=tuple(warnings))


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and sounds in a folder, sorted; hidden ones are left out."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX")))
    return [e for e in entries if e.is_dir()], [
        e for e in entries if e.suffix.lower() in SOUND_SUFFIXES and e.is_file()
    ]


def _sounds(folder: Path) -> Iterator[str]:
    """Paths of all sounds below a folder, sorted."""

    def failed(error: OSError) -> None:
        raise error

    found: list[str] = []
    for directory, _, names in os.walk(folder, onerror=failed):
        kept: Sequence[str] = [n for n in names if not n.startswith(".") and Path(n).suffix.lower() in SOUND_SUFFIXES]
        found += [os.path.join(directory, name) for name in kept]  # noqa: PTH118 (names need not be valid Unicode)
    yield from sorted(found)
