"""`claprt build`: what it refuses, and that nothing half-done stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runtime.cli_helpers import Cli


def source() -> Path:
    from claprt_export.demo import CHECKPOINTS

    return CHECKPOINTS["unfused"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "no such checkpoint"),
        ("file", "not a directory"),
        ("empty", "it has no config.json"),
    ],
)
def test_build_from_what_is_no_checkpoint(cli: Cli, tmp_path: Path, path: str, reason: str) -> None:
    inputs = tmp_path / "inputs"
    (inputs / "empty").mkdir(parents=True)
    (inputs / "file").write_text("x")
    error = cli("build", inputs / path, "-o", tmp_path / "bundle").error
    assert reason in error
    assert str(inputs / path) in error
    assert [item.name for item in tmp_path.iterdir()] == ["inputs"]


def test_build_from_a_hub_that_cannot_be_reached(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says how to go on without the hub. (Offline mode: without it the hub's client retries for long.)"""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    error = cli("build", "nobody/nothing", "-o", tmp_path / "bundle").error
    assert "nobody/nothing" in error
    assert "pass that directory" in error
    assert time.monotonic() - start < 30
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "force"),
    [(kind, force) for kind in ("file", "directory", "empty directory", "dangling link") for force in (False, True)]
    + [("bundle", False)],
)
def test_build_does_not_overwrite(cli: Cli, tmp_path: Path, kind: str, force: bool) -> None:
    """Without --force nothing is replaced; with it only a bundle is."""
    output = tmp_path / "out"
    if kind == "file":
        output.write_text("kept")
    elif kind == "dangling link":
        output.symlink_to("nowhere")
    else:
        output.mkdir()
    if kind in ("directory", "bundle"):
        (output / ("manifest.json" if kind == "bundle" else "thesis.txt")).write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    error = cli("build", source(), "-o", output, *(["--force"] if force else [])).error
    assert str(output) in error
    assert ("not a bundle" if force else "--force") in error
    assert sorted(tmp_path.rglob("*")) == before


def test_build_does_not_remove_what_it_reads(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    """--force removes the old bundle, and with it all that lies in it."""
    output = tmp_path / "out"
    shutil.copytree(demo_bundle, output)
    (output / "sounds").mkdir()
    for options in (["--audio", output / "sounds"], ["--precision", "fp32,int8", "--calibration", output / "sounds"]):
        assert "--force would remove what is read" in cli("build", source(), "-o", output, "--force", *options).error
    assert "--force would remove what is read" in cli("build", output, "-o", output, "--force").error
    assert (output / "sounds").is_dir()


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_build_where_nothing_can_be_written(cli: Cli, tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / parent) in cli("build", source(), "-o", tmp_path / parent / "bundle").error
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_build_in_a_directory_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    parent = tmp_path / "locked"
    parent.mkdir(mode=0o500)
    if os.access(parent, os.W_OK):
        pytest.skip("permission bits have no effect for this user (root)")
    assert "cannot be written" in cli("build", source(), "-o", parent / "bundle").error


def test_build_with_an_output_name_too_long(cli: Cli, tmp_path: Path) -> None:
    assert "File name too long" in cli("build", source(), "-o", tmp_path / ("x" * 300)).error


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM (a job scheduler) and SIGINT (Ctrl-C), sent while the bundle is half written."""
    running, seen = {}, dict.fromkeys((signal.SIGTERM, signal.SIGINT), False)
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / number.name
        folder.mkdir()
        command = [sys.executable, "-m", "claprt", "build", str(source()), "-o", str(folder / "bundle")]
        running[number] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    waiting = dict(running)
    deadline = time.monotonic() + 60
    while waiting and time.monotonic() < deadline:
        time.sleep(0.3)
        for number, process in list(waiting.items()):
            if seen[number] or process.poll() is not None:
                process.send_signal(number)
                del waiting[number]
            seen[number] = bool(list((tmp_path / number.name).glob(".*.partial")))
    results = {number: (*process.communicate(timeout=60), process.returncode) for number, process in running.items()}
    assert not waiting
    assert all(seen.values())
    assert results[signal.SIGTERM] == (b"", b"", 143)
    assert results[signal.SIGINT][:2] == (b"", b"claprt: error: interrupted\n")
    # A shell sees 130 either way: Python ends by the signal itself if it passed through an `exec` (torch has some).
    assert results[signal.SIGINT][2] in (130, -signal.SIGINT)
    assert [path.name for folder in tmp_path.iterdir() for path in folder.iterdir()] == []
