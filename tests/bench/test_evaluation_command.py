"""`claprt eval` on the demo bundle: real sounds, real variants; what it prints, writes and refuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import claprt
from claprt.cli.eval import comparison
from claprt_bench.document import read_document
from claprt_bench.evaluation import fsdd, made_sounds
from claprt_bench.report import write_report
from claprt_export.demo.captions import DIGIT_LABELS, DIGITS
from claprt_export.demo.sounds import KINDS as ALL_KINDS
from claprt_export.demo.sounds import SAMPLING_RATE, render
from tests.runtime.cli_helpers import Cli, spawn

CARD = Path(__file__).resolve().parents[2] / "export" / "claprt_export" / "demo" / "unfused" / "evaluation.json"
# Two that the demo takes for each other, two that it does not.
KINDS = ("alarm beeps", "cricket", "rain", "siren")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of three made sounds of 2 s."""
    root = tmp_path_factory.mktemp("made") / "four kinds"
    for kind in KINDS:
        folder = root / kind.replace(" ", "_")
        folder.mkdir(parents=True)
        for number in range(3):
            soundfile.write(folder / f"{number}.wav", render(kind, 3_000_000 + number, 2.0), SAMPLING_RATE)
    return root


def test_the_digits_figures_are_those_of_the_model_card(
    cli: Cli, demo_bundle: Path, shared_fsdd: Path, tmp_path: Path
) -> None:
    """The card's recalls were measured with transformers; here two digits of the test split, among all ten."""
    listed = tmp_path / "fsdd.csv"
    assert fsdd.write_table(shared_fsdd, listed) == 2500
    header, *rows = listed.read_text("utf-8").splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join([header, *(row for row in rows if row.split(",")[1] in ("three", "six"))]), "utf-8")
    (tmp_path / "digits.txt").write_text("\n".join(DIGITS), "utf-8")
    result = cli(
        *("eval", demo_bundle, few, "--task", "zero-shot", "--split", "test", "--json"),
        *("--template", "This is a sound of the spoken digit {}.", "--labels-file", tmp_path / "digits.txt"),
    )
    assert (result.code, result.err) == (0, "")
    document = result.json
    assert (document["dataset"]["items"], document["dataset"]["classes"]) == (50, 10)
    card = json.loads(CARD.read_text("utf-8"))["results"]["digits"]["per_class"]
    for row in document["variants"][0]["per_class"]:
        if row["items"]:
            assert 100 * row["recall"] == pytest.approx(card[DIGIT_LABELS[DIGITS.index(row["label"])]]), row["label"]
    assert document["dataset"]["seconds"] > 10
    assert "/" not in json.dumps(document["dataset"])


def test_zero_shot_of_all_variants(cli: Cli, demo_bundle: Path, tree: Path, tmp_path: Path) -> None:
    """The document has what classify says of each file; the table has its figures; variants are compared in pairs."""
    file = tmp_path / "result.json"
    page, again = tmp_path / "page.html", tmp_path / "again.html"
    outputs = ("--json", file, "--html", page)
    result = cli("eval", demo_bundle, tree, "--task", "zero-shot", "--precision", "all", *outputs)
    assert (result.code, result.err) == (0, "")
    document = read_document(file, "evaluation")
    write_report([document], again)
    assert page.read_text("utf-8") == again.read_text("utf-8")
    assert [row["precision"] for row in document["variants"]] == ["fp32", "fp16", "int8"]
    assert [row["variant"] for row in document["variants"]] == ["fp32", "fp16", "int8-cpu"]
    for row in document["variants"]:
        clap = claprt.load(demo_bundle, "ort-cpu", row["precision"])
        files = sorted(tree.glob("*/*.wav"))
        right = [
            best.label.replace(" ", "_") == file.parent.name
            for file, (best, *_) in zip(files, clap.classify(files, list(KINDS)), strict=True)
        ]
        assert row["metrics"]["top1"]["value"] == pytest.approx(np.mean(right))
        assert sum(map(sum, row["confusion"]["counts"])) == 12
        assert row["seconds"] > 0
        for figure in row["metrics"].values():
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
        top1 = row["metrics"]["top1"]
        shown = f"{100 * top1['value']:.1f} % [{100 * top1['low']:.1f}, {100 * top1['high']:.1f}]"
        assert any(line.startswith(row["variant"]) and shown in line for line in result.out.splitlines())
    assert [(one["a"], one["b"]) for one in document["comparisons"]] == [
        ("fp32", "fp16"),
        ("fp32", "int8"),
        ("fp16", "int8"),
    ]
    assert result.out.startswith('four kinds: 12 sounds, 4 classes, 24 s; zero-shot; "This is a sound of {}."\n')
    assert "fp16 against fp32: " in result.out
    assert document["method"]["recipe"] == "windows"
    assert document["machine"]["versions"]["scikit-learn"]
    assert str(tree.parent) not in file.read_text("utf-8")


