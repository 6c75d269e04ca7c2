"""`claprt verify`: a good bundle, a bad one, and questions that have no answer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import numpy_helper

from claprt_export import comparison
from claprt_export import verify as verify_module
from claprt_export.comparison import verification_sounds
from claprt_export.demo import sounds
from claprt_export.random_checkpoint import save_random_checkpoint
from claprt_export.ranking import Agreement
from tests.runtime.cli_helpers import Cli


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the sounds, where their number does not matter."""

    def some(*args: object) -> object:
        description, waveforms = verification_sounds(*args)  # type: ignore[arg-type]
        return description, waveforms[::10] + waveforms[35:]

    monkeypatch.setattr(verify_module, "verification_sounds", some)


def damaged(bundle: Path, folder: Path, variant: str, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy whose audio graph is another, with a manifest that fits."""
    copied = shutil.copytree(bundle, folder / "damaged")
    path = copied / f"audio.{variant}.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    entry = manifest["audio"]["variants"][variant]
    entry["sha256"], entry["bytes"] = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copied


def coarser(model: onnx.ModelProto) -> None:
    """The integer weights lose four of their bits."""
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight_int8"):
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((value // 16 * 16).astype(np.int8), tensor.name))


def test_a_good_bundle(cli: Cli, few: None, demo_bundle: Path) -> None:
    """All variants, exit code 0, and the figures of the build: the comparison is the same, here of fewer sounds."""
    result = cli("verify", demo_bundle, "--against", "demo", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json["against"] == "demo"
    manifest = json.loads((demo_bundle / "manifest.json").read_text(encoding="utf-8"))
    assert set(result.json["variants"]) == {"fp32", "fp16", "int8", "int8-cpu"}
    for name, found in result.json["variants"].items():
        built = manifest["verification"][name]
        assert found["missed"] == []
        assert found["inputs"] == built["inputs"]
        assert found["text"]["worst_cosine"] == pytest.approx(built["text"]["worst_cosine"], abs=1e-6)
        assert found["audio"]["count"] == 4
        assert found["audio"]["worst_cosine"] >= built["audio"]["worst_cosine"] - 1e-6
        assert found["audio"]["max_abs"] <= built["audio"]["max_abs"] + 1e-6


def test_text_output_and_recordings(cli: Cli, few: None, demo_bundle: Path, tmp_path: Path) -> None:
    """One variant, on the user's recordings too."""
    soundfile.write(tmp_path / "a.wav", sounds.render("rain", 5, 12.0), 48_000)
    result = cli("verify", demo_bundle, "--against", "demo", "--variant", "int8-cpu", "--audio", tmp_path)
    assert result.code == 0
    assert "1 recordings" in result.out
    rows = [line.split()[:2] for line in result.out.splitlines() if line.startswith(("fp", "int8"))]
    assert rows == [["int8-cpu", "audio"], ["int8-cpu", "text"]]
    assert "misses" not in result.out


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_variant(cli: Cli, few: None, demo_bundle: Path, tmp_path: Path, as_json: bool) -> None:
    """Exit code 1, and the figure that misses its bound, whatever the manifest says."""
    bad = damaged(demo_bundle, tmp_path, "int8-cpu", coarser)
    options = ["--variant", "int8-cpu", *(["--json"] if as_json else [])]
    result = cli("verify", bad, "--against", "demo", *options)
    assert result.code == 1
    if as_json:
        (missed,) = result.json["variants"]["int8-cpu"]["missed"]
    else:
        (line,) = [line for line in result.out.splitlines() if "misses a bound" in line]
        missed = line.removeprefix("int8-cpu misses a bound: ")
    assert missed.startswith("audio tower: ")
    assert "needed: worst cosine >= 0.9995" in missed


def test_another_checkpoint(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    """Told by its weights, before anything is compared; with both hashes and the name of the right one."""
    other = save_random_checkpoint(tmp_path / "other", "tiny")
    error = cli("verify", demo_bundle, "--against", other).error
    assert "not the checkpoint of this bundle" in error
    assert "'demo'" in error
    assert json.loads((demo_bundle / "manifest.json").read_text())["model"]["weights_sha256"] in error


def test_what_cannot_be_verified(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    assert "no bundle" in cli("verify", tmp_path / "none", "--against", "demo").error
    assert "no such checkpoint" in cli("verify", demo_bundle, "--against", tmp_path / "none").error
    assert "no recordings" in cli("verify", demo_bundle, "--against", "demo", "--audio", tmp_path).error
    assert cli("verify", demo_bundle).code == 2
    assert cli("verify", demo_bundle, "--against", "demo", "--variant", "int4").code == 2


def test_a_variant_that_the_bundle_lacks(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(demo_bundle, tmp_path / "few")
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    for tower in ("audio", "text"):
        del manifest[tower]["variants"]["int8"]
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    error = cli("verify", copied, "--against", "demo", "--variant", "int8").error
    assert "has no int8" in error
    assert "fp32, fp16, int8-cpu" in error


def verification(audio: float, text: float, max_abs: float = 0.0, top1: float = 1.0) -> comparison.Verification:
    sounds_, texts = (comparison.Comparison(3, cosine, cosine, max_abs, 0.5) for cosine in (audio, text))
    return comparison.Verification("", sounds_, texts, Agreement(top1, top1, top1, top1, top1))


@pytest.mark.parametrize(
    ("variant", "values", "missed"),
    [
        ("fp32", (0.9999995, 1.0, 9e-6), []),
        ("fp32", (1.0, 1.0, 2e-5), ["audio", "text"]),
        ("fp32", (0.999998, 1.0), ["audio"]),
        ("fp16", (0.99991, 0.99991, 0.1), []),
        ("fp16", (0.99991, 0.99989), ["text"]),
        ("fp16", (1.0, 1.0, 0.0, 0.97), ["top-1"]),
        ("int8", (0.9995, 0.999), []),
        ("int8", (0.9994, 0.9989), ["audio", "text"]),
        ("int8-cpu", (0.9996, 0.9991, 0.1, 0.97), []),
        ("int8-cpu", (float("nan"), 1.0), ["audio"]),
    ],
)
def test_bounds(variant: str, values: tuple[float, ...], missed: list[str]) -> None:
    """Of each variant; not a number is a miss."""
    found = verification(*values).missed(variant)
    assert [text.split()[0] for text in found] == missed
