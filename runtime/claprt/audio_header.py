"""What the headers of sound files promise: libsndfile reads a file that was cut off as if it had been made so short.

Formats: "Multimedia Programming Interface and Data Specifications 1.0" (RIFF), EBU Tech 3306 (RF64), Sony's Wave64,
Apple's "Audio Interchange File Format" 1.3 (AIFF, AIFC) and "Core Audio Format" (CAF), Sun's .au, NIST's SPHERE (the
.wav files of TIMIT). FLAC needs no help; OGG and MP3 are streams, which promise nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

# Sizes from here on are what programs write that do not know the size yet: 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, …
_UNKNOWN = 0x7FFF0000
# What some writers count too much: a header.
_SLACK = 64
_MOST_CHUNKS = 1000
_SPHERE_BYTES = 1 << 16  # of a header that is looked at; 1024 as a rule
_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
_W64_DATA = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")


@dataclass(frozen=True)
class Promise:
    """How many bytes of samples a header promises, and how many the file has behind it."""

    promised: int
    present: int


def broken_promise(file: BinaryIO) -> Promise | None:
    """Whether a file ends before its samples do, by its header. None where it does not, or does not say.

    Args:
        file: seekable; its first byte is the sound's. The position afterwards is anywhere.
    """
    end = file.seek(0, 2)
    file.seek(0)
    found = _samples(file, file.read(12), end)
    if found is None:
        return None
    begin, size = found
    present = max(end - begin, 0)
    return Promise(size, present) if size > present + _SLACK else None


def _samples(file: BinaryIO, magic: bytes, end: int) -> tuple[int, int] | None:
    """Where the samples begin and how many bytes they are."""
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and magic[8:] == b"WAVE":
        return _wave(file, "big" if magic[:4] == b"RIFX" else "little", end)
    if magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
        chunks = _chunks(file, 12, end, name=4, size=4, order="big", align=2)
        return next(((begin, size) for kind, begin, size in chunks if kind == b"SSND" and _known(size)), None)
    if magic[:4] in (b".snd", b"dns."):
        order: Literal["big", "little"] = "big" if magic[:4] == b".snd" else "little"
        begin, size = int.from_bytes(magic[4:8], order), int.from_bytes(magic[8:], order)
        return (begin, size) if _known(size) else None
    if magic[:4] == b"caff":
        chunks = _chunks(file, 8, end, name=4, size=8, order="big", align=1)
        return next(((begin, size) for kind, begin, size in chunks if kind == b"data" and size < 1 << 63), None)
    if magic == _W64_RIFF[:12]:
        # Sizes count their own header of 24 bytes; the file's is followed by "wave".
        chunks = _chunks(file, 40, end, name=16, size=8, order="little", align=8, counted=24)
        return next(((begin, size) for kind, begin, size in chunks if kind == _W64_DATA and size > 0), None)
    if magic[:8] == b"NIST_1A\n":
        return _sphere(file)
    return None


def _wave(file: BinaryIO, order: str, end: int) -> tuple[int, int] | None:
    whole = None  # 64 bits wide, from a chunk before
    for kind, begin, size in _chunks(file, 12, end, name=4, size=4, order=order, align=2):
        if kind == b"ds64":
            file.seek(begin + 8)
            whole = int.from_bytes(file.read(8), "little")
        elif kind == b"data":
            if size == 0xFFFFFFFF and whole is not None:
                return begin, whole
            return (begin, size) if _known(size) else None
    return None


def _sphere(file: BinaryIO) -> tuple[int, int] | None:
    """After the header's size lines of "name -i value", to "end_head"."""
    file.seek(8)
    try:
        begin = int(file.read(8))
        file.seek(16)
        lines = file.read(min(max(begin - 16, 0), _SPHERE_BYTES)).partition(b"end_head")[0].splitlines()
        values = dict(line.split()[::2] for line in lines if line.count(b" -i ") == 1)
        size = int(values[b"sample_count"]) * int(values[b"sample_n_bytes"]) * int(values[b"channel_count"])
    except (ValueError, KeyError):  # not as it should be: libsndfile says so, or makes something of it
        return None
    return (begin, size) if _known(size) else None


def _chunks(
    file: BinaryIO, at: int, end: int, *, name: int, size: int, order: str, align: int, counted: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, bytes of it) of the chunks from `at` on."""
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(name + size)
        if len(head) < name + size:
            return
        length = int.from_bytes(head[name:], "big" if order == "big" else "little") - counted
        begin = at + name + size
        yield head[:name], begin, length
        at = begin + -(-max(length, 0) // align) * align
        if at >= end:
            return


def _known(size: int) -> bool:
    return 0 < size < _UNKNOWN
