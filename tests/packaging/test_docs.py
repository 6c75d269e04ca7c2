"""What the documentation tells people to type: commands, extras, modules and make's targets that are really there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from claprt.cli.parser import joined, parse

ROOT = Path(__file__).resolve().parents[2]
# The changelog is left out: it tells of what was.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
# Names that the commands are given in the documentation, besides paths that end in `claprt`.
IMAGES = ("claprt-tensorrt", "claprt-l4t")

_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_SYNOPSIS_ENDS = re.compile(r" {2,}")


def lines(page: Path) -> Iterator[str]:
    """Command lines of a page: of its blocks, and its inline code (broken over two lines or not), without comments.

    Those of a Dockerfile are its comments that are indented.
    """
    text = page.read_text("utf-8")
    if page in DOCKERFILES:
        blocks, prose = ["\n".join(re.findall(r"^#   +(.*)", text, re.MULTILINE))], ""
    else:
        blocks, prose = _FENCE.findall(text), _FENCE.sub("", text)
    for block in blocks:
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
            yield _SYNOPSIS_ENDS.split(line.strip().removeprefix("$ ").split(" #")[0])[0]
    for code in _CODE.findall(prose):
        yield " ".join(code.split())


def arguments(line: str) -> list[str] | None:
    """What `claprt` is given on a command line, or in a synopsis, options included; None if it is not called there."""
    if not re.search(r"\bclaprt\b", line) or line.startswith(("docker build", "pip ", "import ", "from ")):
        return None
    try:
        words = shlex.split(line)
    except ValueError:  # an apostrophe: prose in a block
        return None
    for index, word in enumerate(words):
        in_container = words[0] == "docker" and word in IMAGES
        if in_container or (Path(word).name == "claprt" and (index == 0 or words[0].startswith("PATH="))):
            return [re.sub(r"[\[\]]|…$", "", argument) for argument in words[index + 1 :]]
    return None


def parses(given: list[str]) -> bool:
    """Whether the real parser takes it. The bare name of a command, as in prose, needs no arguments."""
    try:
        parse([*given, "--help"] if len(joined(given)) == 1 else given)
    except SystemExit as stop:
        return stop.code in (0, None)
    return True


@pytest.mark.parametrize("page", [*PAGES, *DOCKERFILES], ids=lambda page: page.name)
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [(line, given) for line in lines(page) for given in [arguments(line)] if given]
    refused = [line for line, given in commands if not parses(given)]
    assert not refused, capsys.readouterr().err
    if page.name in ("README.md", "edge.md") or page in DOCKERFILES:
        assert commands


@pytest.mark.parametrize(
    ("line", "given"),
    [
        (
            "claprt build SOURCE -o BUNDLE [--precision LIST]",
            ["build", "SOURCE", "-o", "BUNDLE", "--precision", "LIST"],
        ),
        ("claprt embed BUNDLE FILES… -o out.npz", ["embed", "BUNDLE", "FILES", "-o", "out.npz"]),
        ("~/clap/bin/claprt doctor", ["doctor"]),
        ('docker run --gpus all -v "$PWD/bundle:/bundle" claprt-l4t engine /bundle', ["engine", "/bundle"]),
        ("docker build -t claprt-l4t .", None),
        ("cd claprt", None),
        ("pip install claprt", None),
    ],
)
def test_commands_are_found(line: str, given: list[str] | None) -> None:
    assert arguments(line) == given


def test_wrong_commands_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What the tests above can find at all."""
    wrong = ["listen", "engine bundle --capability 8.6", "classify bundle", "embed bundle a.wav", "doctor bundle"]
    assert not [line for line in wrong if parses(line.split())]
    assert "--capability" in capsys.readouterr().err


def extras() -> set[str]:
    """The extras of pyproject.toml, without a TOML parser: Python 3.10 has none."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    return set(re.findall(r"^([a-z0-9-]+) = \[", section[1], re.MULTILINE))


def test_extras_exist() -> None:
    """Those that documentation, messages and Dockerfiles name, as `claprt[cpu]`, `.[cpu,av]` or `[rtx]` in prose."""
    sources = [
        path for part in ("runtime", "export", "kernels", "bench") for path in sorted((ROOT / part).rglob("*.py"))
    ]
    found: dict[str, str] = {}
    for path in [*PAGES, *sources, *DOCKERFILES, ROOT / "Makefile", ROOT / "pyproject.toml"]:
        pattern = r"(?:claprt|['\"]\.|claprt-\*\.whl\)|`)\[([a-z][a-z0-9,-]*)\](?!\()"
        for names in re.findall(pattern, path.read_text("utf-8")):
            found.update(dict.fromkeys(names.split(","), path.name))
    assert {"cpu", "gpu", "tensorrt", "rtx", "pycuda", "export", "av"} <= set(found)
    assert not {name: where for name, where in found.items() if name not in extras()}


def test_modules_and_targets_exist() -> None:
    """`python -m module` and `make target`."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    modules, asked = set(), set()
    for page in PAGES:
        text = page.read_text("utf-8")
        modules |= set(re.findall(r"python -m (claprt\w*(?:\.\w+)*)", text))
        asked |= set(re.findall(r"[`$] ?make ([a-z-]+)", text))
    assert "claprt_kernels.compile" in modules
    assert "gpu-check" in asked
    assert not [name for name in modules if importlib.util.find_spec(name) is None]
    assert asked <= targets
