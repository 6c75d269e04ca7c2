"""A linear head on vectors: classes learned from labelled sounds, as `claprt eval --task probe` saves them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from claprt.errors import BundleError, OptionError, SpaceMismatchError
from claprt.vectors import Embeddings, matrix, one_text, read_archive, texts, write_archive

FORMAT = "claprt-head"
SCHEMA_VERSION = 1
_MAX_BYTES = 1 << 30
_FIELDS = ("format", "schema_version", "classes", "weights", "bias", "space_id", "trained")
_FIX = "write one with `claprt eval --task probe --save-head`"


class ClassProbability(NamedTuple):
    """One class's score for one sound.

    Attributes:
        label: the class.
        probability: softmax over the head's classes, 0..1.
    """

    label: str
    probability: float


@dataclass(frozen=True, eq=False)
class Head:
    """Multinomial logistic regression on vectors of one embedding space: softmax(weights · vector + bias).

    Attributes:
        classes: (n,) distinct names, n >= 2.
        weights: (n, dim) float32.
        bias: (n,) float32.
        space_id: the space of the vectors that it was trained on; it means nothing in another.
        trained: on what and how, for people.

    Raises:
        OptionError: the fields are not of these types or do not belong together, or a number is not finite.
    """

    classes: Sequence[str]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    space_id: str
    trained: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", texts(self.classes, "classes"))
        object.__setattr__(self, "weights", matrix(self.weights, "weights"))
        object.__setattr__(self, "bias", matrix(self.bias, "bias"))
        object.__setattr__(self, "space_id", one_text(self.space_id, "space_id"))
        object.__setattr__(self, "trained", one_text(self.trained, "trained"))
        count = len(self.classes)
        if self.weights.ndim != 2 or len(self.weights) != count or self.bias.shape != (count,):
            raise OptionError(
                f"classes, weights and bias do not belong together: {count} classes, weights of shape "
                f"{self.weights.shape}, bias of shape {self.bias.shape}; expected (n, dim) and (n,)"
            )
        if count < 2 or len(set(self.classes)) != count or not all(self.classes):
            raise OptionError(f"the classes of a head must be two or more different names: {list(self.classes)[:5]}")

    @property
    def dim(self) -> int:
        """Length of the vectors that it takes."""
        return int(self.weights.shape[1])

    def probabilities(self, vectors: NDArray[np.float32] | Embeddings) -> NDArray[np.float64]:
        """The classes' probabilities.

        Args:
            vectors: (n, dim) of unit length, from the model that the head was trained on. Of `Embeddings` the space is
                checked, of an array only the length.

        Returns:
            (n, classes) float64, rows add up to 1.

        Raises:
            SpaceMismatchError: vectors of another space or length.
            OptionError: they are no vectors of finite numbers.
        """
        if isinstance(vectors, Embeddings):
            self.check_space(vectors.space_id)
            vectors = vectors.vectors
        given = matrix(vectors, "vectors").astype(np.float64)
        if given.ndim != 2 or given.shape[1] != self.dim:
            raise SpaceMismatchError(f"the head takes vectors (n, {self.dim}); the shape is {given.shape}")
        logits = given @ self.weights.T.astype(np.float64) + self.bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
        return result

    def classify(self, vectors: NDArray[np.float32] | Embeddings) -> list[list[ClassProbability]]:
        """For each vector all classes, most probable first.

        Args:
            vectors: as `probabilities`.

        Raises:
            SpaceMismatchError, OptionError: as `probabilities`.
        """
        return [
            [ClassProbability(self.classes[column], float(row[column])) for column in np.argsort(-row, kind="stable")]
            for row in self.probabilities(vectors)
        ]

    def check_space(self, space_id: str) -> None:
        """Check that vectors of a space may be given to this head.

        Raises:
            SpaceMismatchError: it was trained on another space.
        """
        if space_id != self.space_id:
            raise SpaceMismatchError(
                f"the head was trained on vectors of another space: {self.space_id}, these are of {space_id}; use the "
                "bundle that it was trained with, or train it again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a NumPy archive with the fields as arrays. It appears whole or not at all.

        Raises:
            OptionError: the file cannot be written.
        """
        write_archive(
            path,
            "the head",
            {
                "format": np.array(FORMAT),
                "schema_version": np.array(SCHEMA_VERSION),
                "classes": np.array(self.classes, dtype=np.str_),
                "weights": self.weights,
                "bias": self.bias,
                "space_id": np.array(self.space_id),
                "trained": np.array(self.trained),
            },
        )


def load_head(path: str | os.PathLike[str]) -> Head:
    """Read what `Head.save` wrote. Nothing in the file is executed.

    Raises:
        BundleError: the file is missing, is not a regular file, is not a head, or is one of another version.
    """
    found = read_archive(path, "a head", _FIELDS, _FIX, _MAX_BYTES)
    for name in ("format", "space_id", "trained"):
        if found[name].shape != () or found[name].dtype.kind != "U":
            raise BundleError(f"not a head: {path}: {name} is {found[name].dtype} {found[name].shape}; {_FIX}")
    version = found["schema_version"]
    if str(found["format"]) != FORMAT or version.shape != () or version.dtype.kind != "i":
        raise BundleError(f"not a head: {path}: its format is {str(found['format'])[:40]!r}; {_FIX}")
    if int(version) != SCHEMA_VERSION:
        raise BundleError(
            f"a head of another version: {path}: schema {int(version)}, this claprt reads {SCHEMA_VERSION}; {_FIX}"
        )
    classes, weights, bias = found["classes"], found["weights"], found["bias"]
    if classes.ndim != 1 or classes.dtype.kind != "U" or weights.dtype != np.float32 or bias.dtype != np.float32:
        raise BundleError(
            f"not a head: {path}: classes {classes.shape} {classes.dtype}, weights {weights.shape} {weights.dtype}, "
            f"bias {bias.shape} {bias.dtype}; {_FIX}"
        )
    try:
        names = [str(name) for name in classes]
        return Head(names, weights, bias, str(found["space_id"]), str(found["trained"]))
    except OptionError as error:
        raise BundleError(f"not a head: {path}: {error}") from error
