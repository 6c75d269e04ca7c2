"""What is installed beside claprt: what each package is for, and the error that names its extra."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from claprt.cli import doctor
from claprt.errors import MissingExtraError
from claprt.extras import BENCH, EXPORT, EXTRAS
from tests.runtime.cli_helpers import Cli


def test_doctor_says_what_packages_are_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are missing; an engine's are among what its backend lacks."""
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    uses = dict(
        line.split(maxsplit=2)[::2] for line in cli("doctor").out.splitlines() if "pip install 'claprt[" in line
    )
    assert uses["torch"] == "claprt build, claprt verify: pip install 'claprt[export]'"
    assert uses["av"].endswith("pip install 'claprt[av]'")
    assert {name for name, use in uses.items() if use.endswith("pip install 'claprt[bench]'")} == set(BENCH.packages)
    assert "onnxruntime" not in uses


def test_a_missing_extra_names_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("sklearn", "onnx") else real(name))
    with pytest.raises(MissingExtraError, match=r"x needs .*: scikit-learn; pip install 'claprt\[bench\]'"):
        BENCH.require("x")
    with pytest.raises(MissingExtraError, match=r"not installed: onnx; pip install 'claprt\[export\]'"):
        EXPORT.require("x")


def test_extras_are_those_of_pyproject() -> None:
    """Without a TOML parser: Python 3.10 has none."""
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8")
    for extra in EXTRAS:
        found = re.search(rf"^{extra.name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
        assert found is not None
        assert re.findall(r'"([a-z0-9-]+)', found[1]) == list(extra.packages)
