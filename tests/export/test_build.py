"""`build`: the bundle is whole, verified and equal to its checkpoint end to end, or it is not there."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import claprt
from claprt.bundle import open_bundle
from claprt.errors import AudioError, BundleError, ClaprtError, ExportError, OptionError
from claprt_export import comparison, graph, parity
from claprt_export.build import build
from claprt_export.checkpoint import load_checkpoint
from claprt_export.demo import sounds
from claprt_export.random_checkpoint import save_random_checkpoint
from tests.export import on_tensorrt


def left_over(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "checkpoint")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks, one of them shifted, and a merge: every kind of layer, in the time that one build takes."""
    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    return save_random_checkpoint(folder, "tiny", depths=(2, 1), num_attention_heads=(1, 2))


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle in FP32. Read only."""
    path = tmp_path_factory.mktemp("built") / "bundle"
    build(str(checkpoint), path)
    return path


@pytest.mark.parametrize("name", ["demo_bundle", "demo_fused_bundle"])
def test_demo_bundle(request: pytest.FixtureRequest, name: str) -> None:
    """All files and no others; the bounds hold and are in the manifest; different sounds have different vectors."""
    path: Path = request.getfixturevalue(name)
    manifest = open_bundle(path).manifest
    graphs = [f"{tower}.{name}.onnx" for tower in ("audio", "text") for name in manifest.variants]
    assert manifest.variants == ("fp32", "fp16", "int8", "int8-cpu")
    assert left_over(path) == sorted([*graphs, "manifest.json", "report.json", "report.md", "tokenizer.json"])
    result = manifest.verification["fp32"]
    for tower in ("audio", "text"):
        assert result[tower]["worst_cosine"] >= 0.999999
        assert result[tower]["max_abs"] <= 1e-5
        assert result[tower]["mean_cross_cosine"] < 0.9
    assert manifest.audio.default_recipe == ("fusion" if manifest.audio.fusion else "windows")
    assert {"torch", "transformers", "onnx", "claprt", "created"} <= set(manifest.provenance)


def test_recordings_and_speech_are_embedded_as_transformers_does(
    demo_bundle: Path, shared_audio: Path, shared_fsdd: Path
) -> None:
    """End to end on real recordings, waveform to vector, with nothing of the runtime on the reference side."""
    source = load_checkpoint("demo")
    clap = claprt.load(demo_bundle)
    waveforms = [
        comparison._read(path, source.log_mel, seconds=10.0)
        for path in [*sorted(shared_audio.glob("*.ogg")), *sorted(shared_fsdd.glob("*_3.wav"))[:10]]
    ]
    found = clap.embed_audio(list(waveforms), sampling_rate=48_000)
    expected = np.stack([parity.reference_audio(source, waveform) for waveform in waveforms])
    assert comparison.Comparison.of(found, expected).within_fp32_bounds()


def test_missed_bound_leaves_nothing_behind(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "FP32_MAX_ABS", 0.0)
    with pytest.raises(ExportError, match="the exported fp32 misses its bounds"):
        build(str(checkpoint), tmp_path / "bundle")
    assert left_over(tmp_path) == []


def manifest_without_date(bundle: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    del document["provenance"]["created"]
    return document


def test_existing_output(checkpoint: Path, built: Path, tmp_path: Path) -> None:
    """Not touched without `replace`; replaced whole with it; and never when it is something else.

    And a second build of a checkpoint differs from the first in its date only.
    """
    output = tmp_path / "bundle"
    shutil.copytree(built, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(OptionError, match="exists"):
        build(str(checkpoint), output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    (output / "stray").touch()
    for path in output.glob("*.onnx"):
        path.write_bytes(b"old")
    build(str(checkpoint), output, replace=True)
    assert sorted(path.name for path in output.iterdir()) == sorted(before)
    assert all(path.read_bytes() == before[path.name] for path in output.glob("*.onnx"))
    assert manifest_without_date(output) == manifest_without_date(built)
    assert left_over(tmp_path) == ["bundle"]
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(OptionError, match="not a bundle"):
        build(str(checkpoint), other, replace=True)
    assert (other / "thesis.txt").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a sound"])
def test_bad_recordings(checkpoint: Path, tmp_path: Path, content: bytes | None) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    if content is not None:
        (recordings / "a.wav").write_bytes(content)
    with pytest.raises(AudioError):
        build(str(checkpoint), tmp_path / "bundle", recordings=recordings)
    assert left_over(tmp_path) == ["recordings"]


def test_local_paths_stay_out_of_the_bundle(checkpoint: Path, built: Path, demo_bundle: Path) -> None:
    text = (built / "manifest.json").read_text()
    assert str(checkpoint.parent) not in text
    assert str(built.parent) not in text
    assert open_bundle(built).manifest.model.source == "checkpoint"
    assert open_bundle(demo_bundle).manifest.model.source == "demo"


@pytest.fixture(scope="module")
def beside(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose graphs are as those of full size: the weights in a file beside each. Read only."""
    folder = tmp_path_factory.mktemp("beside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "SINGLE_FILE_LIMIT", 1000)
        build(str(checkpoint), folder / "bundle", precisions=("fp32", "fp16", "int8"))
    return folder / "bundle"


def test_weights_beside_the_graphs(beside: Path, built: Path, tmp_path: Path) -> None:
    """Listed, hashed, readable for all; the vectors are those of single files, where no name is UTF-8 too."""
    manifest = open_bundle(beside).manifest
    names = [f"{tower}.{name}.onnx" for tower in ("audio", "text") for name in manifest.variants]
    found = sorted(path.name for path in beside.glob("*.onnx*"))
    assert found == sorted([*names, *(f"{name}.data" for name in names)])
    for towers in (manifest.audio.variants, manifest.text.variants):
        for variant in towers.values():
            (data,) = variant.external_data
            assert data.bytes > variant.bytes
    assert {path.stat().st_mode for path in beside.glob("*.onnx*")} == {(beside / names[0]).stat().st_mode}
    strange = shutil.copytree(beside, Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    wave = sounds.render("rain", 1, 3.0)
    expected = claprt.load(built).embed_audio([wave, wave * 0.5])
    for bundle in (beside, strange):
        clap = claprt.load(bundle)
        np.testing.assert_array_equal(clap.embed_audio([wave, wave * 0.5]), expected)
        np.testing.assert_array_equal(clap.embed_audio(wave)[0], expected[0])
        assert len(clap.embed_text(["rain"])) == 1


def test_damaged_weights_are_found_before_they_are_used(beside: Path, tmp_path: Path) -> None:
    """One bit of the tower that is used; a bundle whose other tower is damaged still works."""
    copied = shutil.copytree(beside, tmp_path / "copied")
    data = bytearray((copied / "audio.fp32.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (copied / "audio.fp32.onnx.data").write_bytes(data)
    clap = claprt.load(copied)
    for _ in range(2):
        with pytest.raises(BundleError, match=r"wrong hash: .*audio\.fp32\.onnx\.data"):
            clap.embed_audio(np.ones(48_000, np.float32))
    assert len(clap.embed_text(["rain"])) == 1
    (copied / "audio.fp32.onnx.data").write_bytes(data[:-1])
    with pytest.raises(BundleError, match=r"wrong size: .*audio\.fp32\.onnx\.data"):
        claprt.load(copied)
    (copied / "audio.fp32.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"missing: .*audio\.fp32\.onnx\.data"):
        claprt.load(copied)


def test_other_weights_in_the_place_of_the_ones_that_were_loaded(beside: Path, tmp_path: Path) -> None:
    """The second session of an engine must not have other weights than the first."""
    copied = shutil.copytree(beside, tmp_path / "copied")
    clap = claprt.load(copied, threads=2)
    wave = np.ones(48_000, np.float32)
    clap.embed_audio(wave)
    shutil.copy(copied / "audio.fp32.onnx.data", tmp_path / "other")
    (tmp_path / "other").replace(copied / "audio.fp32.onnx.data")
    with pytest.raises(BundleError, match="changed since the bundle was loaded"):
        clap.embed_audio([wave, wave])


@pytest.mark.full
@pytest.mark.parametrize(
    ("size", "fusion"), [("htsat-tiny", False), ("htsat-tiny", True), ("htsat-base", False), ("htsat-base", True)]
)
def test_full_size(tmp_path: Path, shared_audio: Path, size: str, fusion: bool) -> None:
    """The released architectures at full size, end to end, in all variants, on real recordings, within the bounds.

    And within 6 GB of memory.
    """
    source = save_random_checkpoint(tmp_path / "checkpoint", size, fusion)
    command = [sys.executable, "-m", "claprt", "build", str(source), "-o", str(tmp_path / "bundle")]
    command += ["--precision", "fp32,fp16,int8", "--audio", str(shared_audio)]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss < 6_000_000  # in kB
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.model.embedding_dim == 512
    assert manifest.verification["fp32"]["audio"]["mean_cross_cosine"] < 0.95
    clap = claprt.load(tmp_path / "bundle")
    vectors = clap.embed_audio(sorted(shared_audio.glob("*.ogg")))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    if importlib.util.find_spec(on_tensorrt.BINDINGS) or os.environ.get("CLAPRT_REQUIRE_TENSORRT_RTX") == "1":
        assert_engines_are_built(tmp_path / "bundle")


def assert_engines_are_built(bundle: Path) -> None:
    """TensorRT for RTX takes every graph of a bundle that is made for GPUs."""
    command = [sys.executable, "-m", "claprt", "engine", str(bundle), "--rtx", "--compute-capability", "8.6,8.9,12.0"]
    command += ["--precision", "fp32,fp16,int8", "--json"]
    engines = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["engines"]
    assert sorted((one["variant"], one["tower"]) for one in engines) == sorted(
        (variant, tower) for variant in ("fp32", "fp16", "int8") for tower in ("audio", "text")
    )
    assert all(one["state"] == "built" and not one["warnings"] for one in engines), engines


def test_no_option_skips_the_verification() -> None:
    with pytest.raises(TypeError):
        build("demo", Path("x"), verify=False)  # type: ignore[call-arg]
    assert issubclass(ExportError, ClaprtError)
