"""A bundle on disk: find it, read its manifest, hand out its files only after their hashes were checked."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from claprt.errors import BundleError, BundleNotFoundError
from claprt.manifest import MANIFEST_FILE, MANIFEST_MAX_BYTES, FileEntry, Manifest, parse_manifest

_REBUILD = "copy the bundle again, or build it again with `claprt build`"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its directory and its parsed manifest."""

    path: Path
    manifest: Manifest

    def located(self, entry: FileEntry) -> Path:
        """The path of a file of the bundle, after its size was found to be what the manifest says.

        Raises:
            BundleError: the file is missing, is not a regular file, lies outside the bundle (a symbolic link), or its
                size differs.
        """
        path = self.path / entry.file
        try:
            inside = path.resolve(strict=True).is_relative_to(self.path.resolve(strict=True))
            is_file = path.is_file()
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise BundleError(f"a file of the bundle is missing: {path}; {_REBUILD}") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links before Python 3.13
            raise BundleError(f"a file of the bundle cannot be read: {path}: {error}; {_REBUILD}") from error
        if not inside:
            raise BundleError(f"a file of the bundle lies outside it: {path} -> {path.resolve()}; {_REBUILD}")
        if not is_file:
            raise BundleError(f"a file of the bundle is not a regular file: {path}; {_REBUILD}")
        if size != entry.bytes:
            raise BundleError(f"wrong size: {path}: {size} bytes, the manifest says {entry.bytes}; {_REBUILD}")
        return path

    def verified(self, entry: FileEntry) -> Path:
        """The path of a file of the bundle, after its size and SHA-256 were found to be what the manifest says.

        Raises:
            BundleError: as `located`, or the hash differs.
        """
        path = self.located(entry)
        try:
            found = sha256_file(path)
        except OSError as error:
            raise BundleError(f"a file of the bundle cannot be read: {path}: {error}; {_REBUILD}") from error
        if found != entry.sha256:
            raise BundleError(f"wrong hash: {path}: sha256 {found}, the manifest says {entry.sha256}; {_REBUILD}")
        return path


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open the bundle directory `path` and read its manifest. Files are checked when they are used.

    Raises:
        BundleNotFoundError: no such directory, or no manifest in it.
        BundleError: the manifest cannot be read or is not valid.
    """
    try:
        directory = Path(path)
    except TypeError as error:
        raise BundleNotFoundError(f"no bundle here: {path!r} is no path; pass a bundle's directory") from error
    hint = "build one with `claprt build SOURCE -o BUNDLE`"
    file = directory / MANIFEST_FILE
    try:
        if not directory.is_dir():
            what = "not a directory" if directory.exists() else "no such directory"
            raise BundleNotFoundError(f"no bundle here: {directory}: {what}; {hint}")
        if not file.is_file():
            raise BundleNotFoundError(f"no bundle here: {directory}: it has no {MANIFEST_FILE}; {hint}")
        with file.open("rb") as stream:
            data = stream.read(MANIFEST_MAX_BYTES + 1)
    except BundleNotFoundError:  # an OSError too
        raise
    except OSError as error:  # permissions, a name that is too long, a failing disk
        raise BundleError(
            f"the manifest cannot be read: {file}: {error.strerror}; check the path and its permissions"
        ) from error
    return Bundle(directory, parse_manifest(data, str(file)))


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