def test_probe_head_and_classify(cli: Cli, demo_bundle: Path, tree: Path, tmp_path: Path) -> None:
    """A head that is saved classifies the sounds that it was trained on."""
    head = tmp_path / "head.npz"
    result = cli("eval", demo_bundle, tree, "--task", "probe", "--folds", "3", "--save-head", head, "--json")
    assert (result.code, result.err) == (0, "")
    document = result.json
    assert (
        [row["fold"] for row in document["variants"][0]["per_fold"]] == document["method"]["folds"] == ["1", "2", "3"]
    )
    assert set(document["variants"][0]["metrics"]) == {"accuracy", "balanced_accuracy"}
    assert claprt.load_head(head).space_id == document["bundle"]["space_id"]
    files = sorted(tree.glob("*/*.wav"))
    result = cli("classify", demo_bundle, *files, "--head", head, "--json")
    best = [entry["predictions"][0]["label"] for entry in result.json["results"]]
    assert best == [file.parent.name for file in files]


def test_retrieval_of_made_sounds(cli: Cli, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out sounds with five captions each; the demo was trained to find them, and mostly does."""
    kinds = KINDS + tuple(kind for kind in ALL_KINDS if kind not in KINDS)[:4]
    monkeypatch.setattr(made_sounds, "KINDS", kinds)
    monkeypatch.setattr(
        made_sounds,
        "synthetic_test_set",
        lambda per_kind: ((render(kind, 1_000_000, 3.0), i) for i, kind in enumerate(kinds)),
    )
    assert made_sounds.main([str(tmp_path / "made")]) == 0
    result = cli("eval", demo_bundle, tmp_path / "made" / "captions.csv", "--task", "retrieval", "--json")
    assert (result.code, result.err) == (0, "")
    document = result.json
    assert (document["dataset"]["items"], document["dataset"]["captions"]) == (8, 40)
    metrics = document["variants"][0]["metrics"]
    assert set(metrics) == {
        f"{way}_{name}" for way in ("audio_to_text", "text_to_audio") for name in ("r1", "r5", "r10", "map10")
    }
    assert metrics["text_to_audio_r1"]["value"] > 0.7
    table = cli("eval", demo_bundle, tmp_path / "made" / "captions.csv", "--task", "retrieval").out
    assert "R@1" in table
    assert "text to audio" in table


def test_sounds_that_cannot_be_used(cli: Cli, demo_bundle: Path, tree: Path, tmp_path: Path) -> None:
    """Missing, no sound, or damaged inside: each is reported and counted, the others are evaluated, exit code 1."""
    root = tmp_path / "set"
    shutil.copytree(tree, root)
    (root / "rain" / "text.wav").write_text("This is not a sound.\n" * 20)
    damaged = np.zeros(48_000, np.float32)
    damaged[777] = np.nan
    soundfile.write(root / "siren" / "nan.wav", damaged, 48_000, subtype="FLOAT")  # its header is good
    file = tmp_path / "result.json"
    result = cli(
        "eval", demo_bundle, root, "--task", "probe", "--folds", "3", "--precision", "fp32,int8", "--json", file
    )
    assert result.code == 1
    assert "claprt: error: 2 of 14 sounds could not be used:\n" in result.err
    assert "siren/nan.wav: sample 777" in result.err
    dataset = read_document(file)["dataset"]
    assert dataset["items"] == 12
    assert [one["path"] for one in dataset["skipped"]] == ["rain/text.wav", "siren/nan.wav"]
    assert str(tmp_path) not in file.read_text("utf-8")
    clean = cli("eval", demo_bundle, tree, "--task", "probe", "--folds", "3", "--json").json
    assert clean["dataset"]["sha256"] == dataset["sha256"]
    assert clean["variants"][0]["metrics"] == read_document(file)["variants"][0]["metrics"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--precision", "fp64"], "unknown precision: 'fp64'"),
        (["--precision", ","], "no precision is named"),
        (["--template", "no slot"], "exactly one {}"),
        (["--recipe", "fusion"], "no fusion"),
        (["--folds", "5"], "--folds is for the task probe"),
        (["--save-head", "h.npz"], "--save-head is for the task probe"),
        (["--caption-column", "x"], "--caption-column is for the task retrieval"),
        (["--confidence", "95"], "bad confidence: 95.0"),
        (["--confidence", "nan"], "bad confidence"),
        (["--resamples", "5"], "bad number of resamples"),
        (["--split", "test"], "says nothing of splits"),
        (["--label-column", "x"], "is for tables"),
        (["--json", "/nowhere/x.json"], "cannot be written"),
        (["--html", "/nowhere/x.html"], "cannot be written"),
        (["--labels-file", "/nowhere/x.txt"], "the file of labels cannot be read"),
        (["--backend", "tensorrt"], "tensorrt"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    cli: Cli, demo_bundle: Path, tree: Path, options: list[str], reason: str
) -> None:
    assert reason in cli("eval", demo_bundle, tree, "--task", "zero-shot", *options).error


def test_other_refusals(cli: Cli, demo_bundle: Path, tree: Path, tmp_path: Path) -> None:
    eval_of = ["eval", demo_bundle, tree, "--task"]
    assert "for the task zero-shot" in cli(*eval_of, "probe", "--template", "{}").error
    assert "folders have no captions" in cli(*eval_of, "retrieval").error
    assert "bad number of folds: 1" in cli(*eval_of, "probe", "--folds", "1").error
    assert "no bundle here" in cli("eval", tmp_path, tree, "--task", "probe").error
    (tmp_path / "x.csv").write_text("path,label\na.wav,dog\nb.wav,cat\n")
    error = cli("eval", demo_bundle, tmp_path / "x.csv", "--task", "zero-shot").error
    assert "0 of 2 sounds, the first: a.wav: there is no such file" in error
    assert "--audio-root" in error
    wrong = cli("eval", demo_bundle, tree)
    assert (wrong.code, wrong.out) == (2, "")
    assert "--task" in wrong.err


def test_an_output_never_replaces_what_is_read(cli: Cli, demo_bundle: Path, tree: Path, tmp_path: Path) -> None:
    """The table, a recording of the dataset, the labels; nor is one file written twice."""
    root, table, labels = tmp_path / "set", tmp_path / "d.csv", tmp_path / "labels"
    shutil.copytree(tree, root)
    rows = [f"{path},{path.parent.name}" for path in sorted(root.glob("*/*.wav"))]
    table.write_text("\n".join(["path,label", *rows]))
    labels.write_text("\n".join(kind.replace(" ", "_") for kind in KINDS))
    sound = root / "rain" / "1.wav"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    probe, zero_shot = ("--task", "probe", "--folds", "3"), ("--task", "zero-shot")
    for dataset, options, output in (
        (table, probe, ("--json", table)),
        (table, probe, ("--html", table)),
        (table, probe, ("--save-head", table)),
        (table, probe, ("--save-head", sound)),
        (root, probe, ("--save-head", sound)),
        (root, zero_shot, ("--json", sound)),
        (root, (*zero_shot, "--labels-file", labels), ("--json", labels)),
        (root, zero_shot, ("--json", demo_bundle / "manifest.json")),
    ):
        error = cli("eval", demo_bundle, dataset, *options, *output).error
        assert f"{output[0]} would replace what is read: {output[1]}" in error
    twice = cli("eval", demo_bundle, root, *zero_shot, "--json", tmp_path / "x", "--html", tmp_path / "x")
    assert "--json and --html are the same file" in twice.error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_names_of_sounds_and_classes(cli: Cli, demo_bundle: Path, tree: Path, tmp_path: Path) -> None:
    """Sounds that have nothing in common are called by whole paths; a class whose name is no text is named."""
    rows = [f"{path},{path.parent.name}" for path in sorted(tree.glob("*/*.wav"))]
    (tmp_path / "x.csv").write_text("\n".join(["path,label", "/nowhere/at/all.wav,rain", *rows]))
    result = cli("eval", demo_bundle, tmp_path / "x.csv", "--task", "zero-shot")
    assert result.code == 1
    assert "claprt: error: /nowhere/at/all.wav: there is no such file\n" in result.err
    root = tmp_path / "set"
    shutil.copytree(tree, root)
    (root / "rain").rename(root / os.fsdecode(b"pl\xfcie"))
    error = cli("eval", demo_bundle, root, "--task", "zero-shot").error
    (root / "siren").rename(root / "si\x1b[31mren")
    result = cli("eval", demo_bundle, root, "--task", "probe", "--folds", "3")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert f"the name of a class is not valid UTF-8: {root}: pl\\udcfcie; rename its folder" in error


def test_files_that_are_not_read(
    cli: Cli, demo_bundle: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO of labels would be waited for; NUL is in no text; a directory may be locked."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "nul").write_bytes(b"a\0b\n")
    zero_shot = ["eval", demo_bundle, tree, "--task", "zero-shot"]
    assert "a FIFO, not a regular file" in cli(*zero_shot, "--labels-file", tmp_path / "fifo").error
    assert "byte 1 is 0x00" in cli(*zero_shot, "--labels-file", tmp_path / "nul").error

    def locked(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", locked)
    error = cli(*zero_shot).error
    assert f"the dataset cannot be read: {tree}: Permission denied; check its permissions" in error


def test_an_interrupt_leaves_nothing(demo_bundle: Path, tree: Path, tmp_path: Path) -> None:
    """Ctrl-C once the progress bar says that sounds are embedded: exit code 130, no file."""
    soundfile.write(tmp_path / "hour.wav", np.zeros(3600 * 1000), 1000, subtype="PCM_U8")
    rows = [f"{path},{path.parent.name}" for path in sorted(tree.glob("*/*.wav"))]
    (tmp_path / "x.csv").write_text("\n".join(["path,label", "hour.wav,rain", *rows]))
    command = [sys.executable, "-m", "claprt", "eval", str(demo_bundle), str(tmp_path / "x.csv"), "--task", "probe"]
    command += ["--folds", "3", "--save-head", str(tmp_path / "head"), "--json", str(tmp_path / "result.json")]
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, stderr=inside, stdout=subprocess.PIPE)
    os.close(inside)
    shown = b""
    with contextlib.suppress(OSError):  # the process has closed its end
        while select.select([terminal], [], [], 60)[0]:
            shown += os.read(terminal, 4096)
            if b"sounds, fp32" in shown and process.poll() is None:
                process.send_signal(signal.SIGINT)
                break
        while select.select([terminal], [], [], 60)[0]:
            shown += os.read(terminal, 4096)
    out = process.communicate(timeout=60)[0]
    os.close(terminal)
    assert (process.returncode, out) == (130, b"")
    assert b"claprt: error: interrupted" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hour.wav", "x.csv"]


def test_missing_libraries_are_named(demo_bundle: Path, tree: Path) -> None:
    """Before anything is embedded."""
    code = f"""import sys
import termios
sys.modules['sklearn'] = sys.modules['scipy'] = None
from claprt.cli.main import main
sys.exit(main(['eval', {str(demo_bundle)!r}, {str(tree)!r}, '--task', 'probe']))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"not installed: scikit-learn, scipy; pip install 'claprt[bench]'" in done.stderr


def test_what_imports_load() -> None:
    """Every module with claprt[cpu] alone; help without any of them."""
    heavy = ("torch", "transformers", "sklearn", "scipy", "pyarrow", "matplotlib")
    code = f"""import sys
import termios
import claprt.cli.eval
from claprt import extras
from claprt_bench.comparing import compare
from claprt_bench.evaluation import evaluate, fsdd, listing, made_sounds, settings, table
from claprt_bench.peers import against
from claprt_bench.report import page
from claprt_bench.speed import measure, table, worker
print(*[name for name in {heavy!r} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"\n"
    assert "exit codes: 0" in spawn("eval", "--help").out


def test_tables_of_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns, splits, paths from where the table is; a folder without digits is one line."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in ("0_jackson_0.wav", "7_theo_12.wav", "notes.wav"):
        (folder / name).write_bytes(b"")
    (tmp_path / "tables").mkdir()
    assert fsdd.main([str(folder), "-o", str(tmp_path / "tables" / "x.csv")]) == 0
    assert (tmp_path / "tables" / "x.csv").read_text("utf-8").splitlines() == [
        "path,label,speaker,fold,split",
        "../recordings/0_jackson_0.wav,zero,jackson,0,test",
        "../recordings/7_theo_12.wav,seven,theo,12,train",
    ]
    capsys.readouterr()
    assert fsdd.main([str(tmp_path), "-o", str(tmp_path / "y.csv")]) == 2
    assert capsys.readouterr().err.startswith("claprt: error: no spoken digits")
    assert made_sounds.main([str(tmp_path / "made"), "--per-kind", "0"]) == 2
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("row", "task", "said"),
    [
        (
            {"metric": "top1", "only_a": 1, "only_b": 2, "p_value": 1.0},
            "zero-shot",
            "int8 against fp32: 1 sound right only with fp32, 2 only with int8, p = 1: no difference seen "
            "(+0.4 points [-0.8, +1.6])",
        ),
        (
            {"metric": "accuracy", "only_a": 20, "only_b": 2, "p_value": 0.00012},
            "probe",
            "int8 against fp32: 20 sounds right only with fp32, 2 only with int8, p < 0.001: int8 is worse "
            "(+0.4 points [-0.8, +1.6])",
        ),
        (
            {"metric": "text_to_audio_r1", "only_a": 0, "only_b": 7, "p_value": 0.0156},
            "retrieval",
            "int8 against fp32, R@1 text to audio: 0 captions right only with fp32, 7 only with int8, p = 0.016: int8 "
            "is better (+0.4 points [-0.8, +1.6])",
        ),
    ],
)
def test_comparisons_in_words(row: dict[str, Any], task: str, said: str) -> None:
    difference = {"value": 0.004, "low": -0.008, "high": 0.016}
    assert comparison({"a": "fp32", "b": "int8", "difference": difference} | row, task, 0.95) == said
