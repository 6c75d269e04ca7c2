"""Sounds in files, through libsndfile: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, AU and what else it reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from claprt.audio_header import broken_promise
from claprt.audio_source import BLOCK_ITEMS, AudioSource, check_rate, one_line, shown
from claprt.errors import AudioError, AudioNotFoundError

_UNRECOGNISED = (1, 4)  # libsndfile's error codes for "format not recognised" and "encoding not supported"
_UNKNOWN_LENGTH = 1 << 60  # a FLAC stream without a length reports about 2^63 frames


class UnrecognisedError(Exception):
    """libsndfile does not know this kind of file: another decoder may."""


class FromHere:
    """A binary file object whose position 0 is where the caller left it.

    It also keeps the first exception of the file: libsndfile calls back through C, which would print and drop it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell()
        self.error: Exception | None = None

    def rewind(self) -> None:
        """Back to where the caller left the file."""
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; b"" after an error."""
        try:
            return self._file.read(size)
        except Exception as error:  # any exception of a user's object: it is raised again once C has returned
            self.error = self.error or error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek relative to the start position; returns the new position, -1 after an error."""
        try:
            origin = self._start if whence == os.SEEK_SET else 0
            return self._file.seek(origin + offset, whence) - self._start
        except Exception as error:
            self.error = self.error or error
            return -1

    def tell(self) -> int:
        """Position relative to the start."""
        try:
            return self._file.tell() - self._start
        except Exception as error:
            self.error = self.error or error
            return -1

    def check(self, name: str) -> None:
        """Raise the error that the file object raised, if it did."""
        if self.error is not None:
            raise AudioError(
                f"reading {shown(name)} failed: {type(self.error).__name__}: {one_line(self.error)}; "
                "check the file, or pass io.BytesIO with its bytes"
            ) from self.error


def open_regular(path: str) -> BinaryIO:
    """Open a path for reading, or say why not. It never blocks: nothing but a regular file is opened.

    Raises:
        AudioNotFoundError: no such path, or a directory, FIFO, socket or device.
        AudioError: no permission, an impossible path, an empty file.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - the path may be any string, pathlib adds nothing
        if not stat.S_ISREG(status.st_mode):
            raise AudioNotFoundError(f"{shown(path)} is {_kind(status.st_mode)}, not a sound file; pass a file's path")
        if not status.st_size:
            raise AudioError(f"{shown(path)} is empty (0 bytes); pass a sound file")
        return open(path, "rb")  # noqa: PTH123 - closed by its AudioSource
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(error, AudioNotFoundError):
            raise
        raise AudioNotFoundError(f"{shown(path)} does not exist; check the path") from error
    except PermissionError as error:
        raise AudioError(f"{shown(path)} cannot be read: permission denied; check the file's permissions") from error
    except AudioError:
        raise
    except (OSError, ValueError) as error:  # too long, a loop of links, a zero byte
        reason = getattr(error, "strerror", None) or one_line(error)  # strerror does not repeat the path
        raise AudioError(f"{shown(path)} cannot be opened: {reason}; check the path") from error


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


class SoundFileSource(AudioSource):
    """A sound that libsndfile decodes, from a seekable binary file.

    Args:
        name: what messages call the file.
        file: binary, seekable; decoded from its current position.
        owned: close it with this source.

    Raises:
        UnrecognisedError: libsndfile does not know the format or the encoding.
        AudioError: the file is damaged, or its rate is impossible.
    """

    def __init__(self, name: str, file: BinaryIO, *, owned: bool) -> None:
        self._file, self._owned = file, owned
        self._reader = FromHere(file)
        self._check_whole(name)
        self._opened: Any = self._open(name)  # the first pass uses it, later ones open again
        self.is_int16 = self._opened.channels == 1 and self._opened.subtype == "PCM_16"
        try:
            super().__init__(name, check_rate(int(self._opened.samplerate), name))
        except AudioError:
            self._opened.close()
            raise

    def _check_whole(self, name: str) -> None:
        self._reader.rewind()
        broken = broken_promise(self._reader)  # type: ignore[arg-type]  # it reads, seeks and tells
        self._reader.check(name)
        if broken is not None:
            raise AudioError(
                f"{shown(name)} is truncated: {broken.promised} bytes of samples are promised, {broken.present} are "
                "there; restore it"
            )

    def _open(self, name: str) -> Any:
        import soundfile  # here, because arrays do not need it

        self._reader.rewind()
        try:
            return soundfile.SoundFile(self._reader)
        except soundfile.LibsndfileError as error:
            self._reader.check(name)
            if error.code in _UNRECOGNISED:
                raise UnrecognisedError(error.error_string) from error
            raise AudioError(
                f"{shown(name)} is a damaged sound file: {error.error_string}; restore or re-encode it"
            ) from error

    def _decode(self) -> Iterator[NDArray[np.floating]]:
        return self._read(np.dtype(np.float32))

    def _decode_int16(self) -> Iterator[NDArray[np.int16]]:
        return (block[:, 0] for block in self._read(np.dtype(np.int16)))

    def _read(self, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        import soundfile

        if self._file.closed:
            raise AudioError(f"{shown(self.name)} is closed; open it again with open_audio")
        sound = self._open(self.name) if self._opened is None else self._opened
        self._opened = None
        done = 0
        with sound:
            # An MP3's length is an estimate from its first header; everything else counts its samples.
            promised = 0 if sound.format == "MP3" or sound.frames >= _UNKNOWN_LENGTH else sound.frames
            step = max(1, BLOCK_ITEMS // sound.channels)
            buffer = np.empty((step, sound.channels), dtype=dtype)
            while True:
                try:
                    block = sound.read(out=buffer)
                except soundfile.LibsndfileError as error:
                    self._reader.check(self.name)
                    raise self._truncated(promised, self._count_good(), f" ({error.error_string})") from error
                self._reader.check(self.name)
                if not len(block):
                    break
                done += len(block)
                yield block.copy()
        if done < promised:
            raise self._truncated(promised, done, "")

    def _count_good(self) -> int:
        """Samples before the damage, in steps of 1024: an error hides how much of its own block was good."""
        import soundfile

        good = 0
        with suppress(soundfile.LibsndfileError), self._open(self.name) as sound:
            buffer = np.empty((1024, sound.channels), dtype=np.float32)
            while got := len(sound.read(out=buffer)):
                good += got
        return good

    def _truncated(self, promised: int, done: int, reason: str) -> AudioError:
        return AudioError(
            f"{shown(self.name)} is truncated or damaged: {promised} samples are promised, {done} decode{reason}; "
            "restore or re-encode it"
        )

    def close(self) -> None:
        """Close the file if this source owns it."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        if self._owned:
            with suppress(OSError):
                self._file.close()
