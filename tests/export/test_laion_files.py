"""Files that are no checkpoint of LAION's, or a hostile one: one line says so, and nothing in them runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.audio_utils import mel_filter_bank

from claprt.cli.main import main
from claprt.errors import CheckpointError
from claprt_export import laion_file
from claprt_export.checkpoint import load_checkpoint
from claprt_export.demo import CHECKPOINTS
from tests.export.laion_writer import Weights, laion_model, laion_state_dict, save_laion

TOKENIZER = str(CHECKPOINTS["unfused"])
BLOCK = "audio_branch.layers.1.blocks.0."


@pytest.fixture(scope="module")
def pristine() -> dict[bool, Weights]:
    return {fusion: laion_state_dict(laion_model(fusion)) for fusion in (False, True)}


@pytest.fixture
def weights(pristine: dict[bool, Weights]) -> Weights:
    """A good state dict, to be spoilt; its tensors are shared: replace them, do not write to them."""
    return Weights(pristine[False])


UNUSED = re.compile(
    r"attn_mask|relative_position_index|num_batches_tracked|position_ids|spectrogram_extractor|tscam_conv|\.head\."
    r"|_transform\."
)


def slim(weights: Weights) -> Weights:
    """Without what the model does not use: a tenth of the bytes."""
    return Weights((name, tensor) for name, tensor in weights.items() if not UNUSED.search(name))


def refused(path: Path) -> str:
    """The one-line message that a file is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(path), tokenizer=TOKENIZER)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 800
    return message


# Files of another kind.


@pytest.mark.parametrize(
    "content", [b"", b"P", b"PK", b"PK\x03\x04", b"not a checkpoint", b"\x00" * 10_000, b"\x80\x02."]
)
def test_not_an_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert "checkpoint" in refused(path)


def test_safetensors(tmp_path: Path, weights: Weights) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, tmp_path / "model.pt")
    assert "not as a zip archive does" in refused(tmp_path / "model.pt")


def test_torchscript(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "model.pt"))
    assert "TorchScript" in refused(tmp_path / "model.pt")


