"""The constant layouts against transformers' own functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.clap import modeling_clap as reference

from claprt_export import layout

GRIDS = [(16, 16, 8), (32, 32, 8), (8, 8, 8), (8, 16, 4)]


@pytest.mark.parametrize(("height", "width", "window"), GRIDS)
@pytest.mark.parametrize("shifted", [False, True])
def test_window_order_is_roll_and_partition(height: int, width: int, window: int, shifted: bool) -> None:
    shift = window // 2 if shifted else 0
    grid = torch.arange(height * width).reshape(1, height, width, 1)
    expected = reference.window_partition(torch.roll(grid, (-shift, -shift), (1, 2)), window).flatten()
    np.testing.assert_array_equal(layout.window_order(height, width, window, shift), expected.numpy())


@pytest.mark.parametrize(("height", "width", "window"), GRIDS)
def test_shift_mask_masks_the_same_pairs(height: int, width: int, window: int) -> None:
    """Same pairs as transformers; and e^mask is exactly 0, where -100 would leave a subnormal."""
    config = reference.ClapAudioConfig(window_size=window, patch_embeds_hidden_size=16)
    layer = reference.ClapAudioLayer(config, 16, (height, width), 2, shift_size=window // 2)
    expected = layer.get_attn_mask(height, width, torch.float32, torch.device("cpu"))
    mask = layout.shift_mask(height, width, window, window // 2)
    np.testing.assert_array_equal(mask != 0, expected.numpy() != 0)
    assert np.all(np.exp(mask[mask != 0]) == 0.0)
    assert np.isfinite(mask.astype(np.float16)).all()


@pytest.mark.parametrize("window", [4, 7, 8])
def test_relative_position_index(window: int) -> None:
    attention = reference.ClapAudioSelfAttention(reference.ClapAudioConfig(), 16, 2, window)
    np.testing.assert_array_equal(
        layout.relative_position_index(window), attention.create_relative_position_index().numpy()
    )


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 32)])
def test_merge_order_is_patch_merging(height: int, width: int) -> None:
    """Gathered tokens, four side by side, are what transformers concatenates before its reduction."""
    merging = reference.ClapAudioPatchMerging(dim=1)
    seen: list[torch.Tensor] = []
    merging.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    merging(torch.arange(height * width, dtype=torch.float32).reshape(1, -1, 1), (height, width))
    order = layout.merge_order(height, width, layout.row_major(height // 2, width // 2))
    np.testing.assert_array_equal(order.reshape(-1, 4), seen[0][0].long().numpy())


def test_gather_index_changes_one_order_into_another() -> None:
    rng = np.random.default_rng(0)
    current, wanted = rng.permutation(64), rng.permutation(64)
    np.testing.assert_array_equal(current[layout.gather_index(current, wanted)], wanted)


@pytest.mark.parametrize(("length_in", "length_out"), [(1001, 1024), (900, 2048), (60, 64)])
def test_bicubic_matrix_is_interpolate(length_in: int, length_out: int) -> None:
    x = torch.randn(2, 1, length_in, 5)
    expected = torch.nn.functional.interpolate(x, (length_out, 5), mode="bicubic", align_corners=True)
    matrix = layout.bicubic_matrix(length_in, length_out)
    torch.testing.assert_close(torch.matmul(matrix, x), expected, atol=1e-5, rtol=1e-5)
    assert int((matrix != 0).sum(dim=1).max()) <= 4
