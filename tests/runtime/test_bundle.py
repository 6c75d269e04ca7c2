"""Bundles on disk: what is damaged, forged or swapped is refused before anything is computed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import claprt
from claprt.bundle import Bundle, open_bundle, sha256_file
from claprt.errors import BundleError, BundleNotFoundError
from claprt.manifest import FileEntry
from tests.hostile.make_bundles import ATTACKS, make_bundle, make_bundles, sign, write


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    soundfile.write(path, 0.25 * np.sin(np.arange(24_000) * 0.05), 48_000)
    return path


@pytest.fixture(scope="module", params=sorted(ATTACKS))
def hostile(request: pytest.FixtureRequest, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(demo_bundle, request.param, tmp_path_factory.mktemp("hostile"))


def use(bundle: Path, sound: Path) -> None:
    """Start both towers: a graph is opened when it is first used."""
    clap = claprt.load(bundle)
    clap.embed_text(["a"])
    clap.embed_audio(sound)


def test_the_good_bundle_is_good(demo_bundle: Path, tone: Path) -> None:
    """Else every attack below would be refused for a wrong reason."""
    use(demo_bundle, tone)


def test_hostile_bundle_is_refused_by_the_library(hostile: Path, tone: Path) -> None:
    with pytest.raises(BundleError) as caught:
        use(hostile, tone)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2000
    assert str(hostile) in message


def test_hostile_bundle_is_refused_by_the_command_line(hostile: Path, tone: Path) -> None:
    """Exit code 2, one line on stderr, nothing on stdout, and no traceback."""
    command = [sys.executable, "-m", "claprt", "classify", str(hostile), str(tone), "--labels", "a,b"]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert len(lines) == 1
    assert lines[0].startswith("claprt: error: ")
    assert done.stdout == b""


def test_every_attack_can_be_written_at_once(demo_bundle: Path, tmp_path: Path) -> None:
    """`python tests/hostile/make_bundles.py GOOD FOLDER`, for a look by hand."""
    made = make_bundles(demo_bundle, tmp_path / "new" / "folder")
    assert set(made) == set(ATTACKS)
    assert all(path.parent == tmp_path / "new" / "folder" for path in made.values())


# Where there is no bundle.


@pytest.mark.parametrize("name", ["missing", "missing/deeper", "file", "file/x", "empty", "nul\0name"])
def test_no_bundle_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("{}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleNotFoundError, match="no bundle here") as caught:
        claprt.load(tmp_path / name)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(tmp_path / name) in str(caught.value)
    assert "claprt build" in str(caught.value)


def test_a_name_too_long_for_the_system_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="too long"):
        claprt.load(tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["manifest.json", "audio.fp32.onnx"])
def test_unreadable_file(demo_bundle: Path, tmp_path: Path, name: str) -> None:
    copied = shutil.copytree(demo_bundle, tmp_path / "bundle")
    (copied / name).chmod(0)
    if os.access(copied / name, os.R_OK):
        pytest.skip("permission bits have no effect for this user (root)")
    with pytest.raises(BundleError, match="cannot be read"):
        claprt.load(copied)


def test_unreadable_directory(demo_bundle: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    shutil.copytree(demo_bundle, locked / "bundle")
    locked.chmod(0)
    try:
        if os.access(locked / "bundle", os.R_OK):
            pytest.skip("permission bits have no effect for this user (root)")
        with pytest.raises(BundleError, match="cannot be read"):
            claprt.load(locked / "bundle")
    finally:
        locked.chmod(0o700)


# What is allowed.


def test_links_inside_the_bundle_and_a_linked_bundle_are_fine(demo_bundle: Path, tmp_path: Path, tone: Path) -> None:
    copied = shutil.copytree(demo_bundle, tmp_path / "bundle")
    (copied / "audio.fp32.onnx").rename(copied / "real.onnx")
    (copied / "audio.fp32.onnx").symlink_to("real.onnx")
    (tmp_path / "link").symlink_to("bundle")
    use(tmp_path / "link", tone)


def test_bundle_in_a_directory_whose_name_is_not_utf8(demo_bundle: Path, tmp_path: Path, tone: Path) -> None:
    """ONNX Runtime cannot be given such a path."""
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    use(shutil.copytree(demo_bundle, strange), tone)


def test_relative_paths_and_strings(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tone: Path) -> None:
    monkeypatch.chdir(demo_bundle.parent)
    use(Path(demo_bundle.name), tone)
    assert claprt.load(demo_bundle.name).manifest == claprt.load(str(demo_bundle)).manifest


def test_verified_names_file_and_both_hashes(demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    bundle = Bundle(tmp_path, open_bundle(demo_bundle).manifest)
    right = sha256_file(tmp_path / "f")
    assert right == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert bundle.verified(FileEntry("f", right, 3)) == tmp_path / "f"
    with pytest.raises(BundleError) as caught:
        bundle.verified(FileEntry("f", "0" * 64, 3))
    assert all(part in str(caught.value) for part in (str(tmp_path / "f"), right, "0" * 64))
    with pytest.raises(BundleError, match="3 bytes, the manifest says 4"):
        bundle.verified(FileEntry("f", right, 4))


# Graphs that are valid ONNX but not a tower.


@pytest.mark.parametrize("case", ["scalar_output", "two_outputs", "other_input_name", "three_inputs"])
def test_valid_graphs_that_are_no_tower(demo_bundle: Path, tmp_path: Path, tone: Path, case: str) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT

    def value(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, floats, shape)

    features = ["batch", 1, 1001, 64]
    dim = open_bundle(demo_bundle).manifest.model.embedding_dim
    name = "sound" if case == "other_input_name" else "input_features"
    inputs = [value(name, features)] + [value(extra, features) for extra in ("b", "c") if case == "three_inputs"]
    axes = None if case == "scalar_output" else [1, 2]
    nodes = [helper.make_node("ReduceMean", [name], ["mean"], keepdims=0)]
    outputs = [value("mean", [])]
    if axes is not None:
        nodes = [helper.make_node("Identity", [name], ["out"])]
        outputs = [value("out", ["batch", 1, 1001, dim])]
    if case == "two_outputs":
        nodes.append(helper.make_node("Identity", [name], ["again"]))
        outputs.append(value("again", features))
    graph = helper.make_graph(nodes, "forged", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    forged = shutil.copytree(demo_bundle, tmp_path / "bundle")
    write(forged / "audio.fp32.onnx", model.SerializeToString())
    sign(forged)
    clap = claprt.load(forged)
    with pytest.raises(BundleError, match=r"not the tower|cannot load") as caught:
        clap.embed_audio(tone)
    assert "\n" not in str(caught.value)
