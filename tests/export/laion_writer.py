"""State dicts as LAION's training code saves them, made from a transformers `ClapModel`.

Written from the structure of the original modules (`CLAP`, `HTSAT_Swin_Transformer`, `RobertaModel`, torchlibrosa's
extractors), part by part; it shares nothing with the converter that it tests.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import RobertaConfig, RobertaModel
from transformers.audio_utils import mel_filter_bank

from claprt_export.random_checkpoint import SIZES, random_model

# The structure of LAION's models at a fraction of the width; RoBERTa's head width of 64, and the demo's vocabulary.
SIZES["laion-tiny"] = (
    SIZES["tiny"][0],
    {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    | {"vocab_size": 1024, "layer_norm_eps": 1e-5},
)

Weights = OrderedDict[str, torch.Tensor]


def laion_model(fusion: bool = False, seed: int = 0) -> Any:
    """A `ClapModel` of random weights, small, as LAION would have trained it."""
    return random_model("laion-tiny", fusion, seed)


def roberta_of(model: Any) -> RobertaModel:
    """The text tower as the class that LAION's code uses, with the settings of roberta-base."""
    text = model.config.text_config
    config = RobertaConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        intermediate_size=text.intermediate_size,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    roberta = RobertaModel(config).eval()
    weights = model.text_model.state_dict()
    for constant in ("position_ids", "token_type_ids"):
        del weights[f"embeddings.{constant}"]
    roberta.load_state_dict(weights)
    return roberta


def laion_state_dict(model: Any) -> Weights:
    """The state dict of LAION's `CLAP` with a model's weights, everything in it that is not used included."""
    torch.manual_seed(1)
    weights: Weights = OrderedDict()
    joint = model.config.projection_dim
    weights["logit_scale_a"] = model.logit_scale_a.detach()
    weights["logit_scale_t"] = model.logit_scale_t.detach()
    for name, tensor in _audio_branch(model).items():
        weights["audio_branch." + name] = tensor
    weights["text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    for name, tensor in roberta_of(model).state_dict().items():
        weights["text_branch." + name] = tensor
    for tower in ("text", "audio"):
        for index in (0, 3):  # Linear, ReLU, Dropout, Linear
            _random_linear(weights, f"{tower}_transform.sequential.{index}", joint, joint)
        projection = getattr(model, f"{tower}_projection")
        for index, linear in ((0, projection.linear1), (2, projection.linear2)):  # a ReLU between them
            _copy(weights, f"{tower}_projection.{index}", linear)
    return weights


def _audio_branch(model: Any) -> Weights:
    encoder, config = model.audio_model.audio_encoder, model.config.audio_config
    weights: Weights = OrderedDict()
    angles = 2 * np.pi / 1024 * np.outer(np.arange(513), np.arange(1024))
    window = np.hanning(1025)[:1024]
    for name, wave in (("real", np.cos(angles)), ("imag", -np.sin(angles))):
        weights[f"spectrogram_extractor.stft.conv_{name}.weight"] = torch.from_numpy((wave * window)[:, None]).float()
    bank = mel_filter_bank(513, 64, 50, 14_000, 48_000, norm="slaney", mel_scale="slaney")
    weights["logmel_extractor.melW"] = torch.from_numpy(bank).float()
    _copy(weights, "bn0", encoder.batch_norm)
    _copy(weights, "patch_embed.proj", encoder.patch_embed.proj)
    _copy(weights, "patch_embed.norm", encoder.patch_embed.norm)
    if config.enable_fusion:
        _copy(weights, "patch_embed.mel_conv2d", encoder.patch_embed.mel_conv2d)
        for part, indices in (("local_att", (0, 1, 3, 4)), ("global_att", (1, 2, 4, 5))):
            for index in indices:
                module = getattr(encoder.patch_embed.fusion_model, part)[index]
                _copy(weights, f"patch_embed.fusion_model.{part}.{index}", module)
    grid = 64
    for i, stage in enumerate(encoder.layers):
        for j, block in enumerate(stage.blocks):
            own = f"layers.{i}.blocks.{j}"
            attention = getattr(block.attention, "self")  # noqa: B009 (mypy takes .self for a keyword's typo)
            if j % 2 and grid > 8:
                weights[f"{own}.attn_mask"] = _attention_mask(grid)
            _copy(weights, f"{own}.norm1", block.layernorm_before)
            weights[f"{own}.attn.relative_position_bias_table"] = attention.relative_position_bias_table.detach()
            weights[f"{own}.attn.relative_position_index"] = attention.relative_position_index.detach()
            for kind in ("weight", "bias"):
                parts = [getattr(attention, name).get_parameter(kind) for name in ("query", "key", "value")]
                weights[f"{own}.attn.qkv.{kind}"] = torch.cat(parts).detach()
            _copy(weights, f"{own}.attn.proj", block.attention.output.dense)
            _copy(weights, f"{own}.norm2", block.layernorm_after)
            _copy(weights, f"{own}.mlp.fc1", block.intermediate.dense)
            _copy(weights, f"{own}.mlp.fc2", block.output.dense)
        if stage.downsample is not None:
            weights[f"layers.{i}.downsample.reduction.weight"] = stage.downsample.reduction.weight.detach()
            _copy(weights, f"layers.{i}.downsample.norm", stage.downsample.norm)
        grid //= 2
    _copy(weights, "norm", encoder.norm)
    weights["tscam_conv.weight"] = torch.randn(527, config.hidden_size, 2, 3)
    weights["tscam_conv.bias"] = torch.randn(527)
    _random_linear(weights, "head", 527, 527)
    return weights


def _attention_mask(grid: int) -> torch.Tensor:
    """(windows, 64, 64) of windows of 8x8, shifted by 4: -100 between places that are neighbours by the shift only."""
    strip = torch.tensor([0] * (grid - 8) + [1] * 4 + [2] * 4)
    regions = 3 * strip[:, None] + strip
    windows = regions.reshape(grid // 8, 8, grid // 8, 8).transpose(1, 2).reshape(-1, 64)
    return torch.where(windows[:, :, None] == windows[:, None], 0.0, -100.0)


def _copy(weights: Weights, name: str, module: torch.nn.Module) -> None:
    for own, tensor in module.state_dict().items():
        weights[f"{name}.{own}"] = tensor


def _random_linear(weights: Weights, name: str, width: int, height: int) -> None:
    weights[f"{name}.weight"] = torch.randn(height, width)
    weights[f"{name}.bias"] = torch.randn(height)


def save_laion(path: Path, weights: Weights, module: bool = True, training: bool = True) -> Path:
    """Save as LAION's `main.py` does: names under DistributedDataParallel, the state of the training beside them."""
    named = OrderedDict((("module." if module else "") + name, tensor) for name, tensor in weights.items())
    moments = {"step": 7, "exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4)}
    optimizer = {
        "state": {0: moments},
        "param_groups": [{"lr": np.float64(1e-4), "betas": (0.9, 0.99), "amsgrad": False, "params": [0]}],
    }
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}
    whole = {
        "epoch": 15,
        "name": "2023_03_14-model_HTSAT",
        "state_dict": named,
        "optimizer": optimizer,
        "scaler": scaler,
    }
    torch.save(whole if training else named, path)
    return path
