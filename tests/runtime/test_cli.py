"""The command line: what it prints where, its exit codes, and that nothing half-done stays behind."""

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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import claprt
from claprt.cli.main import main
from claprt.engines import BACKENDS

RATE = 48_000
NOT_UTF8 = os.fsdecode(b"caf\xe9.wav")

Cli = Callable[..., "Result"]


class Result:
    """What a command did: exit code, text on stdout and stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a command that did nothing; fails if it did anything else."""
        assert self.code == 2, self.err
        assert self.out == ""
        assert self.err.startswith("claprt: error: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        return self.err


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process."""

    def run(*args: object) -> Result:
        capfd.readouterr()
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else -1
        return Result(code, *capfd.readouterr())

    return run


def spawn(*args: object, **options: Any) -> Result:
    """Run a command as a process of its own."""
    command = [sys.executable, "-m", "claprt", *map(os.fspath, map(str, args))]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


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


# Help and usage


def test_version(cli: Cli) -> None:
    result = cli("--version")
    assert (result.code, result.out, result.err) == (0, f"claprt {claprt.__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["build"], ["info"], ["classify"], ["embed"], ["doctor"]])
def test_help_names_the_exit_codes(cli: Cli, command: list[str]) -> None:
    result = cli(*command, "--help")
    assert (result.code, result.err) == (0, "")
    assert "exit codes: 0" in result.out


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["listen"],
        ["--listen"],
        ["info"],
        ["info", "a", "b"],
        ["build", "demo"],
        ["classify", "b", "f"],
        ["classify", "b", "--labels", "a"],
        ["classify", "b", "f", "--labels", "a", "--labels-file", "x"],
        ["classify", "b", "f", "--labels", "a", "--top", "0"],
        ["classify", "b", "f", "--labels", "a", "--top", "three"],
        ["classify", "b", "f", "--labels", "a", "--threads", "-1"],
        ["classify", "b", "f", "--labels", "a", "--threads", "9" * 5000],
        ["classify", "b", "f", "--labels", "a", "--recipe", "middle"],
        ["classify", "b", "f", "--labels", "a", "--backend", "cpu"],
        ["classify", "b", "f", "--labels", "a", "--precision", "fp64"],
        ["embed", "b", "f"],
    ],
    ids=lambda args: " ".join(args)[:60],
)
def test_wrong_usage(cli: Cli, args: list[str]) -> None:
    result = cli(*args)
    assert (result.code, result.out) == (2, "")
    assert "usage: claprt" in result.err
    assert "Traceback" not in result.err
    assert "_positive" not in result.err


# classify


def test_classify_prints_a_table(cli: Cli, demo_bundle: Path, sounds: Path) -> None:
    files = [sounds / "one.wav", sounds / "two.wav"]
    result = cli("classify", demo_bundle, *files, "--labels", "dog,rain,bell,siren", "--top", "2")
    assert (result.code, result.err) == (0, "")
    header, rule, *rows = result.out.splitlines()
    assert header.split() == ["file", "best", "label", "probability", "cosine", "then"]
    assert set(rule) == {"-", " "}
    expected = claprt.load(demo_bundle).classify(files, ["dog", "rain", "bell", "siren"])
    for row, file, (best, second, *_) in zip(rows, files, expected, strict=True):
        assert row.split() == [
            *(str(file), best.label, f"{100 * best.probability:.1f}", "%", f"{best.cosine:.3f}"),
            *(second.label, f"{100 * second.probability:.1f}", "%"),
        ]


def test_classify_json(cli: Cli, demo_bundle: Path, sounds: Path) -> None:
    """All labels of every sound whatever --top says; each figure is the library's."""
    files = [sounds / "long.wav", sounds / "text.wav", sounds / "two.wav"]
    result = cli("classify", demo_bundle, *files, "--labels", "dog,rain,bell", "--json", "--recipe", "head")
    assert result.code == 1
    found = result.json
    clap = claprt.load(demo_bundle)
    assert {key: found[key] for key in ("space_id", "backend", "precision", "recipe", "labels")} == {
        "space_id": clap.space_id,
        "backend": "ort-cpu",
        "precision": "fp32",
        "recipe": "head",
        "labels": ["dog", "rain", "bell"],
    }
    assert [entry["file"] for entry in found["results"]] == [str(files[0]), str(files[2])]
    expected = clap.classify([files[0], files[2]], ["dog", "rain", "bell"], recipe="head")
    for entry, predictions in zip(found["results"], expected, strict=True):
        assert [item["label"] for item in entry["predictions"]] == [item.label for item in predictions]
        for item, prediction in zip(entry["predictions"], predictions, strict=True):
            assert item == pytest.approx(prediction._asdict(), abs=1e-6)
    (error,) = found["errors"]
    assert error["file"] == str(files[1])
    assert error["error"] in result.err


def test_templates_are_averaged(cli: Cli, demo_bundle: Path, sounds: Path) -> None:
    templates = ["{}", "the sound of {} nearby"]
    options = [argument for template in templates for argument in ("--template", template)]
    result = cli("classify", demo_bundle, sounds / "one.wav", "--labels", "dog,rain", *options, "--json")
    expected = claprt.load(demo_bundle).classify(sounds / "one.wav", ["dog", "rain"], templates)
    found = result.json["results"][0]["predictions"]
    assert [item["label"] for item in found] == [item.label for item in expected]
    assert found[0]["probability"] == pytest.approx(expected[0].probability, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("dog", ["dog"]),
        ("dog,rain", ["dog", "rain"]),
        (" dog , rain falling ", ["dog", "rain falling"]),
        ("dog,rain,", ["dog", "rain"]),
        ("'dog',\"rain\"", ["'dog'", '"rain"']),
        ("naïve,你好,🎺", ["naïve", "你好", "🎺"]),
        ("{},{0.__class__}", ["{}", "{0.__class__}"]),
    ],
)
def test_labels(cli: Cli, demo_bundle: Path, sounds: Path, text: str, labels: list[str]) -> None:
    result = cli("classify", demo_bundle, sounds / "two.wav", "--labels", text, "--json")
    assert result.code == 0
    assert result.json["labels"] == labels


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there are no labels"),
        (" ", "there are no labels"),
        (",", "a text is empty"),
        (",,", "a text is empty"),
        ("dog,,rain", "a text is empty: text 1"),
        (",dog", "a text is empty: text 0"),
        ("dog,rain, dog", "given twice: 'dog'"),
        (os.fsdecode(b"caf\xe9"), "not valid Unicode"),
    ],
)
def test_bad_labels(cli: Cli, demo_bundle: Path, sounds: Path, text: str, reason: str) -> None:
    assert reason in cli("classify", demo_bundle, sounds / "two.wav", "--labels", text).error


