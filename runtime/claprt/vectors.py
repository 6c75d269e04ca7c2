"""Vectors on disk, with their names and the id of the space they live in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.errors import BundleError, OptionError
from claprt.files import open_regular, write_whole

_FIX = "write one with `claprt embed`"
# Of a compressed archive: what may be unpacked at any rate, and how much more than was packed.
_UNPACKED_BYTES = 1 << 28
_UNPACKED_RATIO = 16


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Named vectors of one embedding space.

    Attributes:
        names: (n,) what each vector is of: a path, or a text.
        vectors: (n, dim) float32 of unit length; other real numbers become float32.
        space_id: the space; vectors of different spaces must not be compared.

    Raises:
        OptionError: the fields are not of these types or do not belong together, a number is not finite, or a name has
            a NUL character, which an archive would lose.
    """

    names: Sequence[str]
    vectors: NDArray[np.float32]
    space_id: str

    def __post_init__(self) -> None:
        names, vectors = texts(self.names, "names"), matrix(self.vectors, "vectors")
        if vectors.ndim != 2 or len(names) != len(vectors):
            raise OptionError(
                f"names and vectors do not belong together: {len(names)} names, vectors of shape {vectors.shape}; "
                "expected (n, dim)"
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "space_id", one_text(self.space_id, "space_id"))

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
        BundleError: the file is missing, is not a regular file, or is not such an archive.
    """
    found = read_archive(path, "an archive of vectors", ("names", "vectors", "space_id"), _FIX)
    names, vectors, space_id = found["names"], found["vectors"], found["space_id"]
    shapes_fit = vectors.ndim == 2 and names.shape == vectors.shape[:1] and space_id.shape == ()
    if not shapes_fit or vectors.dtype != np.float32 or names.dtype.kind != "U" or space_id.dtype.kind != "U":
        raise BundleError(
            f"not an archive of vectors: {path}: names {names.shape} {names.dtype}, vectors {vectors.shape} "
            f"{vectors.dtype}, space_id {space_id.shape} {space_id.dtype}; {_FIX}"
        )
    try:
        return Embeddings([str(name) for name in names], vectors, str(space_id))
    except OptionError as error:
        raise BundleError(f"not an archive of vectors: {path}: {error}") from error


def texts(values: Sequence[str], what: str) -> list[str]:
    """A list of strings that an archive keeps as they are.

    Raises:
        OptionError: it is something else, or a NUL is in one.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise OptionError(f"{what} are not a list of strings: {type(values).__name__}; pass a list")
    return [one_text(value, f"{what}[{index}]") for index, value in enumerate(values)]


def one_text(value: str, what: str) -> str:
    """A string that an archive keeps as it is.

    Raises:
        OptionError: it is something else, or a NUL is in it.
    """
    if not isinstance(value, str):
        raise OptionError(f"{what} is not a string: {type(value).__name__}; pass a str")
    if "\0" in value:
        raise OptionError(f"a NUL character in {what}: {value[:80]!r}; leave it out")
    return str(value)


def matrix(values: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    """Finite numbers as float32, row by row in memory.

    Raises:
        OptionError: they are no numbers, rows differ in length, or one is not finite.
    """
    try:
        given = np.asarray(values)
    except Exception as error:  # rows of different lengths; whatever an object's own conversion raises
        raise OptionError(f"{what} are no array: {type(values).__name__}; pass an array of float32") from error
    if given.dtype.kind not in "fiu":
        raise OptionError(f"{what} are not real numbers: {given.dtype}; pass an array of float32")
    with np.errstate(over="ignore"):
        result = np.asarray(given, dtype=np.float32, order="C")
    if not np.isfinite(result).all():
        place = np.argwhere(~np.isfinite(result))[0].tolist()
        bad = f"{result[tuple(place)]} at {place}"
        raise OptionError(f"a value of {what} is not a finite number in float32: {bad}; compute them again")
    return result


def read_archive(
    path: str | os.PathLike[str], what: str, wanted: Sequence[str], fix: str, most_bytes: int | None = None
) -> dict[str, NDArray[Any]]:
    """Arrays of a NumPy archive, by name. Nothing in the file is executed.

    Args:
        path: of the file.
        what: what messages call it.
        wanted: names of the arrays, all of which must be there.
        fix: the end of messages.
        most_bytes: that the file may have; None for any number.

    Raises:
        BundleError: the file is missing, is not a regular file, or is not such an archive.
    """
    try:
        with open_regular(path, most_bytes) as stream, np.load(stream, allow_pickle=False) as archive:
            _check_unpacked(archive, os.fstat(stream.fileno()).st_size)
            return {name: archive[name] for name in wanted}
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        raise BundleError(f"not {what}: {path}: {reason}; {fix}") from error
    except Exception as error:  # a damaged archive: whatever zipfile, zlib and NumPy raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BundleError(f"not {what}: {path}: {reason}; {fix}") from error


def _check_unpacked(archive: Any, packed: int) -> None:
    """Check that a small file does not unpack to what fills the memory. Archives of claprt are not compressed."""
    unpacked = sum(member.file_size for member in archive.zip.infolist())
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_RATIO * packed):
        raise ValueError(f"its {packed} bytes unpack to {unpacked}")


def write_archive(path: str | os.PathLike[str], what: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a NumPy archive that appears whole or not at all.

    Args:
        path: taken as it is: no suffix is appended.
        what: what error messages call it.
        arrays: by name; none of objects.

    Raises:
        OptionError: the file cannot be written.
    """
    write_whole(path, what, lambda stream: np.savez(stream, **dict[str, Any](arrays)))
