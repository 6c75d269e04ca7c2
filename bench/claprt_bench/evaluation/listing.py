"""The rows of a table as sounds: which column is what, where the files are, rows of one sound put together."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.dataset import Dataset, Item, Options, Skipped, check_split
from claprt_bench.evaluation.table import Table, read_table

_PATHS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "audio", "audio_path", "audio_file", "wav"),
    *("fname", "slice_file_name", "youtube_id"),
)
_LABELS = ("label", "category", "class", "class_name", "labels", "target_name", "target")
_CAPTIONS = ("caption", "captions", "text")
_SPLITS = ("split", "set", "subset", "partition")
_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
# Of so many rows the first are looked for to find out where the files are.
_TRIED = 1000


def read_listing(path: Path, name: str, wants: str, options: Options) -> Dataset:
    """List the sounds of a table. Arguments and errors as `read_dataset`."""
    table = read_table(path)
    column = _path_column(table, options)
    paths = [_cell(value, table, i) for i, value in enumerate(table.fetch(column))]
    labels: list[tuple[str, ...]] = [()] * table.rows
    captions: list[tuple[str, ...]] = [()] * table.rows
    multi = False
    if wants == "labels":
        multi, labels = _labels(table, options)
    else:
        captions = _captions(table, options)
    folds = _optional(table, options.fold_column, ("fold",), "--fold-column")
    splits = _optional(table, options.split_column, _SPLITS, "--split-column")
    check_split(path, options.split, splits)
    root = _root(table, paths, folds, options)
    items: dict[str, Item] = {}
    skipped, repeated = [], 0
    for i in range(table.rows):
        if options.split not in (None, splits[i]):
            continue
        row = Item(paths[i], "", labels[i], captions[i], folds[i], splits[i])
        if not paths[i] or not (row.labels or row.captions):
            lacks = "path" if not paths[i] else wants.removesuffix("s")
            skipped.append(Skipped(paths[i] or table.where(i), f"{table.where(i)} has no {lacks}"))
            continue
        row = replace(row, path=_located(root, paths[i], folds[i]))
        key = os.path.normpath(row.path)
        if key in items:
            repeated += wants == "labels"
            row = _merged(items[key], row, multi, f"{path}: {table.where(i)}")
        items[key] = row
    if not items:
        raise DatasetError(f"the dataset has nothing to use: {path}: no row has a path and a {wants.removesuffix('s')}")
    warnings = [f"{repeated} rows name a sound that another row names too; each sound counts once"] if repeated else []
    return Dataset(name, tuple(_named(list(items.values()))), tuple(skipped), tuple(warnings))


def _path_column(table: Table, options: Options) -> int:
    column = table.find(options.path_column, _PATHS, "--path-column")
    if column is None:
        raise DatasetError(
            f"no column of paths: {table.path}: it has {table.shown}; name the column with --path-column (usual names: "
            "path, file, filename, file_name, audio)"
        )
    return column


def _labels(table: Table, options: Options) -> tuple[bool, list[tuple[str, ...]]]:
    """Whether sounds may have several labels, and those of each row."""
    column = table.find(options.label_column, _LABELS, "--label-column")
    if column is None:
        raise DatasetError(
            f"no column of labels: {table.path}: it has {table.shown}; name the column with --label-column (usual "
            "names: label, category, class, labels)"
        )
    values = table.fetch(column)
    lists = any(isinstance(value, list) for value in values)
    separator = options.label_separator
    if separator is None and not lists and table.names[column].strip().lower() == "labels":
        separator = ";" if any(isinstance(value, str) and ";" in value for value in values) else ","
    if separator == "":
        raise DatasetError("the separator of labels is empty; pass one, such as --label-separator ';'")

    def split(value: Any, i: int) -> tuple[str, ...]:
        if isinstance(value, list):
            parts = [_cell(part, table, i) for part in value]
        else:
            text = _cell(value, table, i)
            parts = text.split(separator) if separator is not None else [text]
        return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))

    return lists or separator is not None, [split(value, i) for i, value in enumerate(values)]


def _captions(table: Table, options: Options) -> list[tuple[str, ...]]:
    if options.caption_columns:
        found = [table.find(name, (), "--caption-column") for name in options.caption_columns]
    else:
        numbered = [f"caption_{number}" for number in range(1, 100)]
        found = [table.find(None, [name], "--caption-column") for name in numbered]
        if not any(column is not None for column in found):
            found = [table.find(None, _CAPTIONS, "--caption-column")]
    columns = [column for column in found if column is not None]
    if not columns:
        raise DatasetError(
            f"no column of captions: {table.path}: it has {table.shown}; name the columns with --caption-column (usual "
            "names: caption, captions, caption_1 … caption_5)"
        )

    def texts(value: Any, i: int) -> list[str]:
        parts = value if isinstance(value, list) else [value]
        return [text for text in (_cell(part, table, i).strip() for part in parts) if text]

    values = [table.fetch(column) for column in columns]
    return [tuple(text for column in values for text in texts(column[i], i)) for i in range(table.rows)]


def _optional(table: Table, wanted: str | None, known: Sequence[str], option: str) -> list[str | None]:
    column = table.find(wanted, known, option)
    if column is None:
        return [None] * table.rows
    return [_cell(value, table, i).strip() or None for i, value in enumerate(table.fetch(column))]


def _cell(value: Any, table: Table, i: int) -> str:
    """A value as text: empty for none, whole numbers without a point."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (str, int, float)):
        return str(value)
    raise DatasetError(
        f"a column holds neither texts nor numbers: {table.path}: {table.where(i)}: {type(value).__name__}; name "
        "another column (sounds inside a Parquet file are not read: write them to files)"
    )


