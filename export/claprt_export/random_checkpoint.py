"""Checkpoints with random weights of unit gain, saved as transformers saves them: for tests and benchmarks.

With transformers' own initialisation the vectors of all sounds are parallel and every comparison passes. Here the gain
of each layer is about one, so different sounds get clearly different vectors and a wrong layer shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from claprt_export.checkpoint import quiet_transformers
from claprt_export.demo import CHECKPOINTS

# Audio and text settings by size. "tiny" has the structure of the released models at a fraction of the width;
# "htsat-tiny" is laion/clap-htsat-(un)fused, "htsat-base" laion/larger_clap_*.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        {"patch_embeds_hidden_size": 16, "depths": (2, 2, 2, 2), "num_attention_heads": (1, 2, 4, 8)},
        {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
        | {"vocab_size": 4096},
    ),
    "htsat-tiny": (
        {"patch_embeds_hidden_size": 96, "depths": (2, 2, 6, 2), "num_attention_heads": (4, 8, 16, 32)},
        {},
    ),
    "htsat-base": (
        {"patch_embeds_hidden_size": 128, "depths": (2, 2, 12, 2), "num_attention_heads": (4, 8, 16, 32)},
        {},
    ),
}


def random_model(size: str, fusion: bool = False, seed: int = 0, **audio_changes: Any) -> Any:
    """A `ClapModel` in FP32 and evaluation mode.

    Args:
        size: a key of `SIZES`.
        fusion: as laion/clap-htsat-fused.
        seed: of the weights.
        audio_changes: fields of `ClapAudioConfig` to change.
    """
    from transformers import ClapConfig, ClapModel

    audio, text = SIZES[size]
    audio = audio | {"enable_fusion": fusion, "fusion_type": "aff_2d" if fusion else None} | audio_changes
    audio.setdefault("hidden_size", audio["patch_embeds_hidden_size"] * 2 ** (len(audio["depths"]) - 1))
    projection_dim = 32 if size == "tiny" else 512
    torch.manual_seed(seed)
    model = ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=projection_dim))
    with torch.no_grad():
        for name, module in model.named_modules():
            _unit_gain(name, module)
    return model.eval()


def _unit_gain(name: str, module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.normal_(module.weight, std=1.4 / module.weight[0].numel() ** 0.5)
        if module.bias is not None:
            nn.init.uniform_(module.bias, -0.1, 0.1)
    elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
        nn.init.uniform_(module.weight, 0.8, 1.2)
        nn.init.uniform_(module.bias, -0.1, 0.1)
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        mel = name.endswith("audio_encoder.batch_norm")  # statistics of real log-Mel in dB; elsewhere nearly standard
        nn.init.normal_(module.running_mean, *((-30.0, 5.0) if mel else (0.0, 0.1)))
        nn.init.uniform_(module.running_var, *((200.0, 250.0) if mel else (0.8, 1.2)))
    table = getattr(module, "relative_position_bias_table", None)
    if isinstance(table, nn.Parameter):
        nn.init.normal_(table, std=0.5)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.5)


def save_random_checkpoint(directory: Path, size: str, fusion: bool = False, seed: int = 0, **audio: Any) -> Path:
    """Save `random_model` with the demo's tokenizer and a feature extractor of the released settings."""
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapProcessor

    with quiet_transformers():
        random_model(size, fusion, seed, **audio).save_pretrained(directory)
        extractor = ClapFeatureExtractor(frequency_min=50, truncation="fusion" if fusion else "rand_trunc")
        ClapProcessor(extractor, AutoTokenizer.from_pretrained(CHECKPOINTS["unfused"])).save_pretrained(directory)
    return directory
