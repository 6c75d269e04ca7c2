"""The command line: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import claprt
from claprt.engines import BACKENDS
from tests.runtime.cli_helpers import NOT_UTF8, Cli, spawn

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
    command = f"claprt {args[0]}" if args and args[0] in ("info", "build", "classify", "embed") else "claprt"
    assert cli(*args).error.endswith(f"; see {command} --help\n")


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
    "NUL": b"dog\nca\0t\n",
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
    assert result.json["recipe"] is None
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


def test_an_output_never_replaces_an_input(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """By whatever name; before anything is embedded."""
    sound, texts, link, bundle = (tmp_path / name for name in ("in.wav", "e.txt", "link", "bundle"))
    shutil.copy(sounds / "two.wav", sound)
    shutil.copytree(demo_bundle, bundle)
    texts.write_text("a dog\n")
    link.symlink_to("in.wav")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command in (
        (bundle, sounds / "one.wav", sound, "-o", sound),
        (bundle, sound, "-o", link),
        (bundle, link, "-o", sound),
        (bundle, "--texts-file", texts, "-o", texts),
        (bundle, sound, "-o", bundle / "manifest.json"),
        (bundle, sound, "-o", bundle / "audio.fp32.onnx"),
        (bundle, sound, "-o", bundle / "tokenizer.json"),
    ):
        assert "-o would replace what is read" in cli("embed", *command).error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert cli("embed", bundle, sound, "-o", tmp_path / "v").code == 0
    assert cli("embed", bundle, sound, "-o", tmp_path / "v").code == 0


def test_names_that_a_terminal_would_obey(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """Escapes in the table, and in messages; rows stay aligned, JSON has the name itself."""
    name = tmp_path / "red\x1b[31m\nline.wav"
    shutil.copy(sounds / "two.wav", name)
    result = cli("classify", demo_bundle, name, sounds / "one.wav", "--labels", "a\x1b[1m,b")
    assert (result.code, len(result.out.splitlines())) == (0, 4)
    assert "\x1b" not in result.out
    assert "red\\x1b[31m\\nline.wav" in result.out
    assert len({line.index(" %") for line in result.out.splitlines()[2:]}) == 1
    assert cli("classify", demo_bundle, name, "--labels", "a,b", "--json").json["results"][0]["file"] == str(name)
    assert "\x1b" not in cli("info", tmp_path / "\x1b[31mno").error


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
    for name in (*BACKENDS, "log-Mel", "numpy", "tiktoken", "onnxruntime"):
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