def test_files_of_torch_before_1_6(tmp_path: Path, weights: Weights) -> None:
    torch.save(weights, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert "not as a zip archive does" in refused(tmp_path / "model.pt")


def test_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("notes/readme.txt", "nothing")
    assert "without a data.pkl" in refused(tmp_path / "model.pt")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.pt")
    (tmp_path / "directory.pt").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_checkpoint(str(tmp_path / "directory.pt"))


@pytest.mark.parametrize(
    "whole",
    [[1, 2], torch.zeros(3), {}, {"state_dict": {}}, {"state_dict": [1]}, {"a": 1}, {"state_dict": {"a": "b"}}, {1: 2}],
    ids=repr,
)
def test_no_state_dict_inside(tmp_path: Path, whole: Any) -> None:
    torch.save(whole, tmp_path / "model.pt")
    assert "not a checkpoint" in refused(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path: Path, weights: Weights, share: float) -> None:
    path = save_laion(tmp_path / "model.pt", weights)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "damaged" in refused(path)


def test_bytes_changed_anywhere(tmp_path: Path, weights: Weights) -> None:
    """Whatever breaks, it is a CheckpointError or a checkpoint: never a crash, never another exception."""
    path = save_laion(tmp_path / "model.pt", slim(weights))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = next(item for item in archive.infolist() if item.filename.endswith("data.pkl"))
    random = np.random.default_rng(5)
    inside = random.integers(entry.header_offset, entry.header_offset + entry.file_size, 50)
    directory = random.integers(len(data) - 5_000, len(data), 50)
    for position in (*inside, *directory):
        changed = bytearray(data)
        changed[position] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            load_checkpoint(str(path), tokenizer=TOKENIZER)


# Hostile files.


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def write_marker(path: str) -> None:
    """What must never be called."""
    Path(path).touch()


@pytest.mark.parametrize("place", ["weight", "beside", "whole", "name"])
@pytest.mark.parametrize("kind", ["eval", "system", "function of ours", "numpy", "torch", "bytearray", "getattr"])
def test_code_does_not_run(tmp_path: Path, weights: Weights, place: str, kind: str) -> None:
    marker = tmp_path / "marker"
    evil = {
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "system": Call(os.system, f"touch {marker}"),
        "function of ours": Call(write_marker, str(marker)),
        "numpy": Call(np.load, str(marker)),
        "torch": Call(torch.load, str(marker)),
        "bytearray": Call(bytearray, 1 << 50),
        "getattr": Call(getattr, "x", "upper"),
    }[kind]
    whole: Any = {"state_dict": weights, "epoch": 15}
    if place == "weight":
        weights["logit_scale_a"] = evil  # type: ignore[assignment]
    elif place == "beside":
        whole["optimizer"] = evil
    elif place == "whole":
        whole = evil
    else:
        whole = {"state_dict": weights, "name": [evil]}
    torch.save(whole, tmp_path / "model.pt")
    assert "unsafe checkpoint" in refused(tmp_path / "model.pt")
    assert not marker.exists()


def repack(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the archive anew with other contents."""
    with zipfile.ZipFile(path) as archive:
        contents = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, change(name, data))


@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_hand_made_pickles(tmp_path: Path, weights: Weights, protocol: int) -> None:
    """Another pickle in the archive's place, in protocols that torch does not write."""
    path, marker = save_laion(tmp_path / "model.pt", weights), tmp_path / "marker"
    code = pickle.dumps(Call(write_marker, str(marker)), protocol)
    repack(path, lambda name, data: code if name.endswith("data.pkl") else data)
    assert "unsafe checkpoint" in refused(path)
    assert not marker.exists()


def test_compressed_archive(tmp_path: Path, weights: Weights) -> None:
    """torch.save only stores: a compressed entry can be of any size."""
    path = save_laion(tmp_path / "model.pt", weights)
    repack(path, lambda name, data: data + bytes(1 << 20), zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(path)


def test_archive_that_claims_more_than_it_has(tmp_path: Path) -> None:
    """Entries that overlap: each of a thousand is the same megabyte."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(1 << 20))
        again = archive.getinfo("archive/data/0")
        archive.filelist.extend([again] * 1000)
    assert "claims to hold more" in refused(path)


def test_large_pickle(tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laion_file, "_MAX_PICKLE", 1000)
    assert "its pickle has" in refused(save_laion(tmp_path / "model.pt", weights))


def test_weights_larger_than_the_file(tmp_path: Path, weights: Weights) -> None:
    """A vocabulary of a billion in one row of bytes, by strides of zero."""
    rows = "text_branch.embeddings.word_embeddings.weight"
    weights[rows] = weights[rows][:1].clone().expand(1024, -1)
    assert "its weights claim" in refused(save_laion(tmp_path / "model.pt", weights))
    weights[rows] = weights[rows][:1].clone().expand(1 << 40, -1)
    assert "1099511627776 embeddings" in refused_for_tokenizer(save_laion(tmp_path / "model.pt", weights))


def refused_for_tokenizer(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(path), tokenizer=TOKENIZER)
    return str(caught.value)


def test_weights_that_share_their_bytes(tmp_path: Path, weights: Weights) -> None:
    name = BLOCK + "attn.proj.weight"
    weights[name.replace("1.blocks.0", "1.blocks.1")] = weights[name]
    assert "its weights claim" in refused(save_laion(tmp_path / "model.pt", weights))


def test_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    assert main(["build", str(tmp_path / "model.pt"), "-o", str(tmp_path / "bundle")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("claprt: ")
    assert err.count("\n") == 1
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt"]


# State dicts that are not the whole of a supported CLAP.


def test_each_missing_weight_is_named(tmp_path: Path, pristine: dict[bool, Weights]) -> None:
    """One of every kind of weight, fused and not: none is filled in."""
    whole = slim(pristine[True])
    kinds = {re.sub(r"(?<=layers\.)\d|(?<=layer\.)\d|(?<=blocks\.)\d", "1", name) for name in whole}
    for name in sorted(kinds & whole.keys()):
        rest = Weights((key, tensor) for key, tensor in whole.items() if key != name)
        assert f"{name} is missing" in refused(save_laion(tmp_path / "model.pt", rest))


def test_what_is_not_used_may_be_missing(tmp_path: Path, pristine: dict[bool, Weights]) -> None:
    load_checkpoint(str(save_laion(tmp_path / "model.pt", slim(pristine[True]))), tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    "name",
    [
        "something",
        "audio_branch.absolute_pos_embed",
        "audio_branch.layers.5.blocks.0.norm1.weight",
        BLOCK + "attn.qkv.scale",
        BLOCK + "attn.query.weight",
        "text_branch.encoder.layer.7.output.dense.weight",
        "text_branch.encoder.layer.1000000000.output.dense.weight",
        "text_projection.4.weight",
        "module.logit_scale_a",
        "audio_model.audio_encoder.batch_norm.weight",
        "logit_scale",
        "a\nb",
    ],
)
def test_unknown_keys(tmp_path: Path, weights: Weights, name: str) -> None:
    weights[name] = torch.ones(3)
    message = refused(save_laion(tmp_path / "model.pt", weights, module=False))
    assert repr(name) in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name",
    ["logit_scale_a", BLOCK + "attn.qkv.bias", "text_branch.pooler.dense.weight", "audio_branch.bn0.running_var"],
)
def test_values_that_are_not_finite(tmp_path: Path, weights: Weights, name: str, value: float) -> None:
    weights[name] = weights[name].clone()
    weights[name].view(-1)[-1] = value
    assert f"{name} has values that are not finite" in refused(save_laion(tmp_path / "model.pt", weights))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (BLOCK + "attn.qkv.weight", lambda t: t[:-1].clone()),
        (BLOCK + "attn.qkv.bias", lambda t: t[:32].clone()),
        (BLOCK + "mlp.fc1.weight", lambda t: t.T.clone()),
        (BLOCK + "norm1.weight", lambda t: t.long()),
        (BLOCK + "attn.proj.weight", lambda t: t.to(torch.int8)),
        ("audio_branch.bn0.weight", lambda t: t[:32].clone()),
        ("audio_branch.bn0.weight", lambda t: t[None].clone()),
        ("audio_branch.patch_embed.proj.weight", lambda t: t[:, :, :3].clone()),
        ("audio_projection.0.weight", lambda t: t[:, :-1].clone()),
        ("text_branch.embeddings.position_embeddings.weight", lambda t: t[:0].clone()),
        ("text_branch.embeddings.word_embeddings.weight", lambda t: t[:, :96].clone()),
        ("logit_scale_t", lambda t: t.repeat(2)),
    ],
)
def test_other_shapes_and_types(tmp_path: Path, weights: Weights, name: str, change: Callable[[Any], Any]) -> None:
    weights[name] = change(weights[name])
    message = refused(save_laion(tmp_path / "model.pt", slim(weights)))
    assert "unsupported" in message or "incomplete" in message


@pytest.mark.parametrize(
    "bank",
    [
        mel_filter_bank(513, 64, 50, 14_000, 48_000, norm=None, mel_scale="htk"),
        mel_filter_bank(513, 64, 0, 14_000, 48_000, norm="slaney", mel_scale="slaney"),
        mel_filter_bank(513, 64, 50, 14_050, 48_000, norm="slaney", mel_scale="slaney"),
        mel_filter_bank(513, 64, 50, 14_000, 44_100, norm="slaney", mel_scale="slaney"),
        mel_filter_bank(257, 64, 50, 14_000, 48_000, norm="slaney", mel_scale="slaney"),
        np.full((513, 64), np.nan),
        np.zeros(()),
    ],
    ids=["htk", "f_min", "f_max", "rate", "n_fft", "nan", "scalar"],
)
def test_trained_on_other_spectrograms(tmp_path: Path, weights: Weights, bank: np.ndarray) -> None:
    weights["audio_branch.logmel_extractor.melW"] = torch.from_numpy(bank).float()
    assert "is not the mel bank" in refused(save_laion(tmp_path / "model.pt", weights))


def test_another_image(tmp_path: Path, weights: Weights) -> None:
    weights["audio_branch.layers.0.blocks.1.attn_mask"] = torch.zeros(16, 64, 64)
    assert "attn_mask has the shape [16, 64, 64]" in refused(save_laion(tmp_path / "model.pt", weights))


@pytest.mark.parametrize("changed", ["nothing masked", "one pair", "where none is"])
def test_other_attention_masks(tmp_path: Path, weights: Weights, changed: str) -> None:
    """LAION's code would compute with them: what claprt computes would be something else."""
    key = "audio_branch.layers.0.blocks.1.attn_mask"
    if changed == "nothing masked":
        weights[key] = torch.zeros_like(weights[key])
    elif changed == "one pair":
        weights[key] = weights[key].clone()
        weights[key][63, 0, 1] = -100.0 - weights[key][63, 0, 1]
    else:
        key = "audio_branch.layers.0.blocks.0.attn_mask"
        weights[key] = weights["audio_branch.layers.0.blocks.1.attn_mask"].clone()
    assert f"{key} of shape [64, 64, 64] does not mask" in refused(save_laion(tmp_path / "model.pt", weights))


def without(weights: Weights, prefix: str) -> Weights:
    return Weights((name, tensor) for name, tensor in weights.items() if not name.startswith(prefix))


@pytest.mark.parametrize(
    ("tower", "keys"),
    [
        ("BERT", {"text_branch.embeddings.token_type_embeddings.weight": (2, 128)}),
        ("BART", {"text_branch.shared.weight": (1024, 128), "text_branch.encoder.layers.0.fc1.weight": (4, 4)}),
        ("CLIP transformer", {"text_branch.resblocks.0.ln_1.weight": (128,), "positional_embedding": (77, 128)}),
        ("PANN", {"audio_branch.conv_block1.conv1.weight": (64, 1, 3, 3)}),
    ],
)
def test_other_towers_are_refused_by_name(
    tmp_path: Path, weights: Weights, tower: str, keys: dict[str, tuple[int, ...]]
) -> None:
    if tower in ("BART", "CLIP transformer"):
        weights = without(weights, "text_branch.")
    elif tower == "PANN":
        weights = without(weights, "audio_branch.layers.")
    weights.update({name: torch.zeros(shape) for name, shape in keys.items()})
    message = refused(save_laion(tmp_path / "model.pt", weights))
    assert f"tower is {tower};" in message


@pytest.mark.parametrize(
    ("fusion", "keys"),
    [
        ("iaff_2d", {"audio_branch.patch_embed.fusion_model.local_att2.0.weight": (4, 16, 1, 1)}),
        ("daf_2d", {"audio_branch.patch_embed.mel_conv2d.weight": (16, 1, 4, 12)}),
        ("1d", {"audio_branch.mel_conv1d.0.weight": (64, 64, 5)}),
        ("patch_embed_input_channels", {"audio_branch.patch_embed.proj.weight": (16, 4, 4, 4)}),
    ],
)
def test_other_fusions_are_refused_by_name(
    tmp_path: Path, weights: Weights, fusion: str, keys: dict[str, tuple[int, ...]]
) -> None:
    weights.update({name: torch.zeros(shape) for name, shape in keys.items()})
    assert fusion in refused(save_laion(tmp_path / "model.pt", weights))


def test_other_weights_altogether(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "model.pt")
    assert "is missing" in refused(tmp_path / "model.pt")
