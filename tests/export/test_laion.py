"""LAION's own checkpoints: every weight arrives where it belongs, and a bundle computes what LAION's code does."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import claprt
from claprt.cli.main import main
from claprt.errors import CheckpointError, OptionError
from claprt_export.build import build
from claprt_export.checkpoint import Checkpoint, load_checkpoint
from claprt_export.comparison import Comparison
from claprt_export.demo import CHECKPOINTS
from claprt_export.random_checkpoint import random_model
from tests.export.laion_writer import Weights, laion_model, laion_state_dict, roberta_of, save_laion
from tests.sounds import noise

TOKENIZER = str(CHECKPOINTS["unfused"])  # 1,024 entries
TEXTS = ["a dog barking", "rain on a tin roof, far away", "siren " * 200]


def load(path: Path, **options: Any) -> Checkpoint:
    return load_checkpoint(str(path), tokenizer=TOKENIZER, **options)


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model, and the file that LAION's code would have saved of it."""
    model = laion_model(request.param)
    return model, save_laion(tmp_path_factory.mktemp("laion") / "epoch_15.pt", laion_state_dict(model))


def assert_same_weights(found: Any, expected: Any) -> None:
    theirs = expected.state_dict()
    assert found.state_dict().keys() == theirs.keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_every_weight_arrives_bit_for_bit(written: tuple[Any, Path]) -> None:
    model, path = written
    checkpoint = load(path)
    assert_same_weights(checkpoint.model, model)
    found, config = checkpoint.model.config, model.config
    for name in ("depths", "num_attention_heads"):
        assert list(getattr(found.audio_config, name)) == list(getattr(config.audio_config, name))
    for name in ("patch_embeds_hidden_size", "hidden_size", "window_size", "mlp_ratio", "num_mel_bins"):
        assert getattr(found.audio_config, name) == getattr(config.audio_config, name)
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(found.text_config, name) == getattr(config.text_config, name)
    assert found.text_config.layer_norm_eps == 1e-5  # roberta-base's; ClapTextConfig's default is 1e-12
    assert checkpoint.embedding_dim == config.projection_dim == 512
    assert checkpoint.fusion == config.audio_config.enable_fusion
    assert checkpoint.max_tokens == 512


def test_weights_are_those_of_transformers_conversion_script(written: tuple[Any, Path]) -> None:
    """transformers 4.40 had the script, 4.57 has it no more; only its function for names is run."""
    name = "transformers.models.clap.convert_clap_original_pytorch_to_hf"
    spec = importlib.util.find_spec(name)
    script = os.environ.get("CLAPRT_CLAP_CONVERSION_SCRIPT") or (spec.origin if spec else None)
    if script is None:
        pytest.skip(f"this transformers has no {name}; set CLAPRT_CLAP_CONVERSION_SCRIPT to the file of an older one")
    model, path = written
    nodes: list[ast.stmt] = [
        node
        for node in ast.parse(Path(script).read_text(encoding="utf-8")).body
        if (isinstance(node, ast.FunctionDef) and node.name == "rename_state_dict")
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KEYS_TO_MODIFY_MAPPING")
    ]
    names: dict[str, Any] = {"re": re}
    exec(compile(ast.Module(nodes, []), script, "exec"), names)
    theirs = names["rename_state_dict"](laion_state_dict(model))
    ours = load(path).model.state_dict()
    assert {key for key in ours if key not in theirs} == {"text_model.embeddings.token_type_ids"}
    for key in ours.keys() & theirs.keys():
        assert torch.equal(ours[key], theirs[key]), key