def _root(table: Table, paths: Sequence[str], folds: Sequence[str | None], options: Options) -> Path:
    """What the paths are relative to: of the usual places the one that has most of the first files."""
    if options.audio_root is not None:
        if not options.audio_root.is_dir():
            raise DatasetError(
                f"no such directory: {options.audio_root}; pass the folder of the sounds as --audio-root"
            )
        return options.audio_root
    here = table.path.parent
    places = (here, here / "audio", here.parent / "audio")
    rows = list(zip(paths, folds, strict=True))[:_TRIED]
    return max(places, key=lambda place: sum(_is_file(_located(place, p, fold)) for p, fold in rows if p))


def _located(root: Path, path: str, fold: str | None) -> str:
    """Where a sound is: as it is written, with a suffix, or in its fold's folder; as it is written if nowhere."""
    written = os.path.join(os.path.abspath(root), path)  # noqa: PTH100, PTH118 (pathlib refuses NUL, and normalises)
    folders = [written]
    if fold is not None:
        folders.append(os.path.join(os.path.abspath(root), f"fold{fold}", path))  # noqa: PTH100, PTH118
    tried = [folder + suffix for folder in folders for suffix in ("", *_SUFFIXES)]
    return next((candidate for candidate in tried if _is_file(candidate)), written)


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)  # noqa: PTH113 (False for a path with NUL)
    except ValueError:
        return False


def _merged(first: Item, second: Item, multi: bool, where: str) -> Item:
    """One sound of two rows."""
    if (first.fold, first.split) != (second.fold, second.split):
        raise DatasetError(
            f"a sound is listed twice with different folds or splits: {where}: {second.name!r}; keep one"
        )
    if first.labels != second.labels and not multi:
        raise DatasetError(
            f"a sound is listed twice with different labels: {where}: {second.name!r} is {first.labels[0]!r} and "
            f"{second.labels[0]!r}; keep one, or pass --label-separator if a sound may have several"
        )
    labels = tuple(dict.fromkeys(first.labels + second.labels))
    return replace(first, labels=labels, captions=first.captions + second.captions)


def _named(items: list[Item]) -> list[Item]:
    """Items called by what their paths do not have in common, so that a name says nothing of the machine.

    Where they have nothing in common but the root, by their whole paths.
    """
    folders = {os.path.dirname(os.path.normpath(item.path)) for item in items}  # noqa: PTH120
    base = os.path.commonpath(folders)
    if base == os.path.dirname(base):  # noqa: PTH120
        return [replace(item, name=os.path.normpath(item.path).replace(os.sep, "/")) for item in items]
    return [replace(item, name=os.path.relpath(item.path, base).replace(os.sep, "/")) for item in items]
