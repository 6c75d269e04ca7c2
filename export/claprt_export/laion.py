"""LAION's original checkpoints (`630k-audioset-best.pt`, `music_audioset_epoch_15_esc_90.14.pt`, ...) as `ClapModel`s.

Such a file holds weights and nothing else: no configuration, no tokenizer. Every size comes from the shapes of the
weights; what leaves no trace in them is fixed in LAION's code (github.com/LAION-AI/CLAP: htsat.py, model.py, hook.py)
and written down here. Every key must be accounted for, and every weight of the model must be there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from claprt.errors import CheckpointError
from claprt.mel import mel_filter_bank
from claprt.spec import LogMelSpec
from claprt_export.layout import shift_mask

Weights = Mapping[str, torch.Tensor]

# Where LAION's text tower and its tokenizer are from. LAION's code cuts texts at 77 tokens; here the tower's positions
# decide (512), as for every checkpoint: longer texts are read on, shorter ones have the same vectors.
TOKENIZER = "roberta-base"

_AUDIO, _TEXT = "audio_branch.", "text_branch."
_STAGE = _AUDIO + "layers."
_IMAGE = 256  # HTSAT folds the log-Mel into a square of this size
_MASK = re.compile(re.escape(_STAGE) + r"(\d+)\.blocks\.(\d+)\.attn_mask")
_MEL_BANK = _AUDIO + "logmel_extractor.melW"
_MEL_TOLERANCE = 1e-3  # of the bank's peak: half-precision copies pass, another bank is off by 1e-1

# What is in the file and not in the model: constants of the architecture, training heads, the log-Mel kernels.
_IGNORED_PREFIXES = (
    _AUDIO + "spectrogram_extractor.",
    _AUDIO + "tscam_conv.",
    _AUDIO + "head.",
    "audio_transform.",
    "text_transform.",
)
_IGNORED_SUFFIXES = (
    "attn_mask",
    ".relative_position_index",
    ".num_batches_tracked",
    ".position_ids",
    ".token_type_ids",
)

# transformers' names of an audio block's parts -> LAION's, in this order.
_BLOCK_NAMES = (
    ("attention.self.relative_position_bias_table", "attn.relative_position_bias_table"),
    ("attention.output.dense.", "attn.proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
)
_QKV = re.compile(r"attention\.self\.(query|key|value)\.")
_THIRDS = {"query": 0, "key": 1, "value": 2}

_OTHER_AUDIO_TOWERS = {_AUDIO + "conv_block1.": "PANN"}
_OTHER_TEXT_TOWERS = {
    _TEXT + "resblocks.": "CLIP transformer",
    _TEXT + "shared.": "BART",
    _TEXT + "encoder.layers.": "BART",
}


def config_of(weights: Weights, source: str) -> Any:
    """The `ClapConfig` that fits the weights' shapes.

    Raises:
        CheckpointError: another audio or text tower, or weights whose shapes no CLAP has.
    """
    from transformers import ClapConfig

    for kind, towers in (("audio", _OTHER_AUDIO_TOWERS), ("text", _OTHER_TEXT_TOWERS)):
        for prefix, name in towers.items():
            if any(key.startswith(prefix) for key in weights):
                raise _unsupported(source, kind, name)
    (joint, _) = _shape(weights, "audio_projection.0.weight", 2, source)
    return ClapConfig(
        audio_config=_audio_config(weights, source), text_config=_text_config(weights, source), projection_dim=joint
    )


def _audio_config(weights: Weights, source: str) -> dict[str, Any]:
    embed, channels, patch, _ = _shape(weights, _AUDIO + "patch_embed.proj.weight", 4, source)
    stages = _count(weights, _STAGE)
    depths = [_count(weights, f"{_STAGE}{stage}.blocks.") for stage in range(stages)]
    tables = [
        _shape(weights, f"{_STAGE}{stage}.blocks.0.attn.relative_position_bias_table", 2, source)
        for stage in range(stages)
    ]
    if not tables:
        raise CheckpointError(f"not a CLAP checkpoint: {source}: it has no {_STAGE}0; pass one of LAION's .pt files")
    window = (math.isqrt(tables[0][0]) + 1) // 2  # the table has a row for each of (2·window - 1)² offsets
    mask = weights.get(f"{_STAGE}0.blocks.1.attn_mask")  # one for each window of the image
    if mask is not None and mask.shape[:1].numel() * (window * patch) ** 2 != _IMAGE**2:
        raise CheckpointError(
            f"unsupported checkpoint: {source}: {_STAGE}0.blocks.1.attn_mask has the shape {list(mask.shape)}; windows "
            f"of {window}x{window} patches of {patch} do not make LAION's image of {_IMAGE}x{_IMAGE}"
        )
    fc1, _ = _shape(weights, f"{_STAGE}0.blocks.0.mlp.fc1.weight", 2, source)
    (mels,) = _shape(weights, _AUDIO + "bn0.weight", 1, source)
    fusion_type = _fusion_type(weights)
    return {
        "patch_embed_input_channels": channels,
        "patch_embeds_hidden_size": embed,
        "patch_size": patch,
        "patch_stride": [patch, patch],  # the same as the patch in all of LAION's models
        "spec_size": _IMAGE,
        "num_mel_bins": mels,
        "depths": depths,
        "num_attention_heads": [heads for _, heads in tables],
        "window_size": window,
        "mlp_ratio": fc1 / embed,
        "hidden_size": embed * 2 ** (stages - 1),
        "enable_fusion": fusion_type is not None,
        "fusion_type": fusion_type,
    }


def _fusion_type(weights: Weights) -> str | None:
    """LAION's name of how crops are fused; None without fusion."""

    def has(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in weights)

    if has(_AUDIO + "mel_conv1d.", _AUDIO + "fusion_model."):
        return "1d"
    if has(_AUDIO + "patch_embed.fusion_model.local_att2."):
        return "iaff_2d"
    if has(_AUDIO + "patch_embed.fusion_model."):
        return "aff_2d"
    return "daf_2d" if has(_AUDIO + "patch_embed.mel_conv2d.") else None


