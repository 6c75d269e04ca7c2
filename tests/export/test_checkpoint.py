"""What loading a checkpoint refuses, and that it refuses by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapFeatureExtractor

from claprt.errors import CheckpointError
from claprt_export.checkpoint import load_checkpoint, refuse_unsupported
from claprt_export.random_checkpoint import random_model, save_random_checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "good", "tiny")


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def edit_json(path: Path, *keys: str, value: Any) -> None:
    document = json.loads(path.read_text())
    node = document
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"patch_embed_input_channels": 2}, "patch_embed_input_channels"),
        ({"flatten_patch_embeds": False}, "flatten_patch_embeds"),
        ({"num_mel_bins": 60}, "num_mel_bins"),
        ({"window_size": 7}, "window_size"),
        ({"depths": (2, 2, 2, 2, 2), "num_attention_heads": (1, 2, 4, 8, 8)}, "window_size"),
        ({"depths": (2, 2), "num_attention_heads": (1, 2, 4)}, "depths"),
        ({"num_attention_heads": (3, 2, 4, 8)}, "num_attention_heads[0]"),
        ({"hidden_size": 100}, "hidden_size"),
        ({"patch_size": 4, "patch_stride": 8}, "patch_stride"),
        ({"patch_size": (4, 8)}, "patch_size"),
        ({"enable_fusion": True, "fusion_type": "channel_map"}, "fusion_type"),
        ({"enable_fusion": True, "fusion_type": "daf_2d"}, "fusion_type"),
    ],
)
def test_unsupported_configurations_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    """Each of these computes something else in transformers, or fails there."""
    config = random_model("tiny").config
    for name, value in changes.items():
        setattr(config.audio_config, name, value)
    with pytest.raises(CheckpointError, match="unsupported checkpoint: there: audio_config") as caught:
        refuse_unsupported(config, "there")
    assert field in str(caught.value)


def test_missing_weight(copy: Path) -> None:
    """transformers would fill it with random numbers and warn."""
    weights = load_file(copy / "model.safetensors")
    del weights["text_projection.linear2.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"text_projection\.linear2\.weight is missing"):
        load_checkpoint(str(copy))


def test_weight_of_another_shape(copy: Path) -> None:
    edit_json(copy / "config.json", "text_config", "vocab_size", value=5000)
    with pytest.raises(CheckpointError, match=r"cannot load its weights|has another shape"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(copy: Path, value: float) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["audio_projection.linear1.bias"][3] = value
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"audio_projection\.linear1\.bias has values that are not finite"):
        load_checkpoint(str(copy))


def test_truncated_weights_file(copy: Path) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot load its weights"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("processor_config.json", "feature extractor"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_missing_file(copy: Path, name: str, part: str) -> None:
    (copy / name).unlink()
    (copy / "tokenizer_config.json").unlink() if part == "tokenizer" else None
    with pytest.raises(CheckpointError, match=part):
        load_checkpoint(str(copy))


def test_another_model_type(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="model_type is 'bert'"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("field", "value"),
    [("truncation", "fusion"), ("feature_size", 32), ("padding", "wrap"), ("max_length_s", 11)],
)
def test_extractor_that_does_not_fit_the_model(copy: Path, field: str, value: object) -> None:
    edit_json(copy / "processor_config.json", "feature_extractor", field, value=value)
    with pytest.raises(CheckpointError, match="unsupported feature extractor") as caught:
        load_checkpoint(str(copy))
    assert field in str(caught.value)


def test_tokenizer_with_another_padding_id(copy: Path) -> None:
    edit_json(copy / "config.json", "text_config", "pad_token_id", value=5)
    with pytest.raises(CheckpointError, match="unsupported tokenizer"):
        load_checkpoint(str(copy))


def test_tokenizer_whose_merges_leave_a_token_out(copy: Path) -> None:
    """`tokenizers` never makes "in" where "i" was merged with what stands before it; merging by bytes would."""
    document = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    assert ["i", "n"] in document["model"]["merges"]
    vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
    assert not {"xi", "xin"} & set(vocabulary)
    for token in ("xin", "xi"):  # in place of the last two
        vocabulary[token] = vocabulary.pop("".join(merges.pop()))
    merges += [["x", "i"], ["xi", "n"]]
    (copy / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(CheckpointError, match="do not make its token 'xin'"):
        load_checkpoint(str(copy))


def test_tokenizer_of_another_kind(copy: Path) -> None:
    edit_json(copy / "tokenizer.json", "model", "ignore_merges", value=True)
    edit_json(copy / "tokenizer_config.json", "tokenizer_class", value="TokenizersBackend")
    with pytest.raises(CheckpointError, match=r"model\.ignore_merges is True"):
        load_checkpoint(str(copy))


@pytest.mark.parametrize("fusion", [False, True])
def test_log_mel_spec_is_the_checkpoints_own(tmp_path: Path, fusion: bool) -> None:
    """Nothing is assumed: both mel banks, and f_min, hop and clip length as configured, in either file format."""
    directory = save_random_checkpoint(tmp_path / "checkpoint", "tiny", fusion)
    (directory / "processor_config.json").unlink()
    ClapFeatureExtractor(
        frequency_min=80,
        frequency_max=12_000,
        hop_length=500,
        max_length_s=9,
        padding="repeat",
        truncation="fusion" if fusion else "rand_trunc",
    ).save_pretrained(directory)  # preprocessor_config.json, as hub repositories have it
    spec = load_checkpoint(str(directory)).log_mel
    assert (spec.f_min, spec.f_max, spec.hop_length, spec.clip_samples) == (80.0, 12_000.0, 500, 432_000)
    assert (spec.mel_scale, spec.mel_norm) == (("htk", "none") if fusion else ("slaney", "slaney"))
    assert (spec.padding, spec.frames) == ("repeat", 865)


def test_half_precision_weights_load_as_fp32(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file(
        {name: t.half() if t.is_floating_point() else t for name, t in weights.items()},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    edit_json(copy / "config.json", "dtype", value="float16")
    model = load_checkpoint(str(copy)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_hash_ignores_the_file_format(good: Path, tmp_path: Path) -> None:
    """The same weights in safetensors and in a pickled .bin are one model; one changed bit is another."""
    other = Path(shutil.copytree(good, tmp_path / "bin"))
    weights = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    torch.save(weights, other / "pytorch_model.bin")
    expected = load_checkpoint(str(good)).weights_sha256
    assert load_checkpoint(str(other)).weights_sha256 == expected
    weights["audio_projection.linear1.bias"][0] += 1e-3
    torch.save(weights, other / "pytorch_model.bin")
    assert load_checkpoint(str(other)).weights_sha256 != expected
