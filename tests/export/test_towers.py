"""The exported towers compute what transformers computes, on real recordings and texts of every padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from claprt_export.comparison import Comparison
from claprt_export.parity import reference_tower
from tests.export.helpers import Exported, features_of

Export = Callable[[str, bool], Exported]
SIZES = [
    pytest.param("tiny", id="tiny"),
    pytest.param("htsat-tiny", id="htsat-tiny", marks=pytest.mark.full),
    pytest.param("htsat-base", id="htsat-base", marks=pytest.mark.full),
]


def run_audio(model: Exported, features: NDArray[np.float32], is_longer: NDArray[np.bool_]) -> NDArray[np.float32]:
    inputs = {"input_features": features} | ({"is_longer": is_longer} if model.checkpoint.fusion else {})
    return np.asarray(model.audio.run(None, inputs)[0])


@pytest.mark.parametrize("fusion", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("size", SIZES)
def test_audio_tower_equals_transformers(exported: Export, shared_audio: Path, size: str, fusion: bool) -> None:
    """Batches 1, 3 and 8; `is_longer` none, all and mixed; and the sounds' vectors really differ."""
    model = exported(size, fusion)
    features = features_of(model.checkpoint, sorted(shared_audio.glob("*.ogg")), 8)
    patterns = {"none": np.zeros(8, bool), "all": np.ones(8, bool), "mixed": np.arange(8) % 3 == 1}
    results = {}
    for batch in (1, 3, 8):
        for name, pattern in patterns.items() if fusion else [("none", patterns["none"])]:
            is_longer = pattern[:batch, None]
            found = run_audio(model, features[:batch], is_longer)
            comparison = Comparison.of(found, reference_tower(model.checkpoint, features[:batch], is_longer))
            assert comparison.within_fp32_bounds(), (batch, name, str(comparison))
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
            if batch == 8:
                # Without a spread between sounds this test would prove nothing (random weights can hide everything).
                assert comparison.mean_cross_cosine < 0.95, (name, str(comparison))
                results[name] = found
    if fusion:
        # `is_longer` is live: it changes a vector, and only that one's.
        longer = patterns["mixed"]
        np.testing.assert_allclose(results["mixed"][~longer], results["none"][~longer], atol=1e-6)
        np.testing.assert_allclose(results["mixed"][longer], results["all"][longer], atol=1e-6)
        assert np.all((results["all"] * results["none"]).sum(axis=1) < 0.999)


@pytest.mark.parametrize("size", SIZES)
def test_text_tower_equals_transformers(exported: Export, size: str) -> None:
    """Padding of 0 to 70 tokens, texts of 2 to 512 tokens: same vectors, and padding changes none of them."""
    model = exported(size, False)
    rng = np.random.default_rng(0)
    pad = model.checkpoint.model.config.text_config.pad_token_id
    vocabulary = model.checkpoint.model.config.text_config.vocab_size
    bare = None
    for padding in (0, 1, 7, 29, 70):
        ids = np.full((4, 40 + padding), pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, length in enumerate((2, 9, 33, 40)):
            tokens = np.random.default_rng(row).integers(4, vocabulary, length)
            ids[row, :length], mask[row, :length] = tokens, 1
            ids[row, 0], ids[row, length - 1] = 0, 2
        found = np.asarray(model.text.run(None, {"input_ids": ids, "attention_mask": mask})[0])
        comparison = Comparison.of(found, reference_text(model, ids, mask))
        assert comparison.within_fp32_bounds(), (padding, str(comparison))
        assert comparison.mean_cross_cosine < 0.97, str(comparison)
        bare = found if bare is None else bare
        np.testing.assert_allclose(found, bare, atol=1e-6)
    ids = rng.integers(4, vocabulary, (1, 512))
    found = np.asarray(model.text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])
    assert Comparison.of(found, reference_text(model, ids, np.ones_like(ids))).within_fp32_bounds()


def reference_text(model: Exported, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    with torch.inference_mode():
        output = model.checkpoint.model.get_text_features(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
        )
    return np.asarray(output.pooler_output.numpy())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"depths": (1, 3), "num_attention_heads": (2, 2)}, id="two-stages-odd-depths"),
        pytest.param({"depths": (2, 2, 2), "num_attention_heads": (1, 2, 4)}, id="last-stage-is-shifted"),
        pytest.param({"window_size": 4}, id="window-4"),
        pytest.param({"num_mel_bins": 32}, id="ratio-8"),
        pytest.param({"enable_patch_layer_norm": False}, id="no-patch-norm"),
        pytest.param({"qkv_bias": False}, id="no-qkv-bias"),
        pytest.param({"patch_size": 8, "patch_stride": 4}, id="overlapping-patches"),
        pytest.param({"mlp_ratio": 2.0, "hidden_act": "relu"}, id="mlp-and-activation"),
        pytest.param({"projection_dim": 48, "projection_hidden_act": "gelu"}, id="projection"),
    ],
)
def test_other_configurations(changes: dict[str, Any]) -> None:
    """What the configuration allows besides the released sizes is either computed rightly or refused by name."""
    from claprt_export.checkpoint import refuse_unsupported
    from claprt_export.random_checkpoint import random_model
    from claprt_export.towers import AudioTower

    model = random_model("tiny", seed=3, **changes)
    refuse_unsupported(model.config, "a random checkpoint")
    features = torch.randn(2, 1, 1001, model.config.audio_config.num_mel_bins) * 15 - 30
    if model.config.audio_config.num_mel_bins == 32:
        features = features[:, :, :900]  # a shorter clip than the image is wide
    with torch.inference_mode():
        expected = model.get_audio_features(input_features=features).pooler_output
        found = AudioTower(model, features.shape[2]).eval()(features)
    assert Comparison.of(found.numpy(), expected.numpy()).within_fp32_bounds()
