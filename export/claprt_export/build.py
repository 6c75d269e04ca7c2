"""`claprt build`: checkpoint -> bundle. A bundle directory appears whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import claprt
from claprt.bundle import open_bundle, sha256_file
from claprt.errors import ClaprtError, ExportError, OptionError
from claprt.manifest import (
    MANIFEST_FILE,
    AudioInfo,
    FileEntry,
    Manifest,
    ModelInfo,
    TextInfo,
    TokenizerProbe,
    Variant,
    compute_space_id,
)
from claprt.progress import Progress
from claprt_export.checkpoint import Checkpoint, load_checkpoint
from claprt_export.graph import export_audio_tower, export_text_tower
from claprt_export.parity import Verification, verification_sounds, verify_fp32

# Letters, accents, punctuation, an emoji, capitals: what tokenizers disagree about.
PROBE_TEXT = "The sound of 2 dogs barking — naïve, café-style; ¿OK? 🎺"
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers", "numpy")


def build(
    source: str,
    output: Path,
    *,
    revision: str | None = None,
    recordings: Path | None = None,
    replace: bool = False,
    tokenizer: str | None = None,
    int16: bool | None = None,
) -> Manifest:
    """Export a checkpoint, verify the result against transformers, and put it in place.

    Args:
        source: "demo", "demo-fused", a directory as transformers saves one, a hub id, or one of LAION's .pt files.
        output: the bundle's directory.
        revision: branch, tag or commit of a hub repository.
        recordings: a directory of sounds to verify on, besides the ones claprt synthesises.
        replace: replace a bundle that is already there.
        tokenizer: for a .pt file, which has none: a directory or hub id; None is roberta-base.
        int16: whether samples are quantised to int16 before the log-Mel; None is as the checkpoint was trained.

    Returns:
        The manifest of the new bundle.

    Raises:
        CheckpointError: the checkpoint cannot be loaded or is of an architecture that claprt refuses.
        ExportError: the export failed or misses its bounds. Nothing is left behind.
        OptionError: the output cannot be written, or exists; or an option does not apply to this source.
        AudioError: `recordings` has no usable sounds.
    """
    _check_output(output, replace)
    with Progress(f"build {output.name}", total=5) as progress:
        progress.note("loading the checkpoint")
        checkpoint = load_checkpoint(source, revision, tokenizer, int16)
        description, waveforms = verification_sounds(checkpoint.log_mel, recordings)
        progress.advance()
        with _staging(output) as staging:
            progress.note("exporting the audio tower")
            export_audio_tower(checkpoint, staging / "audio.fp32.onnx")
            progress.advance()
            progress.note("exporting the text tower")
            export_text_tower(checkpoint, staging / "text.fp32.onnx")
            (staging / "tokenizer.json").write_text(checkpoint.tokenizer_json(), encoding="utf-8")
            progress.advance()
            manifest = _manifest(checkpoint, staging)
            _write(manifest, staging)
            progress.note("verifying against transformers")
            verification = _verify(checkpoint, staging, description, waveforms, progress)
            progress.advance()
            manifest = Manifest(
                manifest.model,
                manifest.audio,
                manifest.text,
                {"fp32": verification.to_json()},
                _provenance(),
            )
            _write(manifest, staging)
            open_bundle(staging)  # only the manifest is new since the verification loaded the rest
            _put_in_place(staging, output, replace)
            progress.advance()
    return manifest


def _check_output(output: Path, replace: bool) -> None:
    if output.exists() or output.is_symlink():
        if not replace:
            raise OptionError(f"the output exists: {output}; choose another path, or replace it with --force")
        if not (output / MANIFEST_FILE).is_file():
            raise OptionError(f"the output is not a bundle and is not replaced: {output}; choose another path")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise OptionError(f"the output's parent is not a directory: {parent}; create it first")
    if not os.access(parent, os.W_OK):
        raise OptionError(f"the output's parent cannot be written: {parent}; choose another path")


@contextlib.contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A directory beside the output, so that the last step is a rename; removed whatever happens."""
    # Named before it is made, so that a signal between the two finds it; short, as the output's name may be very long.
    staging = output.absolute().parent / f".claprt-{secrets.token_hex(8)}.partial"
    try:
        staging.mkdir()
        yield staging
    except ClaprtError:
        raise  # some are OSErrors too
    except OSError as error:
        raise ExportError(f"the bundle cannot be written: {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, output: Path, replace: bool) -> None:
    if not replace or not output.exists():
        staging.rename(output)
        return
    old = staging.with_suffix(".old")
    try:
        output.rename(old)
        staging.rename(output)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(old, ignore_errors=True)


def _manifest(checkpoint: Checkpoint, staging: Path) -> Manifest:
    spec = checkpoint.log_mel
    weights = checkpoint.weights_sha256
    tokenizer = _entry(staging / "tokenizer.json")
    text_config = checkpoint.model.config.text_config
    return Manifest(
        model=ModelInfo(
            source=checkpoint.source,
            revision=checkpoint.revision,
            weights_sha256=weights,
            embedding_dim=checkpoint.embedding_dim,
            logit_scale=checkpoint.logit_scale,
            space_id=compute_space_id(weights, spec, checkpoint.fusion, tokenizer.sha256),
        ),
        audio=AudioInfo(
            log_mel=spec,
            frames=spec.frames,
            clip_seconds=spec.clip_seconds,
            fusion=checkpoint.fusion,
            default_recipe="fusion" if checkpoint.fusion else "windows",
            variants={"fp32": _variant(staging, "audio.fp32.onnx")},
        ),
        text=TextInfo(
            tokenizer=tokenizer,
            pad_id=int(text_config.pad_token_id),
            vocab_size=int(text_config.vocab_size),
            max_tokens=checkpoint.max_tokens,
            probe=TokenizerProbe(PROBE_TEXT, tuple(checkpoint.tokenizer(PROBE_TEXT)["input_ids"])),
            variants={"fp32": _variant(staging, "text.fp32.onnx")},
        ),
    )


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.name, sha256_file(path), path.stat().st_size)


def _variant(staging: Path, name: str) -> Variant:
    entry = _entry(staging / name)
    data = staging / (name + ".data")
    return Variant(entry.file, entry.sha256, entry.bytes, (_entry(data),) if data.exists() else ())


def _write(manifest: Manifest, staging: Path) -> None:
    (staging / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def _verify(
    checkpoint: Checkpoint,
    staging: Path,
    description: str,
    waveforms: list[NDArray[np.float32]],
    progress: Progress,
) -> Verification:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress.note(f"verifying against transformers, sound {done} of {len(waveforms)}")

    return verify_fp32(checkpoint, claprt.load(staging), description, waveforms, tick)


def _provenance() -> dict[str, object]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "claprt": claprt.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
