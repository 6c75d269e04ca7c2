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

from pathlib import Path

from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.dataset import EXPECTED, Dataset, Options
from claprt_bench.evaluation.listing import read_listing
from claprt_bench.evaluation.table import CSV_SUFFIXES, PARQUET_SUFFIXES
from claprt_bench.evaluation.tree import read_tree


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
    options = options or Options()
    try:
        is_folder, is_file, there = path.is_dir(), path.is_file(), path.exists()
        if is_folder:
            next(path.iterdir(), None)
        listed = is_folder and listing_in(path).is_file()
    except OSError as error:
        raise DatasetError(f"the dataset cannot be read: {path}: {error.strerror}; check its permissions") from error
    if listed:
        dataset = read_listing(listing_in(path), path.resolve().name, wants, options)
    elif is_folder:
        dataset = read_tree(path, wants, options)
    elif is_file and path.suffix.lower() in CSV_SUFFIXES + PARQUET_SUFFIXES:
        dataset = read_listing(path, path.stem, wants, options)
    else:
        what = "neither a directory nor a CSV or Parquet file" if there else "there is no such path"
        raise DatasetError(f"not a dataset: {path}: {what}; {EXPECTED}")
    return dataset


def listing_in(folder: Path) -> Path:
    """Where a folder has its own table, if it has one."""
    return folder / "meta" / "esc50.csv"