def _text_config(weights: Weights, source: str) -> dict[str, Any]:
    vocab, hidden = _shape(weights, _TEXT + "embeddings.word_embeddings.weight", 2, source)
    positions, _ = _shape(weights, _TEXT + "embeddings.position_embeddings.weight", 2, source)
    types, _ = _shape(weights, _TEXT + "embeddings.token_type_embeddings.weight", 2, source)
    intermediate, _ = _shape(weights, _TEXT + "encoder.layer.0.intermediate.dense.weight", 2, source)
    if types != 1:
        raise _unsupported(source, "text", "BERT")
    if hidden % 64:
        raise CheckpointError(
            f"unsupported checkpoint: {source}: its text tower is {hidden} wide; RoBERTa's heads are 64"
        )
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": _count(weights, _TEXT + "encoder.layer."),
        "num_attention_heads": hidden // 64,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": 1e-5,  # RoBERTa's own, which LAION ran; `ClapTextConfig` has 1e-12
        "pad_token_id": 1,
    }


def feature_extractor(fusion: bool) -> Any:
    """The `ClapFeatureExtractor` with the settings of LAION's model_configs: HTSAT-tiny and HTSAT-base share them."""
    from transformers import ClapFeatureExtractor

    return ClapFeatureExtractor(
        feature_size=64,
        sampling_rate=48_000,
        hop_length=480,
        max_length_s=10,
        fft_window_size=1024,
        frequency_min=50,
        frequency_max=14_000,
        padding="repeatpad",
        truncation="fusion" if fusion else "rand_trunc",
    )


def model_of(weights: Weights, config: Any, spec: LogMelSpec, source: str) -> Any:
    """The `ClapModel` in FP32 with copies of the weights.

    Args:
        weights: as `read_state_dict` returns them.
        config: what `config_of` found, checked to be supported.
        spec: the log-Mel that the model will be given.
        source: for errors.

    Raises:
        CheckpointError: a key that is missing, unknown, of another shape or not finite; or the mel bank that the file
            carries is not the one of `spec`.
    """
    from transformers import ClapModel

    _check_mel_bank(weights, spec, source)
    _check_attention_masks(weights, config.audio_config, source)
    with torch.device("meta"):  # names and shapes, before any memory is taken
        expected = {name: tensor.shape for name, tensor in ClapModel(config).state_dict().items()}
    expected = {name: shape for name, shape in expected.items() if not name.endswith(_IGNORED_SUFFIXES)}
    parts = {name: _part(weights, name, shape, source) for name, shape in expected.items()}
    _refuse_unknown(weights, {_laion_name(name)[0] for name in expected}, source)
    _refuse_overlap(weights, source)
    model = ClapModel(config)
    own = model.state_dict()
    for name, part in parts.items():
        own[name].copy_(part)
        if not bool(torch.isfinite(own[name]).all()):
            key, _ = _laion_name(name)
            raise CheckpointError(f"damaged checkpoint: {source}: {key} has values that are not finite")
    return model


def _laion_name(name: str) -> tuple[str, int | None]:
    """LAION's name of a transformers weight, and which third of that tensor it is (Q, K and V are one there)."""
    for linear, index in (("linear1", "0"), ("linear2", "2")):
        name = name.replace(f"_projection.{linear}.", f"_projection.{index}.")
    if not name.startswith("audio_model.audio_encoder."):
        return name.replace("text_model.", _TEXT, 1), None
    name = name.replace("audio_model.audio_encoder.", _AUDIO, 1).replace(_AUDIO + "batch_norm.", _AUDIO + "bn0.")
    qkv = _QKV.search(name)
    if qkv:
        return _QKV.sub("attn.qkv.", name), _THIRDS[qkv[1]]
    if name.startswith(_STAGE):
        for theirs, laions in _BLOCK_NAMES:
            name = name.replace(theirs, laions)
    return name, None


