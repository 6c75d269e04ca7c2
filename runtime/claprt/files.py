"""Files that are read: only regular ones, of at most so many bytes. Files that are written: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from claprt.errors import OptionError

StrPath = str | os.PathLike[str]

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def open_regular(path: StrPath, most_bytes: int | None = None) -> BinaryIO:
    """Open a file for reading. It never blocks: a FIFO or a device, which may never end, is not opened.

    Args:
        path: of the file; links are followed.
        most_bytes: that it may have; None for any number.

    Raises:
        OSError: it cannot be opened, is not a regular file or has more bytes; `strerror` says which, in one line.
    """
    try:
        _check_regular(os.stat(path).st_mode, path)  # noqa: PTH116 (any string may be a path)
        # Between the two it may have become a FIFO.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        stream = open(os.open(path, flags), "rb")  # noqa: PTH123, SIM115 (closed by the caller)
    except FileNotFoundError as error:
        if os.fspath(path) == "-":
            raise OSError(errno.ENOENT, "no such file, and standard input is not read", "-") from error
        raise
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from error
    try:
        status = os.fstat(stream.fileno())
        _check_regular(status.st_mode, path)
        if most_bytes is not None and status.st_size > most_bytes:
            limit = f"{most_bytes >> 20} MiB" if most_bytes >= 1 << 20 else f"{most_bytes} bytes"
            raise OSError(errno.EFBIG, f"more than {limit}", os.fspath(path))
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: StrPath, most_bytes: int) -> bytes:
    """The bytes of a file. Arguments and errors as `open_regular`."""
    with open_regular(path, most_bytes) as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:  # it grew meanwhile, or it is one of those in /proc
        raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", os.fspath(path))
    return data


def check_target(path: StrPath, what: str) -> Path:
    """Find out, before hours of work, whether a file can be written.

    Args:
        path: that will be written or replaced.
        what: what messages call it: "the vectors".

    Returns:
        Where the file is: of a link, what it points to.

    Raises:
        OptionError: it is there and is not a regular file, or its directory is not there or cannot be written.
    """
    cannot = f"{what} cannot be written: {path}"
    try:
        real = Path(os.path.realpath(path))
        mode = _mode(real)
        if mode is not None and stat.S_ISDIR(mode):
            raise OptionError(f"{cannot}: it is a directory; name a file in it")
        if mode is not None and not stat.S_ISREG(mode):
            raise OptionError(f"{cannot}: {_kind(mode)}, not a regular file; choose another path")
        parent = _mode(real.parent)
        if parent is None:
            raise OptionError(f"{cannot}: there is no directory {real.parent}; make it, or choose another path")
        if not stat.S_ISDIR(parent):
            raise OptionError(f"{cannot}: {real.parent} is not a directory; choose another path")
        if not os.access(real.parent, os.W_OK | os.X_OK):
            raise OptionError(f"{cannot}: no permission to write in {real.parent}; choose another path")
    except OptionError:
        raise  # a ValueError too
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        raise OptionError(f"{cannot}: {getattr(error, 'strerror', None) or error}; choose another path") from error
    return real


def check_outputs(outputs: Iterable[tuple[str, StrPath | None]], inputs: Iterable[StrPath]) -> None:
    """Check that no file that will be written is one that is read, or another one that will be written.

    Args:
        outputs: options and their files, None for one that was not given.
        inputs: files that are read; those that are not there do not matter. Not gone through without need.

    Raises:
        OptionError: two of them are the same file, by whatever names.
    """
    written: dict[tuple[object, ...], tuple[str, StrPath]] = {}
    for option, path in outputs:
        if path is None:
            continue
        key = _identity(path)
        if key in written:
            raise OptionError(
                f"{written[key][0]} and {option} are the same file: {path}; choose another path for one of them"
            )
        written[key] = option, path
    there = {key: said for key, said in written.items() if os.path.exists(said[1])}  # noqa: PTH110
    if not there:
        return
    for path in inputs:
        found = there.get(_identity(path))
        if found is not None:
            also = "" if os.fspath(path) == os.fspath(found[1]) else f", which is {path}"
            raise OptionError(
                f"{found[0]} would replace what is read: {found[1]}{also}; choose another path for {found[0]}"
            )


def write_whole(path: StrPath, what: str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears whole or not at all. A link stays one, and a file that is replaced keeps its mode.

    Args:
        path: taken as it is: no suffix is appended.
        what: what messages call it.
        write: writes the content.

    Raises:
        OptionError: as `check_target`, or the disk is full, ...
    """
    target = check_target(path, what)
    # The name is known before the file is there: a signal at any moment must not leave it behind.
    temporary = target.parent / f".claprt-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as stream:
            mode = _mode(target)
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(stream.fileno(), stat.S_IMODE(mode))
            write(stream)
        temporary.replace(target)
    except OSError as error:
        raise OptionError(f"{what} cannot be written: {path}: {error.strerror}; choose another path") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _identity(path: StrPath) -> tuple[object, ...]:
    """What is equal for two paths of one file, be it there or not."""
    try:
        status = os.stat(path)  # noqa: PTH116
        return status.st_dev, status.st_ino
    except (OSError, ValueError):  # ValueError: a NUL in it
        pass
    try:
        folder, name = os.path.split(os.path.realpath(path))
        status = os.stat(folder)  # noqa: PTH116
    except (OSError, ValueError):
        return (os.fspath(path),)
    return status.st_dev, status.st_ino, name


def _mode(path: Path) -> int | None:
    """None where there is nothing."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_regular(mode: int, path: StrPath) -> None:
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        pipes = "" if stat.S_ISDIR(mode) else " (pipes and standard input are not read)"
        raise OSError(number, f"it is {_kind(mode)}, not a regular file{pipes}", os.fspath(path))


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device")
