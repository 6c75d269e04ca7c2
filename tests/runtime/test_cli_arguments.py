"""Arguments: their order, what is not one, and one line for what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from claprt.cli.parser import parse
from tests.runtime.cli_helpers import Cli


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("embed b -o x f g", {"bundle": Path("b"), "files": ["f", "g"], "output": Path("x")}),
        ("embed -o x b f", {"bundle": Path("b"), "files": ["f"]}),
        ("embed b --precision fp32 f -o x g", {"files": ["f", "g"], "precision": "fp32"}),
        ("embed b f -ox --threads=2 g", {"files": ["f", "g"], "output": Path("x"), "threads": 2}),
        ("classify b f --labels a,b g", {"files": ["f", "g"], "labels": "a,b"}),
        ("embed b -o x -- -f --json", {"files": ["-f", "--json"], "json": False}),
        ("embed b -o x -- f -- g", {"files": ["f", "./--", "g"]}),
        ("embed b -o x -1 -", {"files": ["-1", "-"]}),
        ("embed b -o x", {"files": []}),
        ("eval b --task probe d --json", {"dataset": Path("d"), "json": Path("-")}),
        ("eval b --json --task probe d", {"dataset": Path("d"), "json": Path("-")}),
        ("eval b d --task probe --json r.json", {"dataset": Path("d"), "json": Path("r.json")}),
        ("bench b --json --only none", {"json": "-", "only": "none"}),
        ("bench compare --fail-on 5% a b", {"before": Path("a"), "after": Path("b"), "fail_on": "5%"}),
        ("bench compare a --json b", {"before": Path("a"), "after": Path("b"), "json": True}),
        ("bench report a -o r b", {"documents": [Path("a"), Path("b")], "output": Path("r")}),
        ("build -o x demo --no-int16", {"source": "demo", "int16": False}),
        ("doctor --device 0", {"device": 0}),
        ("doctor", {"device": 0}),
    ],
)
def test_options_stand_anywhere(line: str, expected: dict[str, Any]) -> None:
    found = vars(parse(line.split()))
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("classify b f --lab a", "unrecognized arguments: --lab; see claprt classify --help"),
        ("embed b f -o x --nope 3 -z", "unrecognized arguments: --nope -z; see claprt embed --help"),
        ("info a b", "unrecognized arguments: b; see claprt info --help"),
        ("bench compare a", "the following arguments are required: B.json; see claprt bench compare --help"),
        ("classify b f --labels --json", "argument --labels: expected one argument; see claprt classify --help"),
        (
            "eval --task probe --json b d",
            "the following arguments are required: DATASET (--json took 'b' for its own; write --json last, or "
            "--json=FILE); see claprt eval --help",
        ),
        ("doctor --device -1", "argument --device: '-1' is not an integer from 0 to 999999999; see"),
        ("embed b f -o x --threads 0", "argument --threads: '0' is not an integer from 1 to"),
        ("embed b f -o x --threads 5000", "argument --threads: 5000 is too many; pass 1 to 1024"),
        ("bench b --duration long", "argument --duration: 'long' is not a number"),
        ("listen", "argument COMMAND: invalid choice: 'listen'"),
        ("classify b f --labels a --top \x1b[31m", "argument --top: '\\x1b[31m' is not an integer"),
    ],
)
def test_wrong_arguments(cli: Cli, line: str, error: str) -> None:
    assert error in cli(*line.split(" ")).error


def test_standard_input_is_not_read(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    for command in (["classify", "--labels", "a"], ["classify", "--head", "h"], ["embed", "-o", tmp_path / "x"]):
        assert "standard input is not read" in cli(*command, demo_bundle, "-").error
    assert "standard input is not read" in cli("embed", demo_bundle, "--texts-file", "-", "-o", tmp_path / "x").error
    assert "standard input is not read" in cli("bench", "compare", "-", "-").error


def test_options_without_effect(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    """Each would have been ignored."""
    (tmp_path / "texts").write_text("a")
    texts = ["--texts-file", tmp_path / "texts", "-o", tmp_path / "x"]
    assert "--recipe is for sounds" in cli("embed", demo_bundle, *texts, "--recipe", "head").error
    for options, named in (
        (["--list", "--force"], "--force has no effect with --list"),
        (["--list", "--batch", "4"], "--batch has no effect with --list"),
        (["--verify", "--compute-capability", "8.6"], "--compute-capability has no effect with --verify"),
        (["--list", "--verify"], "exclude each other"),
    ):
        assert named in cli("engine", demo_bundle, *options).error
    assert cli("engine", demo_bundle, "--list").code == 0
