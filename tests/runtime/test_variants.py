"""Which of a bundle's variants runs, and that its vectors may be used beside the others'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import claprt
from claprt.engines import ort
from claprt.errors import BackendError, BundleError, OptionError
from claprt.model import load_variant
from claprt_export.on_cpu import running
from tests.runtime.cli_helpers import Cli

RATE = 48_000
WAVES = [np.random.default_rng(seed).normal(0, 0.1, RATE * 2).astype(np.float32) for seed in range(2)]
TEXTS = ["a dog barking", "rain on a tin roof"]


def with_variants(bundle: Path, folder: Path, *names: str) -> Path:
    """A copy whose manifest lists these variants; the other graphs are deleted."""
    copied = shutil.copytree(bundle, folder / "changed")
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    for tower in ("audio", "text"):
        variants = manifest[tower]["variants"]
        for name in set(variants) - set(names):
            (copied / variants.pop(name)["file"]).unlink()
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copied


@pytest.mark.parametrize("precision", [None, "fp32", "fp16", "int8"])
def test_precision_chooses_the_variant(
    demo_bundle: Path, precision: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """INT8 on a CPU is the graph that was made for CPUs; it is named in the log; vectors are of unit length."""
    with caplog.at_level("INFO", logger="claprt"):
        clap = claprt.load(demo_bundle, precision=precision)
    name = precision or "fp32"
    assert clap.precision == name
    assert clap.variant == {"int8": "int8-cpu"}.get(name, name)
    assert f"variant {clap.variant}" in caplog.text
    for vectors in (clap.embed_audio(WAVES), clap.embed_text(TEXTS)):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_vectors_of_variants_are_comparable(demo_bundle: Path) -> None:
    """Close to FP32's, in the same space, and not FP32's own: each variant is another graph."""
    exact = claprt.load(demo_bundle)
    seen = [exact.embed_text(TEXTS)]
    for variant in ("fp16", "int8", "int8-cpu"):
        with running(demo_bundle, variant) as clap:
            assert clap.space_id == exact.space_id
            text, audio = clap.embed_text(TEXTS), clap.embed_audio(WAVES)
        assert (text * exact.embed_text(TEXTS)).sum(1).min() > 0.998
        assert (audio * exact.embed_audio(WAVES)).sum(1).min() > 0.998
        assert all(np.abs(text - other).max() > 1e-6 for other in seen)
        seen.append(text)


def test_a_bundle_with_the_gpu_form_only(demo_bundle: Path, tmp_path: Path) -> None:
    """It runs on a CPU too, and says what it is; FP32 must then be asked for in vain."""
    clap = claprt.load(with_variants(demo_bundle, tmp_path, "int8"), precision="int8")
    assert (clap.variant, clap.precision) == ("int8", "int8")
    if ort.quantizes_half():
        assert clap.embed_text(TEXTS).shape == (2, clap.embedding_dim)
    else:
        with pytest.raises(BackendError, match=r"computes the variant int8 wrong on a CPU"):
            clap.embed_text(TEXTS)
    with pytest.raises(OptionError, match=r"the bundle has no fp32: .* it has int8"):
        claprt.load(tmp_path / "changed")


def test_the_gpu_form_is_refused_where_it_would_be_wrong(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime before 1.30, of which Python 3.10 has no newer one. The other form is right there."""
    monkeypatch.setattr(ort, "quantizes_half", lambda: False)
    clap = claprt.load(with_variants(demo_bundle, tmp_path, "int8"), precision="int8")
    refused = r"int8 wrong on a CPU .*changed; build the bundle again"
    with pytest.raises(BackendError, match=refused):
        clap.embed_text(TEXTS)
    with pytest.raises(BackendError, match=refused):
        clap.embed_audio(WAVES)
    assert claprt.load(demo_bundle, precision="int8").embed_text(TEXTS).shape[0] == 2


def test_a_bundle_with_the_cpu_form_only(demo_bundle: Path, tmp_path: Path) -> None:
    copied = with_variants(demo_bundle, tmp_path, "fp32", "int8-cpu")
    assert claprt.load(copied, precision="int8").variant == "int8-cpu"
    assert claprt.load(copied).variant == "fp32"
    with pytest.raises(OptionError, match=r"the bundle has no int8: .* it has fp32, int8-cpu"):
        load_variant(copied, "int8")


@pytest.mark.parametrize("name", ["int8-cpu", "int4", ""])
def test_a_variant_is_no_precision(demo_bundle: Path, name: str) -> None:
    with pytest.raises(OptionError, match="unknown precision"):
        claprt.load(demo_bundle, precision=name)


def test_a_damaged_variant_is_found_when_it_is_used(demo_bundle: Path, tmp_path: Path) -> None:
    """And only then: the others still run."""
    copied = with_variants(demo_bundle, tmp_path, "fp32", "int8-cpu")
    graph = copied / "audio.int8-cpu.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match=r"audio\.int8-cpu\.onnx"):
        claprt.load(copied, precision="int8").embed_audio(np.ones(48_000, np.float32))
    assert claprt.load(copied).precision == "fp32"


def test_classify_and_embed_in_int8(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """The command line takes the precision and says which it was."""
    result = cli("classify", demo_bundle, sounds / "one.wav", "--labels", "a,b", "--precision", "int8", "--json")
    assert result.json["precision"] == "int8"
    assert cli("embed", demo_bundle, sounds / "one.wav", "--precision", "int8", "-o", tmp_path / "v.npz").code == 0
    expected = claprt.load(demo_bundle, precision="int8").embed_audio(sounds / "one.wav")
    np.testing.assert_array_equal(claprt.load_embeddings(tmp_path / "v.npz").vectors, expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--precision", "int4"], "unknown precision: 'int4'"),
        (["--precision", "fp16,,int8"], "unknown precision: ''"),
        (["--precision", ""], "unknown precision: ''"),
        (["--calibration", "."], "without INT8"),
        (["--precision", "fp32,int8", "--calibration", "no/such/folder"], "does not exist: no/such/folder"),
    ],
)
def test_build_options(cli: Cli, tmp_path: Path, options: list[str], reason: str) -> None:
    """Refused at once, in one line, and nothing is written."""
    assert reason in cli("build", "demo", "-o", tmp_path / "bundle", *options).error
    assert not list(tmp_path.iterdir())
