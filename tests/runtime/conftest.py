"""Fixtures of the command line's tests, and of the model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import claprt
from claprt import Clap
from tests.runtime.cli_helpers import RATE


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: three sounds, one of them 23 s long, and files that are none."""
    folder = tmp_path_factory.mktemp("sounds")
    for index, (name, seconds) in enumerate({"one.wav": 1.0, "two.wav": 0.5, "long.wav": 23.0}.items()):
        at = np.arange(round(seconds * RATE)) / RATE
        soundfile.write(folder / name, 0.3 * np.sin(2 * np.pi * (300 + 400 * index + 40 * at) * at), RATE)
    (folder / "text.wav").write_text("This is not a sound.\n" * 20)
    (folder / "empty.wav").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def clap(demo_bundle: Path) -> Clap:
    return claprt.load(demo_bundle)


@pytest.fixture(scope="module")
def fused(demo_fused_bundle: Path) -> Clap:
    return claprt.load(demo_fused_bundle)


@pytest.fixture(scope="module", params=["unfused", "fused"])
def either(request: pytest.FixtureRequest) -> Clap:
    model: Clap = request.getfixturevalue({"unfused": "clap", "fused": "fused"}[request.param])
    return model