def _part(weights: Weights, name: str, shape: torch.Size, source: str) -> torch.Tensor:
    """The tensor, or the third of it, that a transformers weight is, still in the file."""
    key, third = _laion_name(name)
    tensor = _get(weights, key, source)
    rows = tuple(shape) if third is None else (3 * shape[0], *shape[1:])
    if tuple(tensor.shape) != rows or not tensor.is_floating_point():
        raise CheckpointError(
            f"unsupported checkpoint: {source}: {key} is {tensor.dtype} of shape {list(tensor.shape)}; its other "
            f"weights need floats of {list(rows)}"
        )
    return tensor if third is None else tensor[third * shape[0] : (third + 1) * shape[0]]


def _refuse_unknown(weights: Weights, known: set[str], source: str) -> None:
    unknown = sorted(
        key
        for key in weights.keys() - known
        if key != _MEL_BANK and not key.startswith(_IGNORED_PREFIXES) and not key.endswith(_IGNORED_SUFFIXES)
    )
    if unknown:
        raise CheckpointError(
            f"unsupported checkpoint: {source}: {unknown[0]!r:.200} is no weight of LAION's CLAP ({len(unknown)} such "
            "keys); remove it if the vectors do not depend on it"
        )


def _refuse_overlap(weights: Weights, source: str) -> None:
    """Tensors that share their bytes, or repeat them by strides, would need more memory than the file is large."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights.values()}
    claimed = sum(tensor.nbytes for tensor in weights.values())
    if claimed > sum(storages.values()):
        raise CheckpointError(
            f"damaged checkpoint: {source}: its weights claim {claimed} bytes of {sum(storages.values())}; "
            "download it again"
        )


def _check_mel_bank(weights: Weights, spec: LogMelSpec, source: str) -> None:
    """The file carries the mel bank of training without fusion (Slaney's, which torchlibrosa takes from librosa).

    It proves sampling rate, FFT size, bands and edges of the spec. With fusion LAION computes log-Mel elsewhere (with
    torchaudio, HTK), from the same settings.
    """
    expected = mel_filter_bank(replace(spec, mel_scale="slaney", mel_norm="slaney"))
    found = _get(weights, _MEL_BANK, source)
    same_shape = tuple(found.shape) == expected.shape
    difference = float(np.abs(found.double().numpy() - expected).max()) if same_shape else math.inf
    if not difference <= _MEL_TOLERANCE * float(expected.max()):
        raise CheckpointError(
            f"unsupported checkpoint: {source}: {_MEL_BANK} of shape {list(found.shape)} is not the mel bank of "
            f"LAION's CLAP ({spec.sampling_rate} Hz, {spec.n_fft} samples, {spec.n_mels} bands from {spec.f_min:g} to "
            f"{spec.f_max:g} Hz); it was trained on other log-Mel spectrograms"
        )


def _check_attention_masks(weights: Weights, audio: Any, source: str) -> None:
    """The file carries the masks of shifted windows. LAION's code uses those; here the architecture's are built in."""
    for key, found in weights.items():
        place = _MASK.fullmatch(key)
        if place is None:
            continue
        side = audio.spec_size // audio.patch_size >> int(place[1])
        window = audio.window_size
        shifted = int(place[2]) % 2 == 1 and side > window and side % window == 0
        expected = shift_mask(side, side, window, window // 2) if shifted else None
        if expected is None or not np.array_equal((found != 0).numpy(), expected != 0):
            raise CheckpointError(
                f"unsupported checkpoint: {source}: {key} of shape {list(found.shape)} does not mask what LAION's CLAP "
                "does; its vectors would be others than those of the code it is from"
            )


def _get(weights: Weights, key: str, source: str) -> torch.Tensor:
    if key not in weights:
        raise CheckpointError(
            f"incomplete checkpoint: {source}: {key} is missing; pass the whole state dict of LAION's CLAP"
        )
    return weights[key]


def _shape(weights: Weights, key: str, rank: int, source: str) -> tuple[int, ...]:
    shape = tuple(_get(weights, key, source).shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(
            f"unsupported checkpoint: {source}: {key} has the shape {list(shape)}, {rank} sizes needed"
        )
    return shape


def _count(weights: Iterable[str], prefix: str) -> int:
    """How many of `prefix`0, `prefix`1, ... there are without a gap; what comes after a gap is an unknown key."""
    found = {key[len(prefix) :].partition(".")[0] for key in weights if key.startswith(prefix)}
    count = 0
    while str(count) in found:
        count += 1
    return count


def _unsupported(source: str, kind: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"unsupported checkpoint: {source}: its {kind} tower is {name}; claprt exports those of HTSAT and RoBERTa"
    )
