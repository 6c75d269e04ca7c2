"""Datasets that are a folder of sounds for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.dataset import (
    EXPECTED,
    TEST_SPLITS,
    TRAIN_SPLITS,
    VALIDATION_SPLITS,
    Dataset,
    Item,
    Options,
    check_split,
)

SOUND_SUFFIXES = frozenset(
    (
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64"),
        *(".rf64", ".m4a", ".aac", ".mp4", ".webm", ".mka", ".wma"),
    )
)


def read_tree(root: Path, wants: str, options: Options) -> Dataset:
    """List a tree, as `read_dataset`.

    Raises:
        DatasetError: it has no captions, no sounds in folders, or cannot be read; or an option is for tables.
    """
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
        ) from error
    if not items:
        tables = sorted(p.name for p in root.iterdir() if p.suffix.lower() in (".csv", ".tsv", ".parquet"))
        hint = f"; or pass {root / tables[0]}" if tables else ""
        what = f"{len(stray)} sounds, but no folders of classes" if stray else "no sounds in folders of classes"
        raise DatasetError(f"not a dataset: {root}: {what}; {EXPECTED}{hint}")
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