def test_log_mel_is_laions(written: tuple[Any, Path]) -> None:
    model, path = written
    fused = model.config.audio_config.enable_fusion
    spec = load(path).log_mel
    assert (spec.sampling_rate, spec.n_fft, spec.hop_length, spec.clip_samples) == (48_000, 1024, 480, 480_000)
    assert (spec.n_mels, spec.f_min, spec.f_max) == (64, 50.0, 14_000.0)
    assert (spec.mel_scale, spec.mel_norm) == (("htk", "none") if fused else ("slaney", "slaney"))
    assert (spec.padding, spec.int16) == ("repeatpad", True)
    assert load(path, int16=False).log_mel.int16 is False


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".PT"])
def test_forms_of_the_file(tmp_path: Path, module: bool, training: bool, suffix: str) -> None:
    """With the training's state around the weights or bare, from one GPU or several."""
    model = laion_model()
    path = save_laion(tmp_path / f"model{suffix}", laion_state_dict(model), module, training)
    assert_same_weights(load(path).model, model)


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_learning_rates_of_old_and_new_numpy(tmp_path: Path, name: str) -> None:
    """NumPy moved the function that its scalars are pickled with; neither name is resolved."""
    model = laion_model()
    path = save_laion(tmp_path / "model.pt", laion_state_dict(model))
    data = path.read_bytes()
    moved = b"cnumpy._core.multiarray\nscalar" if b"cnumpy._core" in data else b"cnumpy.core.multiarray\nscalar"
    assert moved in data
    wanted = f"c{name}\nscalar".encode()
    if wanted != moved:
        rewrite(path, lambda pickle: pickle.replace(moved, wanted))
    assert_same_weights(load(path).model, model)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle inside a file of torch.save; the tensors stay as they are."""
    reader = torch._C.PyTorchFileReader(str(path))
    records = {name: reader.get_record(name) for name in reader.get_all_records()}
    del reader
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in records.items():
        if name not in ("version", ".data/serialization_id"):
            changed = change(data) if name == "data.pkl" else data
            writer.write_record(name, changed, len(changed))
    writer.write_end_of_file()


def test_same_weights_have_the_same_hash_as_in_transformers_format(written: tuple[Any, Path], tmp_path: Path) -> None:
    from transformers import ClapFeatureExtractor, ClapProcessor

    model, path = written
    fused = model.config.audio_config.enable_fusion
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="fusion" if fused else "rand_trunc")
    model.save_pretrained(tmp_path / "theirs")
    ClapProcessor(extractor, AutoTokenizer.from_pretrained(TOKENIZER)).save_pretrained(tmp_path / "theirs")
    theirs = load_checkpoint(str(tmp_path / "theirs"))
    assert load(path).weights_sha256 == theirs.weights_sha256
    assert theirs.log_mel.int16 is False
    assert load_checkpoint(str(tmp_path / "theirs"), int16=True).log_mel == load(path).log_mel


def test_half_precision(tmp_path: Path) -> None:
    weights = laion_state_dict(laion_model())
    halves = Weights((name, t.half() if t.is_floating_point() else t) for name, t in weights.items())
    model = load(save_laion(tmp_path / "half.pt", halves)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.audio_projection.linear1.weight, weights["audio_projection.0.weight"].half().float())


def test_weights_are_copies(tmp_path: Path) -> None:
    """The file may be overwritten afterwards: nothing of the model is mapped from it."""
    model = laion_model()
    path = save_laion(tmp_path / "model.pt", laion_state_dict(model))
    checkpoint = load(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert_same_weights(checkpoint.model, model)


def test_the_training_state_takes_no_memory(tmp_path: Path) -> None:
    weights = laion_state_dict(laion_model())
    path = tmp_path / "training.pt"
    moments = torch.ones(64 << 20)  # 256 MB
    torch.save({"state_dict": weights, "optimizer": {"state": {0: {"exp_avg": moments}}}}, path)
    del moments
    load(path)  # what torch and transformers load once is not counted
    statm = Path("/proc/self/statm")
    before = int(statm.read_text().split()[1])
    checkpoint = load(path)
    grown = (int(statm.read_text().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE")
    assert checkpoint.embedding_dim == 512
    assert grown < 64 << 20


@pytest.fixture(scope="module")
def bundle(written: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    build(str(written[1]), path, tokenizer=TOKENIZER)
    return path


def laion_round_trip(waveform: np.ndarray) -> np.ndarray:
    """What LAION's code does to a waveform first (data.py): through int16, and back."""
    integers = (np.clip(waveform, -1.0, 1.0) * np.float32(32767.0)).astype(np.int16)
    back: np.ndarray = (integers / 32767.0).astype(np.float32)
    return back


def test_bundle_embeds_sounds_as_transformers_does_after_laions_round_trip(
    written: tuple[Any, Path], bundle: Path
) -> None:
    model, _ = written
    clap = claprt.load(bundle)
    assert clap.manifest.audio.log_mel.int16
    extractor = load(written[1]).feature_extractor
    waveforms = [noise(samples, seed=samples) for samples in (48_000, 200_000, 480_000)]
    waveforms += [noise(100_000) * 15, noise(480_000, seed=3) * np.float32(2e-4)]  # clipped; almost lost in int16
    found = clap.embed_audio(list(waveforms))
    expected: list[np.ndarray] = []
    without: list[np.ndarray] = []
    for waveform in waveforms:
        for heard, vectors in ((laion_round_trip(waveform), expected), (waveform, without)):
            inputs = extractor(heard, sampling_rate=48_000, return_tensors="pt")
            with torch.inference_mode():
                output = model.get_audio_features(inputs["input_features"], torch.zeros(1, 1, dtype=torch.bool))
            vectors.append(output.pooler_output[0].numpy())
    comparison = Comparison.of(found, np.stack(expected))
    assert comparison.within_fp32_bounds(), str(comparison)
    assert not Comparison.of(found, np.stack(without)).within_fp32_bounds()  # the switch is what does it


