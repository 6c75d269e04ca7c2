"""Sound in, mono float32 blocks out: paths, file objects and arrays through one door.

    with open_audio("a.wav") as source:
        for block in source.blocks():   # float32 (k,), mono, at source.sampling_rate
            ...

libsndfile reads files first; what it does not recognise goes to PyAV when that is installed.
"""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

import numpy as np

from claprt.audio_array import ArraySource
from claprt.audio_file import SoundFileSource, UnrecognisedError, open_regular
from claprt.audio_source import MAX_RATE, MIN_RATE, AudioSource, shown
from claprt.errors import AudioError

AudioInput = str | os.PathLike[str] | np.ndarray[Any, Any] | BinaryIO


def open_audio(clip: AudioInput, sampling_rate: int | None = None, default_rate: int = 48_000) -> AudioSource:
    """Open a sound for reading.

    Args:
        clip: a path; a binary, seekable file object, read from its current position and never closed; or an array,
            (samples,) or (samples, channels), floats of ±1 or int8/uint8/int16/int32 at full scale.
        sampling_rate: Hz of an array. Files carry their own rate: for them it is checked but not used.
        default_rate: Hz of an array when `sampling_rate` is None.

    Returns:
        An `AudioSource`, a context manager: `with` closes the files that were opened here.

    Raises:
        AudioNotFoundError: the path does not exist or is not a regular file.
        AudioError: everything else that keeps this from being a sound; problems inside the sound are raised by
            `AudioSource.blocks`.
    """
    rate = _checked_rate(sampling_rate, default_rate)
    if isinstance(clip, np.ndarray):
        return ArraySource(clip, rate)
    if isinstance(clip, (str, os.PathLike)):
        path = os.fsdecode(os.fspath(clip))
        return _open_file(path, open_regular(path), owned=True)
    if isinstance(clip, (bytes, bytearray, memoryview)):
        raise AudioError(
            f"a clip of type {type(clip).__name__} ({len(clip)} bytes) is ambiguous; "
            "wrap a file's content in io.BytesIO, or pass a path as str"
        )
    if hasattr(clip, "read"):
        name, file = _checked_file(clip)
        return _open_file(name, file, owned=False)
    raise AudioError(
        f"a clip of type {type(clip).__name__} is not a sound; pass a path, a binary file, or an array "
        "(np.asarray(x, dtype=np.float32))"
    )


def _checked_rate(sampling_rate: object, default: int) -> int:
    if sampling_rate is None:
        return default
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, (int, np.integer)):
        raise AudioError(f"sampling_rate is {shown(sampling_rate)}, not an integer; pass Hz, e.g. 48000")
    rate = int(sampling_rate)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"sampling_rate is {rate}, outside {MIN_RATE} … {MAX_RATE}; pass Hz, e.g. 48000")
    return rate


def _checked_file(file: Any) -> tuple[str, BinaryIO]:
    """The name of a file object that can be decoded, and the object; AudioError with the fix otherwise."""
    name = getattr(file, "name", None)
    name = os.fsdecode(name) if isinstance(name, (str, bytes)) else f"a {type(file).__name__}"
    if getattr(file, "closed", False):
        raise AudioError(f"{shown(name)} is a closed file; pass an open one, or its path")
    try:
        text = isinstance(file, io.TextIOBase) or isinstance(file.read(0), str)
        if text:
            raise AudioError(f"{shown(name)} is opened in text mode; open it with mode 'rb'")
        if not file.seekable():
            raise AudioError(f"{shown(name)} is not seekable; pass io.BytesIO(f.read())")
        here = file.tell()
        size = file.seek(0, os.SEEK_END) - here
        file.seek(here)
    except AudioError:
        raise
    except Exception as error:  # whatever a user's object does: write-only, no seekable(), no tell()
        raise AudioError(
            f"{shown(name)} is not a readable, seekable binary file ({type(error).__name__}); pass io.BytesIO(f.read())"
        ) from error
    if size <= 0:
        raise AudioError(f"{shown(name)} has 0 bytes after its position {here}; rewind it with f.seek(0)")
    return name, file


def _open_file(name: str, file: BinaryIO, *, owned: bool) -> AudioSource:
    """Try libsndfile first, PyAV for what it does not recognise. An owned file is closed when neither can use it."""
    here = file.tell()
    try:
        try:
            return SoundFileSource(name, file, owned=owned)
        except UnrecognisedError as unrecognised:
            file.seek(here)
            try:
                from claprt.audio_av import AvSource

                return AvSource(name, file, owned=owned)
            except ImportError:
                raise AudioError(
                    f"{shown(name)} is not a format that libsndfile reads ({unrecognised}); if it is a sound, "
                    "pip install 'claprt[av]' for m4a, mp4, webm and more"
                ) from unrecognised
    except BaseException:
        if owned:
            file.close()
        raise


__all__ = ["AudioInput", "AudioSource", "open_audio"]
