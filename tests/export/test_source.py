"""Where a checkpoint comes from: a hub repository (a real client against a local server), its cache, a directory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from claprt.errors import AudioError, CheckpointError, OptionError
from claprt_export.comparison import find_sounds
from claprt_export.source import find_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "clap"}',
    "merges.txt": b"#version: 0.2\n",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights again",
    "README.md": b"# a card",
}
FIND = """
import sys
from claprt_export.source import find_source
found = find_source("owner/model", sys.argv[1] if len(sys.argv) > 1 else None)
print(found.name, found.revision, *sorted(path.name for path in found.path.iterdir()))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of a hub's HTTP interface as a download needs."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        data, kind = b"", "application/octet-stream"
        if self.path.startswith("/api/models/owner/model/tree/"):
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in FILES.items()
            ]
            data, kind = json.dumps(tree).encode(), "application/json"
        elif self.path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": file} for file in FILES]
            data = json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode()
            kind = "application/json"
        elif f"/resolve/{COMMIT}/" in self.path:
            data = FILES[name]
        self.send_response(200 if data else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Keep the test's output free of the server's log."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


FIND_TOKENIZER = """
from claprt_export.source import find_tokenizer
print(*sorted(path.name for path in find_tokenizer("owner/model").iterdir()))
"""


def find(endpoint: str, home: Path, *arguments: str, script: str = FIND) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_hub_repository(hub: str, tmp_path: Path, revision: str | None) -> None:
    """The commit is recorded; one set of weights comes, the safe one; and no card."""
    done = find(hub, tmp_path, *([revision] if revision else []))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["owner/model", COMMIT, "config.json", "merges.txt", "model.safetensors"]


def test_cache_serves_when_the_hub_is_gone(hub: str, tmp_path: Path) -> None:
    assert find(hub, tmp_path, "main").returncode == 0
    for revision in ([COMMIT], ["main"], []):
        done = find("http://127.0.0.1:9", tmp_path, *revision)
        assert done.returncode == 0, (revision, done.stderr)
        assert done.stdout.split()[:2] == ["owner/model", COMMIT]


def test_tokenizer_comes_without_weights(hub: str, tmp_path: Path) -> None:
    for endpoint in (hub, "http://127.0.0.1:9"):  # the second time from the cache
        done = find(endpoint, tmp_path, script=FIND_TOKENIZER)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["config.json", "merges.txt"]
    done = find("http://127.0.0.1:9", tmp_path / "empty", script=FIND_TOKENIZER)
    assert "CheckpointError: cannot get the tokenizer" in done.stderr
    assert "--tokenizer" in done.stderr


def test_unknown_repository_and_unreachable_hub(hub: str, tmp_path: Path) -> None:
    """One error that says how to go on with a local directory."""
    done = find("http://127.0.0.1:9", tmp_path)
    assert "CheckpointError: cannot get the checkpoint from the hub: owner/model" in done.stderr
    assert "--local-dir" in done.stderr


@pytest.mark.parametrize("source", ["", "no such thing", "./missing", "a/b/c", "..", "-x"])
def test_names_that_are_nothing(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        find_source(source)


def test_a_revision_is_for_the_hub(tmp_path: Path) -> None:
    """It would have been ignored."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.pt").write_bytes(b"")
    for source in ("demo", str(tmp_path), str(tmp_path / "model.pt"), str(tmp_path / "missing.pt")):
        with pytest.raises(OptionError, match="--revision is for hub repositories: 'x'"):
            find_source(source, "x")


def test_a_directory_of_recordings_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such directory"):
        find_sounds(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match="not a directory"):
        find_sounds(tmp_path / "file")
    with pytest.raises(AudioError, match="no file ends in"):
        find_sounds(tmp_path)