def test_bundle_embeds_texts_as_laions_text_tower_does(written: tuple[Any, Path], bundle: Path) -> None:
    """RobertaModel and the projection, as in LAION's `encode_text`; up to 77 tokens, as there."""
    model, _ = written
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    texts = TEXTS[:2]
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    first, second = model.text_projection.linear1, model.text_projection.linear2
    with torch.inference_mode():
        pooled = roberta_of(model)(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        expected = torch.nn.functional.normalize(second(torch.relu(first(pooled))), dim=-1).numpy()
    comparison = Comparison.of(claprt.load(bundle).embed_text(texts), expected)
    assert comparison.within_fp32_bounds(), str(comparison)


def test_long_sounds_go_through_int16_in_every_recipe(written: tuple[Any, Path], bundle: Path) -> None:
    """What is embedded of a loud, faint or long sound is what is embedded of its int16 round trip."""
    clap = claprt.load(bundle)
    waveform = noise(1_300_000) * np.linspace(0, 12, 1_300_000, dtype=np.float32)
    for recipe in ("head", "windows", "fusion") if clap.manifest.audio.fusion else ("head", "windows"):
        found = clap.embed_audio([waveform, laion_round_trip(waveform)], recipe=recipe)
        np.testing.assert_array_equal(found[0], found[1])


def test_bundle_says_where_it_is_from(written: tuple[Any, Path], bundle: Path) -> None:
    """The file's name, never its directory."""
    text = (bundle / "manifest.json").read_text()
    assert json.loads(text)["model"]["source"] == "epoch_15.pt"
    assert json.loads(text)["model"]["weights_sha256"] == load(written[1]).weights_sha256
    assert str(written[1].parent) not in text
    assert TOKENIZER not in text


@pytest.mark.parametrize(("options", "int16"), [([], None), (["--int16"], True), (["--no-int16"], False)])
def test_command_line(options: list[str], int16: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def instead(source: str, output: Path, **named: Any) -> None:
        given.update(named, source=source)
        raise CheckpointError("seen")

    monkeypatch.setattr("claprt_export.build.build", instead)
    assert main(["build", "a.pt", "-o", "b", "--tokenizer", "c", *options]) == 2
    assert (given["source"], given["tokenizer"], given["int16"]) == ("a.pt", "c", int16)


def test_tokenizer_is_only_for_files_without_one(tmp_path: Path) -> None:
    for source in ("demo", TOKENIZER, "laion/clap-htsat-unfused"):
        with pytest.raises(OptionError, match="has its own tokenizer"):
            load_checkpoint(source, tokenizer=TOKENIZER)


def test_tokenizers_that_do_not_fit(written: tuple[Any, Path], tmp_path: Path) -> None:
    _, path = written
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for tokenizer, reason in (
        (tmp_path / "empty", "cannot load the tokenizer that --tokenizer names"),
        (tmp_path / "file", "neither a directory nor a hub id"),
        ("", "neither a directory nor a hub id"),
        (smaller(tmp_path / "smaller"), "it has 1023 entries"),
    ):
        with pytest.raises(CheckpointError, match=reason) as caught:
            load_checkpoint(str(path), tokenizer=str(tokenizer))
        assert "--tokenizer" in str(caught.value)


def smaller(directory: Path) -> Path:
    """The demo's tokenizer without its last merge."""
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(directory)
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    del vocabulary[last]
    document["model"]["merges"] = [pair for pair in merges if "".join(pair) != last]
    (directory / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return directory


def test_without_a_hub_the_error_names_the_option(
    written: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="roberta-base") as caught:
        load_checkpoint(str(written[1]))
    assert "--tokenizer" in str(caught.value)
    assert "\n" not in str(caught.value)


def roberta_tokenizer(directory: Path) -> Path:
    """A tokenizer with as many entries as roberta-base's, of which only the demo's are ever used."""
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(directory)
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["vocab"].update({f"<unused-{index}>": index for index in range(1024, 50_265)})
    (directory / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return directory


@pytest.mark.full
@pytest.mark.parametrize(
    ("size", "fusion"), [("htsat-tiny", False), ("htsat-tiny", True), ("htsat-base", False)], ids=str
)
def test_full_size(tmp_path: Path, shared_audio: Path, size: str, fusion: bool) -> None:
    """630k-audioset-best, 630k-audioset-fusion-best and the music checkpoints in size and shape, file to vectors."""
    model = random_model(size, fusion)
    path = save_laion(tmp_path / "model.pt", laion_state_dict(model))
    tokenizer = str(roberta_tokenizer(tmp_path / "tokenizer"))
    checkpoint = load_checkpoint(str(path), tokenizer=tokenizer)
    assert_same_weights(checkpoint.model, model)
    assert list(checkpoint.model.config.audio_config.depths) == list(model.config.audio_config.depths)
    assert checkpoint.model.config.text_config.num_attention_heads == 12
    manifest = build(str(path), tmp_path / "bundle", tokenizer=tokenizer, recordings=shared_audio)
    assert manifest.model.embedding_dim == 512
    assert manifest.verification["fp32"]["audio"]["mean_cross_cosine"] < 0.95