def test_bad_template(cli: Cli, demo_bundle: Path, sounds: Path) -> None:
    result = cli("classify", demo_bundle, sounds / "two.wav", "--labels", "a", "--template", "{0.__class__}")
    assert "a template needs exactly one {}" in result.error


@pytest.mark.parametrize(
    "content",
    [
        b"dog\nrain\n",
        b"dog\nrain",
        b"\xef\xbb\xbfdog\r\nrain\r\n",
        b"\n\n  dog \n\t\nrain\n\n",
        b"dog\rrain",
    ],
    ids=["LF", "no newline at the end", "BOM and CRLF", "blank lines", "CR"],
)
def test_labels_file(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    result = cli("classify", demo_bundle, sounds / "two.wav", "--labels-file", tmp_path / "labels.txt", "--json")
    assert result.json["labels"] == ["dog", "rain"]


def test_a_comma_in_a_labels_file_belongs_to_the_label(
    cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("rain, heavy\ndog\n")
    result = cli("classify", demo_bundle, sounds / "two.wav", "--labels-file", tmp_path / "labels.txt", "--json")
    assert result.json["labels"] == ["rain, heavy", "dog"]


BAD_LINES: dict[str, bytes] = {
    "latin-1": b"dog\ncaf\xe9\n",
    "UTF-16": "dog\n".encode("utf-16"),
    "empty": b"",
    "blank": b"\n \r\n\t\n",
}


@pytest.mark.parametrize("option", ["--labels-file", "--texts-file"])
@pytest.mark.parametrize("case", [*BAD_LINES, "missing", "directory", "FIFO", "name too long"])
def test_bad_files_of_lines(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path, option: str, case: str) -> None:
    path = tmp_path / ("x" * 300 if case == "name too long" else "lines.txt")
    if case in BAD_LINES:
        path.write_bytes(BAD_LINES[case])
    elif case == "directory":
        path.mkdir()
    elif case == "FIFO":
        os.mkfifo(path)  # nobody writes: reading it would wait for ever
    command = {"--labels-file": ["classify"], "--texts-file": ["embed", "-o", str(tmp_path / "v.npz")]}[option]
    files = [sounds / "two.wav"] if option == "--labels-file" else []
    result = cli(*command, demo_bundle, *files, option, path)
    assert str(path) in result.error
    assert not (tmp_path / "v.npz").exists()


# Some inputs are broken


def test_one_broken_file_among_several(cli: Cli, demo_bundle: Path, sounds: Path) -> None:
    """Exit code 1; the others are done; the reason comes last on stderr, where it is seen."""
    files = [sounds / "one.wav", sounds / "text.wav", sounds / "two.wav"]
    result = cli("classify", demo_bundle, *files, "--labels", "a,b")
    assert result.code == 1
    assert [row.split()[0] for row in result.out.splitlines()[2:]] == [str(files[0]), str(files[2])]
    count, reason = result.err.splitlines()
    assert count == "claprt: error: 1 of 3 files could not be used:"
    assert reason.startswith("claprt: error: ")
    assert str(files[1]) in reason


def test_all_files_broken_is_nothing_done(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.npz"
    assert str(sounds / "text.wav") in cli("embed", demo_bundle, sounds / "text.wav", "-o", output).error
    broken = [sounds / "text.wav", sounds / "empty.wav", sounds / "missing.wav", sounds]
    result = cli("classify", demo_bundle, *broken, "--labels", "a,b")
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 5
    result = cli("embed", demo_bundle, *broken, "-o", output, "--json")
    assert (result.code, result.json["output"], len(result.json["errors"])) == (2, None, 4)
    assert not list(tmp_path.iterdir())


# embed


def test_embed_files(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    files = [sounds / "one.wav", sounds / "long.wav", sounds / "one.wav"]
    result = cli("embed", demo_bundle, *files, "-o", tmp_path / "v.npz")
    clap = claprt.load(demo_bundle)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{tmp_path / 'v.npz'}: 3 vectors of {clap.embedding_dim}, space {clap.space_id}\n"
    found = claprt.load_embeddings(tmp_path / "v.npz")
    assert found.names == list(map(str, files))
    assert found.space_id == clap.space_id
    np.testing.assert_array_equal(found.vectors, clap.embed_audio(files))


def test_embed_goes_on_past_a_broken_file(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    files = [sounds / "empty.wav", sounds / "one.wav"]
    result = cli("embed", demo_bundle, *files, "-o", tmp_path / "v.npz", "--json")
    assert result.code == 1
    assert (result.json["count"], result.json["output"]) == (1, str(tmp_path / "v.npz"))
    assert [error["file"] for error in result.json["errors"]] == [str(files[0])]
    assert claprt.load_embeddings(tmp_path / "v.npz").names == [str(files[1])]


def test_embed_texts(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a dog\n\nnaïve 🎺\r\n", encoding="utf-8")
    result = cli("embed", demo_bundle, "--texts-file", tmp_path / "texts.txt", "-o", tmp_path / "v.npz", "--json")
    assert (result.code, result.err, result.json["count"]) == (0, "", 2)
    found = claprt.load_embeddings(tmp_path / "v.npz")
    assert found.names == ["a dog", "naïve 🎺"]
    np.testing.assert_allclose(found.vectors, claprt.load(demo_bundle).embed_text(found.names), atol=1e-6)


def test_a_long_text_is_a_warning_of_one_line(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("word " * 5000 + "\nshort\n")
    result = cli("embed", demo_bundle, "--texts-file", tmp_path / "texts.txt", "-o", tmp_path / "v.npz")
    assert result.code == 0
    assert result.err.startswith("claprt: warning: a text was truncated: text 0 ")
    assert result.err.count("\n") == 1


def test_embed_needs_files_or_texts_and_not_both(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a\n")
    both = cli("embed", demo_bundle, sounds / "one.wav", "--texts-file", tmp_path / "texts.txt", "-o", tmp_path / "v")
    neither = cli("embed", demo_bundle, "-o", tmp_path / "v")
    assert "either" in both.error
    assert "either" in neither.error
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("target", ["missing/v.npz", "file/v.npz", "folder", "x" * 300, "pipe"])
def test_embed_where_nothing_can_be_written(
    cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert str(tmp_path / target) in cli("embed", demo_bundle, sounds / "two.wav", "-o", tmp_path / target).error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_file_names_that_are_not_utf8(demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """Shown with escapes, and exact in JSON and in the archive."""
    shutil.copy(sounds / "two.wav", tmp_path / NOT_UTF8)
    table = spawn("classify", demo_bundle, NOT_UTF8, "--labels", "a,b", cwd=tmp_path)
    assert (table.code, table.err) == (0, "")
    assert "caf\\udce9.wav" in table.out
    written = spawn("embed", demo_bundle, NOT_UTF8, "-o", NOT_UTF8 + ".npz", "--json", cwd=tmp_path)
    assert (written.code, written.err) == (0, "")
    assert os.fsencode(written.json["output"]) == b"caf\xe9.wav.npz"
    archive = claprt.load_embeddings(tmp_path / written.json["output"])
    assert [os.fsencode(name) for name in archive.names] == [b"caf\xe9.wav"]
    missing = spawn("classify", demo_bundle, "no" + NOT_UTF8, "--labels", "a,b", cwd=tmp_path)
    assert "nocaf\\udce9.wav" in missing.error


def test_texts_that_the_terminal_cannot_show(demo_bundle: Path, sounds: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = spawn("classify", demo_bundle, sounds / "two.wav", "--labels", "naïve,🎺", env=environment)
    assert (result.code, result.err) == (0, "")
    assert "\\U0001f3ba" in result.out


# info and doctor


def test_info(cli: Cli, demo_bundle: Path) -> None:
    result = cli("info", demo_bundle)
    assert (result.code, result.err) == (0, "")
    manifest = claprt.load(demo_bundle).manifest
    for part in (str(demo_bundle), manifest.model.space_id, "fp32", "48000 Hz", "'windows'", "with the right hashes"):
        assert part in result.out
    assert all(line == line.rstrip() for line in result.out.splitlines())


def test_info_json_is_the_manifest(cli: Cli, demo_bundle: Path) -> None:
    result = cli("info", demo_bundle, "--json")
    assert result.json == json.loads((demo_bundle / "manifest.json").read_text(encoding="utf-8"))


def test_info_finds_damage_in_every_file(cli: Cli, demo_bundle: Path, tmp_path: Path) -> None:
    for name in ("audio.fp32.onnx", "text.fp32.onnx", "tokenizer.json"):
        copied = shutil.copytree(demo_bundle, tmp_path / name)
        with (copied / name).open("r+b") as stream:
            stream.seek(100)
            byte = stream.read(1)
            stream.seek(100)
            stream.write(bytes([byte[0] ^ 1]))
        assert f"wrong hash: {copied / name}" in cli("info", copied).error
        assert "wrong hash" in cli("info", copied, "--json").error


@pytest.mark.parametrize("verification", [{}, {"fp32": "the audio tower"}, {"fp32": 1}, {"fp32": {"audio": None}}])
def test_info_shows_any_verification(cli: Cli, demo_bundle: Path, tmp_path: Path, verification: Any) -> None:
    """The object is free-form: other tools and later versions put into it what they like."""
    copied = shutil.copytree(demo_bundle, tmp_path / "bundle")
    document = json.loads((copied / "manifest.json").read_text(encoding="utf-8")) | {"verification": verification}
    (copied / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    assert cli("info", copied).code == 0


@pytest.mark.parametrize("command", [["info"], ["classify", "x.wav", "--labels", "a"]], ids=lambda command: command[0])
def test_no_bundle(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    name, *rest = command
    for path in (tmp_path / "missing", tmp_path, tmp_path / ("x" * 300)):
        assert str(path) in cli(name, path, *rest).error


def test_doctor(cli: Cli) -> None:
    result = cli("doctor")
    assert (result.code, result.err) == (0, "")
    for name in (*BACKENDS, "numpy", "tokenizers", "onnxruntime"):
        assert name in result.out
    found = cli("doctor", "--json").json
    assert [state["name"] for state in found["backends"]] == list(BACKENDS)
    assert all(state["reason"] for state in found["backends"])
    assert found["system"]["claprt"] == claprt.__version__
    assert found["packages"]["numpy"] == np.__version__


@pytest.mark.parametrize("failure", ["raise ImportError", "raise OSError('libx.so:\\nnot found')", "import missing_x"])
def test_doctor_says_why_a_backend_is_unusable(tmp_path: Path, demo_bundle: Path, failure: str) -> None:
    """A broken installation of onnxruntime: one line with the reason, exit code 1, and no traceback."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(failure + "\n")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    result = spawn("doctor", "--json", env=environment)
    assert (result.code, result.err) == (1, "")
    reason = result.json["backends"][-1]["reason"]
    assert reason.startswith("onnxruntime cannot be imported: ")
    assert "\n" not in reason
    assert reason in spawn("classify", demo_bundle, "x", "--labels", "a", env=environment).error


# Streams


def test_a_reader_that_goes_away_is_no_error(demo_bundle: Path, sounds: Path) -> None:
    """`claprt ... | head -1`: no traceback, no message. The pipe's other end is closed before anything is written."""
    for args in (
        ["--help"],
        ["doctor"],
        ["info", demo_bundle, "--json"],
        ["classify", demo_bundle, sounds / "two.wav", "--labels", "a,b", "--json"],
    ):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "claprt", *map(str, args)]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(writer)
        assert done.stderr == b""


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "claprt", "doctor"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["claprt: error: No space left on device"]


def test_closed_streams() -> None:
    """`claprt ... >&- 2>&-`: Python then has no stdout and no stderr at all."""
    command = f"{sys.executable} -m claprt doctor >&-; echo $?; {sys.executable} -m claprt info missing 2>&-; echo $?"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.stdout.decode().split() == ["0", "2"]
    assert done.stderr == b""


def test_no_progress_bar_in_a_pipe(demo_bundle: Path, sounds: Path) -> None:
    result = spawn("classify", demo_bundle, sounds / "one.wav", sounds / "long.wav", "--labels", "a,b")
    assert (result.code, result.err) == (0, "")
    assert "\r" not in result.out


def test_a_progress_bar_on_a_terminal(demo_bundle: Path, sounds: Path) -> None:
    """On stderr only; it is gone at the end, and stdout is clean."""
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "claprt", "classify", str(demo_bundle), str(sounds / "long.wav"), "--labels", "a"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while select.select([terminal], [], [], 30)[0]:
            shown += os.read(terminal, 4096)
    out = process.communicate(timeout=30)[0]
    os.close(terminal)
    assert process.returncode == 0
    assert b"sounds:" in shown
    assert b"0/1" in shown
    assert shown.endswith(b"\r")
    assert b"\r" not in out
    assert b"long.wav" in out


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_a_destructor_is_not_lost(name: str, code: int) -> None:
    """Python only reports what is raised in `__del__` and goes on: the build would not have stopped."""
    script = f"""
import signal, sys, time
from claprt.cli import doctor, main

class Loud:
    def __del__(self):
        signal.raise_signal(signal.{name})

def run(args):
    Loud()
    time.sleep(20)

doctor.run_doctor = run
sys.exit(main.main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=15, check=False)
    assert done.returncode == code
    assert b"ignored" not in done.stderr


# build


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


# Imports

HEAVY = ("torch", "transformers", "onnx", "onnxscript", "safetensors", "huggingface_hub", "scipy")


def imported(code: str, *names: str) -> list[str]:
    """Which of `names` are loaded after `code` ran in a fresh interpreter."""
    code = f"import sys\n{code}\nprint(*[name for name in {names!r} if name in sys.modules], file=sys.__stderr__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    return done.stderr.decode().split()


def test_the_library_does_not_load_what_only_export_needs(demo_bundle: Path, sounds: Path) -> None:
    use = f"clap = claprt.load({str(demo_bundle)!r}); clap.classify({str(sounds / 'two.wav')!r}, ['a', 'b'])"
    assert imported(f"import claprt\n{use}", *HEAVY, "claprt_export") == []


def test_import_claprt_alone_is_light() -> None:
    """Names are loaded when they are first used; all of them are there."""
    assert imported("import claprt", *HEAVY, "numpy", "onnxruntime") == []
    assert imported("from claprt import *; import claprt; assert set(claprt.__all__) <= set(dir(claprt))", *HEAVY) == []
    for name in claprt.__all__:
        assert getattr(claprt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = claprt.missing  # type: ignore[attr-defined]


def test_each_command_but_build_is_light(demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """All in one interpreter, one after the other."""
    commands = [
        ["info", str(demo_bundle)],
        ["classify", str(demo_bundle), str(sounds / "two.wav"), "--labels", "a,b"],
        ["embed", str(demo_bundle), str(sounds / "two.wav"), "-o", str(tmp_path / "v.npz")],
        ["doctor"],
    ]
    code = f"from claprt.cli.main import main\nfor command in {commands!r}:\n    assert main(command) == 0"
    assert imported(code, *HEAVY, "claprt_export") == []


def test_help_and_version_load_neither_numpy_nor_an_engine() -> None:
    code = "from claprt.cli.main import main\nfor command in (['--help'], ['--version'], ['classify', '--help'], []):\n"
    code += "    try: main(command)\n    except SystemExit: pass\nsys.__stderr__.write('loaded:')"
    loaded = imported(code, *HEAVY, "numpy", "onnxruntime", "tokenizers", "soundfile", "soxr")
    assert loaded[-1].endswith("loaded:")
