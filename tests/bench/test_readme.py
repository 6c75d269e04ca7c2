"""The README's tables and the committed results agree; where they do not, it is noticed and said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claprt_bench import readme
from claprt_bench.install_size import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The documents and results of the repository, to be changed."""
    shutil.copytree(ROOT / "bench" / "results", tmp_path / "bench" / "results")
    for name in readme.TABLES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def _check(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    capsys.readouterr()
    code = readme.main([*options, "--root", str(root)])
    return code, "".join(capsys.readouterr())


def test_the_tables_say_what_the_results_say(capsys: pytest.CaptureFixture[str]) -> None:
    """The repository's own files."""
    assert _check(ROOT, capsys, "--check") == (0, "")


@pytest.mark.parametrize(
    ("document", "table", "old", "new"),
    [
        ("README.md", "parity", "2.1e-07", "2.0e-07"),
        ("README.md", "variants", "98.05 %", "99.05 %"),
        ("README.md", "variants", "85 %", "95 %"),
        ("README.md", "cpu", "108 ms", "98 ms"),
        ("README.md", "cpu", "188 GFLOP/s", "288 GFLOP/s"),
        ("README.md", "cpu", "3, missed", "3"),
        ("README.md", "eval-fsdd", "93.2 to 98.0", "95.2 to 98.0"),
        ("docs/log-mel-kernel.md", "log-mel-resources", "| sm_75 | 127 to ", "| sm_75 | 64 to "),
    ],
)
def test_a_changed_figure_is_noticed(
    copy: Path, capsys: pytest.CaptureFixture[str], document: str, table: str, old: str, new: str
) -> None:
    """Named with document, table and both lines; --check changes nothing, without it the figure is put right."""
    path = copy / document
    right = path.read_text(encoding="utf-8")
    assert old in right
    path.write_text(right.replace(old, new, 1), encoding="utf-8")
    code, said = _check(copy, capsys, "--check")
    assert code == 1
    assert said.startswith(f"{document}: not what bench/results says: {table};")
    assert new in said
    assert new in path.read_text(encoding="utf-8")
    assert _check(copy, capsys)[0] == 0
    assert path.read_text(encoding="utf-8") == right


def _change(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / "bench" / "results" / name
        document = json.loads(path.read_text(encoding="utf-8"))
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")

    return apply


def _missed(document: Any) -> None:
    document["rows"][0]["met"] = False


def _worse(document: Any) -> None:
    document["rows"][0]["variants"]["fp16"]["audio"]["worst_cosine"] = 0.9999996


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_change("cpu-amd-epyc-zen4.json", _missed), "2.2, missed"),
        (_change("parity-cpu.json", _worse), "0.9999996"),
    ],
)
def test_a_changed_result_is_noticed(
    copy: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], said: str
) -> None:
    """A target that is missed becomes one in the table; a worst cosine is never rounded up to 1."""
    change(copy)
    code, output = _check(copy, capsys, "--check")
    assert code == 1
    assert said in output


def _text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_text("README.md", "<!-- table: cpu -->", ""), "marker without its other end: README.md"),
        (_text("README.md", "<!-- /table -->", ""), "marker without its other end: README.md"),
        (_text("README.md", "<!-- table: cpu -->", "<!-- table: gpu -->"), "table 'cpu' is 0 times in README.md"),
        (_text("README.md", "<!-- table: cpu -->", "<!-- table: parity -->"), "table 'parity' is 2 times in README.md"),
        (
            _text("README.md", "## Limits", "<!-- table: gpu -->\n<!-- /table -->\n## Limits"),
            "unknown table: 'gpu' in README.md",
        ),
        (lambda root: (root / "README.md").unlink(), "no document"),
        (lambda root: (root / "bench/results/install-size.json").unlink(), "install-size.json: No such file"),
        (lambda root: (root / "bench/results/eval-fsdd-probe.json").unlink(), "eval-fsdd-probe.json: No such file"),
        (lambda root: (root / "bench/results/parity-cpu.json").write_text("{"), "parity-cpu.json: Expecting"),
        (_change("parity-cpu.json", lambda result: result.pop("rows")), "parity-cpu.json has no 'rows'"),
        (_change("parity-cpu.json", lambda result: result["rows"].pop(0)), "no item with checkpoint 'demo (trained)'"),
        (
            _change(
                "parity-cpu.json", lambda result: result["rows"][0]["variants"]["fp32"]["audio"].update(max_abs=None)
            ),
            "max_abs is None, not a number",
        ),
        (_change("cpu-amd-epyc-zen4.json", lambda result: result["rows"][0].update(target=None)), "ratio_at_least"),
        (_change("eval-fsdd-probe.json", lambda result: result.update(comparisons=[])), "does not compare fp32 with"),
        (_change("eval-fsdd-probe.json", lambda result: result.update(kind="speed")), "of another kind"),
        (
            _change("log-mel-resources.json", lambda result: result.update(kernels=result["kernels"][:2])),
            "has no log_mel",
        ),
    ],
)
def test_what_is_missing_is_said(
    copy: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str
) -> None:
    """A marker, a document, a result, a figure of one: an error of one line with its name, and nothing is written."""
    damage(copy)
    before = {name: (copy / name).read_text() for name in readme.TABLES if (copy / name).exists()}
    code, said = _check(copy, capsys)
    assert code == 2
    assert message in said
    assert said.startswith("claprt_bench: ")
    assert said.count("\n") == 1
    assert {name: (copy / name).read_text() for name in before} == before
