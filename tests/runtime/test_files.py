"""Reading regular files only, writing whole files only, and never over what is read."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from claprt.errors import OptionError
from claprt.files import check_outputs, check_target, open_regular, read_regular, write_whole
from claprt.printable import printable


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fifo", "it is a FIFO, not a regular file (pipes and standard input are not read)"),
        ("/dev/zero", "it is a device, not a regular file"),
        ("folder", "it is a directory, not a regular file"),
        ("large", "more than 100 bytes"),
        ("missing", "No such file"),
        ("-", "standard input is not read"),
        ("a\0b", "null"),
        ("x" * 300, "too long"),
    ],
)
def test_what_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    """At once: nobody writes into the FIFO, and the device never ends."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("folder").mkdir()
    Path("large").write_bytes(bytes(101))
    for read in (open_regular, read_regular):
        with pytest.raises(OSError) as caught:  # noqa: PT011 (any kind of it)
            read(name, 100)
        assert reason in str(caught.value.strerror)


def test_a_file_that_became_a_fifo_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at it and its opening."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"x")
    regular = os.stat(tmp_path / "file")  # noqa: PTH116
    failed: list[str] = []

    def read() -> None:
        try:
            open_regular(tmp_path / "fifo")
        except OSError as error:
            failed.append(str(error.strerror))

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda path: regular)
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(10)
    assert failed == ["it is a FIFO, not a regular file (pipes and standard input are not read)"]


def test_what_is_read() -> None:
    """Also what says that it has no bytes."""
    assert read_regular("/proc/self/status", 1 << 20).startswith(b"Name:")
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_regular("/proc/self/status", 10)


def test_a_link_stays_one_and_a_mode_is_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to("elsewhere/file")
    write_whole(link, "the file", lambda stream: stream.write(b"new"))
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    dangling = tmp_path / "dangling"
    dangling.symlink_to("elsewhere/new")
    write_whole(dangling, "the file", lambda stream: stream.write(b"new"))
    assert (tmp_path / "elsewhere" / "new").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "elsewhere", "link"]
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["file", "new"]


def test_targets_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says what is wrong with it."""
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")

    def reason(path: Path) -> str:
        with pytest.raises(OptionError, match="the file cannot be written") as caught:
            check_target(path, "the file")
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "there is no directory" in reason(tmp_path / "none" / "x")
    assert f"{tmp_path / 'file'} is not a directory" in reason(tmp_path / "file" / "x")
    assert "it is a directory" in reason(tmp_path)
    with pytest.raises(OptionError, match="null"):
        check_target("a\0b", "the file")
    assert "a FIFO, not a regular file" in reason(tmp_path / "fifo")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"no permission to write in {tmp_path}" in reason(tmp_path / "x")

    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", denied)
    assert "Permission denied; choose another path" in reason(tmp_path / "x")


def test_outputs_that_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever name: a link, a hard link, another spelling."""
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("a")
    Path("other").write_text("b")
    Path("link").symlink_to("a")
    Path("hard").hardlink_to("a")
    Path("folder").mkdir()
    for output in ("a", "./a", tmp_path / "a", "link", "hard", "folder/../a"):
        with pytest.raises(OptionError, match="-o would replace what is read"):
            check_outputs([("-o", output)], ["gone", "a\0", "other", "a"])
        check_outputs([("-o", output)], ["gone", "other"])
    for first, second in (("a", "link"), ("new", "folder/../new"), ("new", tmp_path / "new")):
        with pytest.raises(OptionError, match="--json and --html are the same file"):
            check_outputs([("--json", first), ("-o", None), ("--html", second)], [])
    check_outputs([("--json", "new"), ("--html", "folder/new")], (pytest.fail("not needed") for _ in "x"))


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[31m\nb\u202ec\x00\x9b") == "a\\x1b[31m\\nb\\u202ec\\x00\\x9b"
    for text in ("naïve 你好　世界", "a\xa0b", "👩\u200d🔬", "می\u200cخواهم"):
        assert printable(text) == text
