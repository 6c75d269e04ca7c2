"""Constant layouts of a Swin stage: token orders, the shift mask, relative positions, the time stretch.

The deployment tower keeps the tokens of a stage in *window order*: all tokens of window 0, then all of window 1, and so
on. Every change of layout (into windows, shift, un-shift, 2x2 merge) is then one gather with an index computed here,
and window partition, reverse and cyclic roll disappear from the graph.

A token order is an int64 array `order` with `order[k]` = row-major grid index of the k-th token.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Order = NDArray[np.int64]

# Added to the score of a masked pair. Its exponential is exactly 0 (transformers' -100 leaves 4e-44, a subnormal that
# makes the following product several times slower on x86), and it fits into half precision.
MASKED = -1.0e4


def row_major(height: int, width: int) -> Order:
    """The order of a flattened grid, (height * width,)."""
    return np.arange(height * width, dtype=np.int64)


def window_order(height: int, width: int, window: int, shift: int) -> Order:
    """Tokens of a (height, width) grid, window after window, on the grid rolled by (-shift, -shift)."""
    grid = np.roll(row_major(height, width).reshape(height, width), (-shift, -shift), axis=(0, 1))
    windows = grid.reshape(height // window, window, width // window, window)
    return windows.transpose(0, 2, 1, 3).reshape(-1)


def gather_index(current: Order, wanted: Order) -> Order:
    """The index that brings tokens from the order `current` into the order `wanted`."""
    position = np.empty_like(current)
    position[current] = np.arange(len(current))
    return position[wanted]


def merge_order(height: int, width: int, wanted: Order) -> Order:
    """The four tokens that 2x2 patch merging joins, for each merged token in the order `wanted`.

    Returns (4 * len(wanted),) row-major indices of the unmerged grid; of one merged token the four come in Swin's order
    (0, 0), (1, 0), (0, 1), (1, 1) as (row, column).
    """
    grid = row_major(height, width).reshape(height, width)
    parts = [grid[row::2, column::2].reshape(-1) for column in range(2) for row in range(2)]
    return np.stack(parts, axis=1)[wanted].reshape(-1)


def shift_mask(height: int, width: int, window: int, shift: int) -> NDArray[np.float32]:
    """What shifted-window attention adds to the scores, (windows, window^2, window^2): 0, or `MASKED`.

    Two tokens of a window may attend to each other only when they lie in the same region of the unrolled grid (Liu et
    al. 2021, "Swin Transformer", section 3.2). A rolled axis has three regions, cut at -window and -shift.
    """

    def regions(length: int) -> NDArray[np.int64]:
        place = np.arange(length)
        return (place >= length - window).astype(np.int64) + (place >= length - shift)

    region = regions(height)[:, None] * 3 + regions(width)[None, :]
    in_windows = region.reshape(-1)[window_order(height, width, window, shift=0)].reshape(-1, window * window)
    same = in_windows[:, :, None] == in_windows[:, None, :]
    return np.where(same, np.float32(0), np.float32(MASKED))


def relative_position_index(window: int) -> NDArray[np.int64]:
    """Row of the bias table for each pair of tokens of a window, (window^2, window^2)."""
    rows, columns = (axis.reshape(-1) for axis in np.indices((window, window)))
    row_offset = rows[:, None] - rows[None, :] + window - 1
    column_offset = columns[:, None] - columns[None, :] + window - 1
    return row_offset * (2 * window - 1) + column_offset


def bicubic_matrix(length_in: int, length_out: int) -> torch.Tensor:
    """Bicubic interpolation along one axis (align_corners) as a matrix, (length_out, length_in) float32."""
    identity = torch.eye(length_in)[None, None]
    stretched = torch.nn.functional.interpolate(
        identity, size=(length_out, length_in), mode="bicubic", align_corners=True
    )
    return stretched[0, 0]
