"""SOURCE of `claprt build` -> a local path: the demo checkpoints, a directory, a hub repository, LAION's .pt files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claprt.errors import CheckpointError, OptionError
from claprt_export.demo import CHECKPOINTS

DEMO_SOURCES = {"demo": "unfused", "demo-fused": "fused"}

# `laion/clap-htsat-unfused`, or a repository without an owner.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_TIMEOUT = 15.0  # seconds without an answer


@dataclass(frozen=True)
class Source:
    """A checkpoint's place.

    Attributes:
        name: what the bundle calls it: the hub id, "demo", or the directory's or file's own name. Where it lay on the
            machine that built a bundle is nobody's business later.
        revision: commit of a hub repository.
        path: a directory as transformers saves one, or one of LAION's files.
    """

    name: str
    revision: str | None
    path: Path


def find_source(source: str, revision: str | None = None) -> Source:
    """Find a checkpoint; download it if it is a hub repository.

    Args:
        source: "demo", "demo-fused", a directory, a hub id, or a file that `is_file` takes.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: nothing there, or the hub cannot be reached and has left no copy in its cache.
        OptionError: `revision` for what is no hub repository.
    """
    _check_revision(source, revision)
    if source in DEMO_SOURCES:
        directory = CHECKPOINTS[DEMO_SOURCES[source]]
        if not directory.is_dir():
            raise CheckpointError(
                f"not part of this installation: {source}; it is in claprt's repository: clone that, or use 'demo'"
            )
        return Source(source, None, directory)
    path = Path(source)
    if is_file(source):
        if not path.is_file():
            raise CheckpointError(f"no such checkpoint: {source}: there is no such file; pass the path of a .pt file")
        return Source(path.name, None, path)
    if source and path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"not a transformers checkpoint: {source}: it has no config.json; pass the directory that "
                "`save_pretrained` wrote or that the hub repository was downloaded to"
            )
        return Source(path.resolve().name, None, path)
    if source and path.exists():
        raise CheckpointError(
            f"not a directory: {source}; pass the directory with config.json and the weights, a hub id, one of LAION's "
            ".pt files, or 'demo'"
        )
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"no such checkpoint: {source!r}: neither a directory nor a hub id (owner/name) nor "
            f"{' nor '.join(map(repr, DEMO_SOURCES))}"
        )
    return _download(source, revision)


def _check_revision(source: str, revision: str | None) -> None:
    if revision is None:
        return
    local = source in DEMO_SOURCES or is_file(source) or (source and Path(source).exists())
    if local:
        what = "shipped with claprt" if source in DEMO_SOURCES else "on this machine"
        raise OptionError(f"--revision is for hub repositories: {revision!r}; leave it out, {source} is {what}")


def is_file(source: str) -> bool:
    """Whether a source is meant as one of LAION's own files, by its suffix."""
    return Path(source).suffix.lower() in (".pt", ".pth") and not Path(source).is_dir()


def find_tokenizer(tokenizer: str) -> Path:
    """The directory of a tokenizer that belongs to no checkpoint; it is downloaded if it is a hub repository.

    Args:
        tokenizer: a directory or a hub id.

    Raises:
        CheckpointError: nothing there, or the hub cannot be reached and has left no copy in its cache.
    """
    path = Path(tokenizer)
    if tokenizer and path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(tokenizer):
        raise CheckpointError(
            f"no such tokenizer: {tokenizer!r}: neither a directory nor a hub id; pass one of them as --tokenizer"
        )
    return _download(tokenizer, None, weights=False).path


def _download(source: str, revision: str | None, weights: bool = True) -> Source:
    """A hub repository, or the copy of it that an earlier download left in the hub's cache."""
    import huggingface_hub as hub

    with _quiet_hub():
        try:
            info = hub.HfApi().model_info(source, revision=revision, timeout=_HUB_TIMEOUT)
        except Exception as error:  # HTTP and connection errors of several libraries
            cached = _cached(hub, source, revision)
            if cached is not None:
                return cached
            raise _unreachable(source, error, weights) from error
        files = [sibling.rfilename for sibling in info.siblings or ()]
        # One set of weights is enough; transformers prefers the safe format too.
        wanted = ["*.json", "*.txt"]
        if weights:
            wanted.append("*.safetensors*" if any(name.endswith(".safetensors") for name in files) else "*.bin*")
        try:
            # By the name that was asked for, not by its commit: the cache can then serve that name offline.
            directory = Path(
                hub.snapshot_download(source, revision=revision, allow_patterns=wanted, etag_timeout=_HUB_TIMEOUT)
            )
        except Exception as error:
            raise _unreachable(source, error, weights) from error
    return Source(source, directory.name, directory)  # the directory is named after the commit


def _cached(hub: Any, source: str, revision: str | None) -> Source | None:
    config = hub.try_to_load_from_cache(source, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    return Source(source, Path(config).parent.name, Path(config).parent)


def _unreachable(source: str, error: Exception, weights: bool) -> CheckpointError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if not weights:
        return CheckpointError(
            f"cannot get the tokenizer, which a .pt file does not have, from the hub: {source}: {reason[:200]}; pass a "
            "directory that has it as --tokenizer"
        )
    return CheckpointError(
        f"cannot get the checkpoint from the hub: {source}: {reason[:200]}; if the hub cannot be reached from here, "
        f"download the repository where it can (`hf download {source} --local-dir clap`) and pass that directory"
    )


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """No announcements of retries: one error tells all."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
