"""The protocol of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # to list the backends' names takes no NumPy
    import numpy as np
    from numpy.typing import NDArray


class Engine(Protocol):
    """One tower, ready to run. Engines are thread-safe unless their module says otherwise."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        ...

    @property
    def lanes(self) -> int:
        """How many runs side by side, each through `lane`, take less time than one after another; 1 if that is none."""
        ...

    def lane(self) -> Engine:
        """The same tower for runs side by side, `lanes` at a time: the same vectors to the bit. Kept once it is made.

        Raises:
            BundleError: as when the engine was made.
        """
        ...

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            inputs: every input by name, C-contiguous, in the dtypes of the bundle format: `input_features`
                (batch, channels, frames, mels) float32, `is_longer` (batch, 1) bool; or `input_ids` and
                `attention_mask` (batch, tokens) int64.

        Returns:
            (batch, dim) float32 rows of unit length, a new array that the caller owns.

        Raises:
            BackendError: the engine failed; the message carries its reason.
            BundleError: the file is not a graph of this tower, where that is found out when it first runs.
        """
        ...
