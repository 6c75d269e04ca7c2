"""Vectors on disk, with their names and the id of the space they live in."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.errors import BundleError, OptionError


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Named vectors of one embedding space.

    Attributes:
        names: (n,) what each vector is of: a path, or a text.
        vectors: (n, dim) float32 of unit length.
        space_id: the space; vectors of different spaces must not be compared.
    """

    names: Sequence[str]
    vectors: NDArray[np.float32]
    space_id: str

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.names) != len(self.vectors):
            raise OptionError(
                f"names and vectors do not belong together: {len(self.names)} names, vectors of shape "
                f"{self.vectors.shape}; expected (n, dim)"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a NumPy archive with the arrays `names`, `vectors`, `space_id`. It appears whole or not at all.

        Raises:
            OptionError: the file cannot be written.
        """
        write_archive(
            path,
            "the vectors",
            {
                "names": np.array(self.names, dtype=np.str_),
                "vectors": self.vectors,
                "space_id": np.array(self.space_id),
            },
        )


def load_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """Read what `Embeddings.save` wrote. Nothing in the file is executed.

    Raises:
        BundleError: the file is missing or is not such an archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names, vectors, space_id = archive["names"], archive["vectors"], archive["space_id"]
    except Exception as error:  # a damaged archive: whatever zipfile, zlib and NumPy raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"not an archive of vectors: {path}: {reason}; write one with `claprt embed`") from error
    shapes_fit = vectors.ndim == 2 and names.shape == vectors.shape[:1] and space_id.shape == ()
    if not shapes_fit or vectors.dtype != np.float32 or names.dtype.kind != "U" or space_id.dtype.kind != "U":
        raise BundleError(
            f"not an archive of vectors: {path}: names {names.shape} {names.dtype}, vectors {vectors.shape} "
            f"{vectors.dtype}, space_id {space_id.shape} {space_id.dtype}; write one with `claprt embed`"
        )
    return Embeddings([str(name) for name in names], vectors, str(space_id))


def write_archive(path: str | os.PathLike[str], what: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a NumPy archive that appears whole or not at all.

    Args:
        path: taken as it is: no suffix is appended.
        what: what error messages call it.
        arrays: by name; none of objects.

    Raises:
        OptionError: the file cannot be written.
    """
    target = Path(path)
    # The name is known before the file is there: a signal at any moment must not leave it behind.
    temporary = target.parent / f".claprt-{secrets.token_hex(8)}"
    try:
        if target.exists() and not target.is_file():  # a directory; a device or a pipe would be replaced
            raise OptionError(f"{what} cannot be written: {target}: not a regular file; choose another path")
        with temporary.open("xb") as stream:
            np.savez(stream, **dict[str, Any](arrays))
        temporary.replace(target)
    except OSError as error:
        raise OptionError(f"{what} cannot be written: {target}: {error.strerror}; choose another path") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
