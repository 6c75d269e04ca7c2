"""The files of a bundle, which nothing that a command writes may replace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from claprt.bundle import open_bundle
from claprt.errors import ClaprtError
from claprt.manifest import MANIFEST_FILE


def bundle_files(path: Path) -> Iterator[Path]:
    """Those that are read; of what is no bundle only what may be there."""
    yield path / MANIFEST_FILE
    with contextlib.suppress(ClaprtError):  # told when it is loaded
        manifest = open_bundle(path).manifest
        for tower in (manifest.audio, manifest.text):
            for variant in tower.variants.values():
                yield from (path / entry.file for entry in variant.files)
        yield path / manifest.text.tokenizer.file
    yield from (path / "engines").rglob("*")
