"""`claprt verify`: the comparison of a build, repeated later and on the user's own sounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claprt.bundle import open_bundle
from claprt.errors import CheckpointError, OptionError
from claprt.progress import Progress
from claprt_export.checkpoint import load_checkpoint
from claprt_export.comparison import Verification, verification_sounds
from claprt_export.on_cpu import running
from claprt_export.parity import compare, make_reference


@dataclass(frozen=True)
class VerifiedVariant:
    """One variant's comparison, and the bounds it misses (none is good)."""

    verification: Verification
    missed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**self.verification.to_json(), "missed": list(self.missed)}


def verify(
    bundle: Path,
    against: str,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
    recordings: Path | None = None,
    variant: str | None = None,
) -> dict[str, VerifiedVariant]:
    """Compare a bundle with the checkpoint it was built from.

    Args:
        bundle: its directory.
        against: the checkpoint, as `claprt_export.build.build` takes it.
        revision: of a hub repository.
        tokenizer: for a .pt file.
        recordings: a directory of sounds to compare on, besides the ones claprt synthesises.
        variant: one of the bundle's; None is all of them.

    Returns:
        The result of each variant. A missed bound is part of it and no exception.

    Raises:
        CheckpointError: not a usable checkpoint, or not the one of this bundle.
        OptionError: the bundle has no such variant.
        BundleError, AudioError: the bundle or the recordings cannot be used.
    """
    manifest = open_bundle(bundle).manifest
    if variant is not None and variant not in manifest.variants:
        raise OptionError(f"the bundle has no {variant}: {bundle}: it has {', '.join(manifest.variants)}")
    names = manifest.variants if variant is None else (variant,)
    with Progress(f"verify {bundle.name}", total=1 + len(names)) as progress:
        progress.note("loading the checkpoint")
        int16 = manifest.audio.log_mel.int16
        checkpoint = load_checkpoint(against, revision, tokenizer, int16)
        if checkpoint.weights_sha256 != manifest.model.weights_sha256:
            raise CheckpointError(
                f"not the checkpoint of this bundle: {against}: its weights' SHA-256 is {checkpoint.weights_sha256}, "
                f"the bundle's {manifest.model.weights_sha256}; name {manifest.model.source!r}, or build it again"
            )
        description, waveforms = verification_sounds(checkpoint.log_mel, recordings)
        count = len(waveforms)
        reference = make_reference(
            checkpoint, description, waveforms, lambda done: progress.note(f"transformers, sound {done} of {count}")
        )
        progress.advance()
        result = {}
        for name in names:

            def say(done: int, name: str = name) -> None:
                progress.note(f"{name}, sound {done} of {count}")

            with running(bundle, name) as clap:
                verification = compare(clap, reference, say)
            result[name] = VerifiedVariant(verification, tuple(verification.missed(name)))
            progress.advance()
    return result
