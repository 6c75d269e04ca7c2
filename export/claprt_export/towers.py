"""The deployment towers: what is exported. They take the weights of a `ClapModel` and compute the same function.

Differences from the modules in transformers are in how, not in what:

- Tokens stay in window order through a Swin stage; each change of layout is one gather with a constant index.
- 1/sqrt(d) is folded into Q, the bias of V into the attention's output; K needs none. The relative-position bias and
  the shift mask are one constant per block.
- BatchNorm over mel bins is an affine; the bicubic stretch from 1001 to 1024 frames weighs four gathered frames;
  BatchNorms of the fusion block are folded into its 1x1 convolutions, which are products on tokens.
- Fusion has no branch: the fused embedding is computed for every clip and `is_longer` selects per clip.
- The text tower computes only the first token in its last layer, since the pooler reads nothing else.
- Outputs have unit length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from claprt_export import layout
from claprt_export.layout import MASKED, Order


def affine_of_batch_norm(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift, (channels,) each, of a BatchNorm in evaluation mode. Computed in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return scale.float(), shift.float()


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear layer with copies of the given weights, (out, in) and (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def attention_inputs(attention: Any, output: nn.Linear) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
    """Q, K, V and output layers of an attention, with 1/sqrt(head_dim) folded into Q and no bias on K and V.

    Softmax does not see what K's bias adds, the same to every score of a row. Its rows add up to one, so V's bias comes
    out of the attention unchanged, and joins the output's. Folded in float64.
    """
    query, key, value = attention.query, attention.key, attention.value
    scale = attention.attention_head_size**-0.5
    bias = output.bias
    if value.bias is not None:
        bias = (output.bias.double() + output.weight.double() @ value.bias.double()).float()
    return (
        linear_of(query.weight * scale, None if query.bias is None else query.bias * scale),
        linear_of(key.weight, None),
        linear_of(value.weight, None),
        linear_of(output.weight, bias),
    )


class Projection(nn.Module):
    """Two Linear layers into the shared space, then unit length: (batch, hidden) -> (batch, dim)."""

    def __init__(self, projection: Any) -> None:
        super().__init__()
        self.linear1, self.activation, self.linear2 = projection.linear1, projection.activation, projection.linear2

    def forward(self, hidden: Tensor) -> Tensor:
        """Project and normalise as `torch.nn.functional.normalize` does, epsilon included."""
        x = self.linear2(self.activation(self.linear1(hidden)))
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)


class WindowBlock(nn.Module):
    """One Swin block on tokens that are already in its window order: (batch, tokens, dim) -> same."""

    def __init__(self, block: Any, grid: tuple[int, int], window: int, shift: int) -> None:
        super().__init__()
        attention = block.attention.self
        self.heads: int = attention.num_attention_heads
        self.head_dim: int = attention.attention_head_size
        self.window_tokens = window * window
        self.windows = grid[0] * grid[1] // self.window_tokens
        self.shifted = shift > 0
        self.norm1, self.norm2 = block.layernorm_before, block.layernorm_after
        self.q, self.k, self.v, self.out = attention_inputs(attention, block.attention.output.dense)
        self.up, self.activation = block.intermediate.dense, block.intermediate.intermediate_act_fn
        self.down = block.output.dense

        table = attention.relative_position_bias_table.detach()
        index = torch.from_numpy(layout.relative_position_index(window))
        bias = table[index].permute(2, 0, 1)[None]  # (1, heads, tokens, tokens)
        if self.shifted:
            mask = torch.from_numpy(layout.shift_mask(*grid, window, shift))
            bias = (bias + mask[:, None]).reshape(1, self.windows * self.heads, *bias.shape[-2:])
        self.bias: Tensor
        self.register_buffer("bias", bias.contiguous())

    def _split(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> (n, groups, tokens of a window, head_dim)."""
        x = x.reshape(-1, self.windows, self.window_tokens, self.heads, self.head_dim).transpose(2, 3)
        # Windows go with the batch where all share one bias, with the heads where each has a mask of its own.
        groups = self.windows * self.heads if self.shifted else self.heads
        return x.reshape(-1, groups, self.window_tokens, self.head_dim)

    def attend(self, x: Tensor) -> Tensor:
        """Window attention, (batch, tokens, dim) -> same."""
        tokens, dim = x.shape[1:]
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(-1, -2)) + self.bias
        context = torch.matmul(torch.softmax(scores, dim=-1), v)
        context = context.reshape(-1, self.windows, self.heads, self.window_tokens, self.head_dim)
        return self.out(context.permute(0, 1, 3, 2, 4).reshape(-1, tokens, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Attention and feed-forward, each with its residual."""
        x = x + self.attend(self.norm1(x))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class Gather(nn.Module):
    """Reorders tokens by a constant index along dimension 1."""

    def __init__(self, index: Order) -> None:
        super().__init__()
        self.index: Tensor
        self.register_buffer("index", torch.from_numpy(np.ascontiguousarray(index)))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, dim) -> (batch, len(index), dim)."""
        return torch.index_select(x, 1, self.index)


class PatchMerge(nn.Module):
    """2x2 patch merging: (batch, tokens, dim) -> (batch, tokens / 4, 2 * dim), any order to any order."""

    def __init__(self, downsample: Any, index: Order) -> None:
        super().__init__()
        self.gather = Gather(index)
        self.norm, self.reduction = downsample.norm, downsample.reduction

    def forward(self, x: Tensor) -> Tensor:
        """Gather four tokens side by side, normalise, reduce."""
        merged = self.gather(x).reshape(-1, x.shape[1] // 4, x.shape[2] * 4)
        return self.reduction(self.norm(merged))


class FusionBlock(nn.Module):
    """Attentional feature fusion on tokens (Wu et al. 2022, after Dai et al. 2021): two (batch, n, dim) -> one."""

    def __init__(self, fusion: Any) -> None:
        super().__init__()
        self.local_down, self.local_up = self._folded(fusion.local_att, 0), self._folded(fusion.local_att, 3)
        self.global_down, self.global_up = self._folded(fusion.global_att, 1), self._folded(fusion.global_att, 4)

    @staticmethod
    def _folded(layers: nn.Sequential, at: int) -> nn.Linear:
        """The 1x1 convolution at `at` and the BatchNorm behind it as one Linear."""
        convolution, norm = layers[at], layers[at + 1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert convolution.bias is not None
        scale, shift = affine_of_batch_norm(norm)
        return linear_of(convolution.weight[:, :, 0, 0] * scale[:, None], convolution.bias * scale + shift)

    def forward(self, whole: Tensor, crops: Tensor) -> Tensor:
        """Weigh the shrunk whole against the crops, token by token and channel by channel."""
        x = whole + crops
        local = self.local_up(torch.relu(self.local_down(x)))
        pooled = self.global_up(torch.relu(self.global_down(x.mean(dim=1, keepdim=True))))
        weight = torch.sigmoid(local + pooled)
        return 2 * whole * weight + 2 * crops * (1 - weight)


class PatchEmbed(nn.Module):
    """Spectrogram image -> row-major tokens, (batch, channels, height, width) -> (batch, tokens, dim)."""

    def __init__(self, patch_embed: Any) -> None:
        super().__init__()
        self.proj, self.norm = patch_embed.proj, patch_embed.norm
        self.fusion = FusionBlock(patch_embed.fusion_model) if patch_embed.enable_fusion else None
        self.crop_conv = patch_embed.mel_conv2d if patch_embed.enable_fusion else None
        self.grid: tuple[int, int] = patch_embed.grid_size

    def crops(self, image: Tensor) -> Tensor:
        """The three crops, (batch, 3, height, width), side by side in time as (batch, tokens, dim)."""
        assert self.crop_conv is not None
        height, width = image.shape[-2:]
        x = self.crop_conv(image.reshape(-1, 1, height, width))
        dim, rows, columns = x.shape[1:]
        x = x.reshape(-1, 3, dim, rows, columns).permute(0, 3, 1, 4, 2).reshape(-1, rows, 3 * columns, dim)
        x = functional.pad(x, (0, 0, 0, self.grid[1] - 3 * columns))
        return x.reshape(-1, self.grid[0] * self.grid[1], dim)

    def forward(self, image: Tensor, is_longer: Tensor | None) -> Tensor:
        """`is_longer` (batch, 1) bool chooses per clip whether the crops take part."""
        tokens = self.proj(image[:, :1]).flatten(2).transpose(1, 2)
        if self.fusion is not None:
            assert is_longer is not None
            fused = self.fusion(tokens, self.crops(image[:, 1:]))
            tokens = torch.where(is_longer.reshape(-1, 1, 1), fused, tokens)
        return self.norm(tokens)


class TimeStretch(nn.Module):
    """Bicubic interpolation of the frames (align_corners): (batch, channels, frames, mels) -> (.., width, mels).

    Each frame that comes out weighs at most four that go in, so four gathers do what a matrix of 1e6 weights would.
    """

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        matrix = layout.bicubic_matrix(frames, width)
        order = matrix.abs().argsort(dim=1, descending=True)[:, :4].sort(dim=1).values
        weights = matrix.gather(1, order)
        assert torch.equal(torch.zeros_like(matrix).scatter(1, order, weights), matrix)
        self.taps: int = order.shape[1]
        for tap in range(self.taps):
            self.register_buffer(f"index{tap}", order[:, tap].contiguous())
            self.register_buffer(f"weight{tap}", weights[:, tap, None].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        taps = [
            torch.index_select(x, 2, getattr(self, f"index{t}")) * getattr(self, f"weight{t}") for t in range(self.taps)
        ]
        return sum(taps[1:], start=taps[0])


class AudioTower(nn.Module):
    """Log-Mel -> unit vector: (batch, channels, frames, mels) float32 in dB -> (batch, dim) float32.

    `frames` is fixed at construction. With fusion `channels` is 4 and `is_longer` (batch, 1) bool is a second input.
    """

    def __init__(self, model: Any, frames: int) -> None:
        super().__init__()
        encoder = model.audio_model.audio_encoder
        config = model.config.audio_config
        self.ratio: int = encoder.freq_ratio
        self.norm = encoder.norm
        self.projection = Projection(model.audio_projection)
        self.patch_embed = PatchEmbed(encoder.patch_embed)

        self.mel_scale: Tensor
        self.mel_shift: Tensor
        scale, shift = affine_of_batch_norm(encoder.batch_norm)
        self.register_buffer("mel_scale", scale)
        self.register_buffer("mel_shift", shift)
        width = config.spec_size * self.ratio
        self.stretch = None if frames == width else TimeStretch(frames, width)
        self.steps = self._steps(encoder, config.window_size)

    @staticmethod
    def _steps(encoder: Any, window: int) -> nn.Sequential:
        """Blocks and merges, with a gather wherever the token order changes."""
        steps: list[nn.Module] = []
        height, width = encoder.patch_embed.grid_size
        order = layout.row_major(height, width)
        for stage in encoder.layers:
            # Where a window covers the whole grid there is nothing to shift (as transformers decides at run time).
            can_shift = min(height, width) > window
            for block in stage.blocks:
                shift = block.shift_size if can_shift else 0
                wanted = layout.window_order(height, width, window, shift)
                if not np.array_equal(order, wanted):
                    steps.append(Gather(layout.gather_index(order, wanted)))
                steps.append(WindowBlock(block, (height, width), window, shift))
                order = wanted
            if stage.downsample is not None:
                next_order = layout.window_order(height // 2, width // 2, window, shift=0)
                wanted = layout.merge_order(height, width, next_order)
                steps.append(PatchMerge(stage.downsample, layout.gather_index(order, wanted)))
                height, width, order = height // 2, width // 2, next_order
        return nn.Sequential(*steps)

    def image(self, features: Tensor) -> Tensor:
        """Log-Mel -> the square image HTSAT sees: `ratio` stretches of time stacked along the mel axis."""
        x = features * self.mel_scale + self.mel_shift
        if self.stretch is not None:
            x = self.stretch(x)
        channels, time, mels = x.shape[1:]
        x = x.reshape(-1, channels, self.ratio, time // self.ratio, mels).transpose(-1, -2)
        return x.reshape(-1, channels, self.ratio * mels, time // self.ratio)

    def forward(self, input_features: Tensor, is_longer: Tensor | None = None) -> Tensor:
        """See the class."""
        tokens = self.steps(self.patch_embed(self.image(input_features), is_longer))
        # The mean, but not as one operation: TensorRT-RTX 1.7 cannot build that and a Cast to FP16 for just one clip.
        mean = self.norm(tokens).sum(dim=1) * (1.0 / tokens.shape[1])
        return self.projection(mean)


class TextLayer(nn.Module):
    """One post-norm RoBERTa layer. With `first_only` it computes the first token and nothing else."""

    def __init__(self, layer: Any, first_only: bool) -> None:
        super().__init__()
        attention = layer.attention.self
        self.heads: int = attention.num_attention_heads
        self.head_dim: int = attention.attention_head_size
        self.first_only = first_only
        self.q, self.k, self.v, self.out = attention_inputs(attention, layer.attention.output.dense)
        self.norm1 = layer.attention.output.LayerNorm
        self.up, self.activation = layer.intermediate.dense, layer.intermediate.intermediate_act_fn
        self.down, self.norm2 = layer.output.dense, layer.output.LayerNorm

    def _split(self, x: Tensor) -> Tensor:
        """(batch, n, dim) -> (batch, heads, n, head_dim)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` (batch, 1, 1, tokens) is added to the scores: 0, or `MASKED`."""
        k, v = self._split(self.k(x)), self._split(self.v(x))
        if self.first_only:
            x = x[:, :1]
        q = self._split(self.q(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) + mask
        context = torch.matmul(torch.softmax(scores, dim=-1), v).transpose(1, 2)
        context = context.reshape(x.shape[0], x.shape[1], self.heads * self.head_dim)
        x = self.norm1(self.out(context) + x)
        return self.norm2(self.down(self.activation(self.up(x))) + x)


class TextTower(nn.Module):
    """Token ids -> unit vector: two (batch, tokens) int64 -> (batch, dim) float32.

    Padding MUST be on the right, as CLAP's tokenizer pads: positions count from the first token, and the embedding of a
    padded token never reaches the output.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        text, embeddings = model.text_model, model.text_model.embeddings
        self.words, self.norm = embeddings.word_embeddings, embeddings.LayerNorm
        # Position p of RoBERTa is row pad_id + 1 + p. The one token type there is goes into the same table.
        table = embeddings.position_embeddings.weight[embeddings.padding_idx + 1 :]
        self.positions: Tensor
        self.register_buffer("positions", (table + embeddings.token_type_embeddings.weight[0]).detach().clone())
        layers = list(text.encoder.layer)
        self.layers = nn.ModuleList(TextLayer(layer, layer is layers[-1]) for layer in layers)
        self.pooler = text.pooler.dense
        self.projection = Projection(model.text_projection)

    @property
    def max_tokens(self) -> int:
        """The longest text there are positions for, in tokens."""
        return self.positions.shape[0]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`attention_mask` is 1 for a token, 0 for padding."""
        x = self.norm(self.words(input_ids) + self.positions[: input_ids.shape[1]])
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * MASKED
        for layer in self.layers:
            x = layer(x, mask)
        return self.projection(torch.tanh(self.pooler(x[:, 0])))
