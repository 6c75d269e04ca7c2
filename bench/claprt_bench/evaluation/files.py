"""Which sounds of a dataset are there, how long they are, and the hash that says which dataset it was."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from claprt.audio_io import open_audio
from claprt.audio_source import shown
from claprt.bundle import sha256_file
from claprt.errors import AudioError
from claprt.progress import Progress
from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.dataset import Item, Skipped

_UNKNOWN_LENGTH = 1 << 60  # a FLAC stream without a length reports about 2^63 frames


@dataclass(frozen=True)
class Found:
    """A sound that is there.

    Attributes:
        sha256: of its file.
        seconds: its length.
    """

    sha256: str
    seconds: float


def look_at(items: Sequence[Item]) -> tuple[dict[int, Found], list[Skipped]]:
    """Hash and measure each file.

    Returns:
        What was found, by the item's index, and those that cannot be used.
    """
    found: dict[int, Found] = {}
    skipped = []
    with Progress("looking at the files", total=len(items), unit="file") as progress:
        for index, item in enumerate(items):
            why = _why_not(item.path)
            if why is None:
                try:
                    found[index] = Found(sha256_file(Path(item.path)), _seconds(item.path))
                except AudioError as error:
                    why = without_path(error, item)
                except OSError as error:
                    why = f"it cannot be read: {error.strerror}"
            if why is not None:
                skipped.append(Skipped(item.name, why))
            progress.advance()
    return found, skipped


def without_path(error: Exception, item: Item) -> str:
    """An error's line with the sound's name for its path."""
    text = " ".join(str(error).split())
    for written in (shown(item.path), item.path):
        text = text.replace(written, item.name)
    return text


def dataset_hash(items: Mapping[int, Item], found: Mapping[int, Found]) -> str:
    """SHA-256 over names, contents, labels, captions, folds and splits of the sounds that are used, in any order."""
    lines = sorted(
        repr((item.name, found[index].sha256, sorted(item.labels), item.captions, item.fold, item.split))
        for index, item in items.items()
    )
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def enough(used: int, skipped: Sequence[Skipped], where: Path) -> None:
    """Check that most of a dataset can be used.

    Raises:
        DatasetError: more than half of it cannot, or fewer than two sounds can.
    """
    if used < 2 or len(skipped) > used:
        first = f", the first: {skipped[0].path}: {skipped[0].why}" if skipped else ""
        raise DatasetError(
            f"too little of the dataset can be used: {where}: {used} of {used + len(skipped)} sounds{first}; check the "
            "paths, and --audio-root for a table"
        )


def _why_not(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (names need not be valid Unicode)
    except FileNotFoundError:
        return "there is no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        return f"it cannot be opened: {getattr(error, 'strerror', None) or error}"
    return None if stat.S_ISREG(mode) else "it is not a regular file"


def _seconds(path: str) -> float:
    """From the header where libsndfile reads it, else by decoding. Whether its samples are good is seen later."""
    try:
        with Path(path).open("rb") as stream:  # not by its name: soundfile refuses names that are not UTF-8
            header = soundfile.info(stream)
        if 0 < header.frames < _UNKNOWN_LENGTH and header.samplerate > 0:
            return float(header.frames) / float(header.samplerate)
    except RuntimeError:  # not a format of libsndfile, or not a sound
        pass
    with open_audio(path) as source:
        return sum(block.size for block in source.blocks()) / source.sampling_rate
