"""Sample-rate conversion of a stream of mono blocks (soxr, quality "HQ").

One stream object sees the whole sound, so the result does not depend on where the blocks are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


def resampled_length(samples: int, in_rate: int, out_rate: int) -> int:
    """Samples after conversion: samples·out_rate/in_rate rounded half up, at least 1 for a sound that has samples."""
    if samples == 0:
        return 0
    return max(1, (2 * samples * out_rate + in_rate) // (2 * in_rate))


def resample_blocks(
    blocks: Iterable[NDArray[np.float32]], in_rate: int, out_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Convert mono blocks from one rate to another.

    Args:
        blocks: float32 (k,) arrays of any length, together one sound.
        in_rate, out_rate: Hz, positive.

    Yields:
        float32 (m,) arrays, none empty, together exactly `resampled_length` samples. Equal rates pass the blocks on
        untouched (and need no soxr).
    """
    if in_rate == out_rate:
        yield from (block for block in blocks if block.size)
        return
    import soxr  # here, because sounds at the model's rate do not need it

    stream = soxr.ResampleStream(in_rate, out_rate, 1, dtype="float32", quality="HQ")
    taken = given = 0
    for block in blocks:
        taken += block.size
        out = stream.resample_chunk(np.ascontiguousarray(block), last=False)
        given += out.size
        if out.size:
            yield out
    if not taken:
        return
    # soxr rounds the total by itself; pin it, so that the length is a function of the input alone.
    missing = max(0, resampled_length(taken, in_rate, out_rate) - given)
    tail = stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)[:missing]
    if tail.size < missing:
        tail = np.concatenate([tail, np.zeros(missing - tail.size, dtype=np.float32)])
    if tail.size:
        yield tail
