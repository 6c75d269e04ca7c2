"""`claprt build`: checkpoint -> bundle. A bundle directory appears whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import claprt
from claprt.bundle import open_bundle
from claprt.errors import ClaprtError, ExportError, OptionError
from claprt.manifest import (
    MANIFEST_FILE,
    AudioInfo,
    Manifest,
    ModelInfo,
    TextInfo,
    TokenizerProbe,
    compute_space_id,
)
from claprt.progress import Progress
from claprt.spec import PRECISIONS, VARIANTS
from claprt_export import graph, sentences
from claprt_export.checkpoint import Checkpoint, load_checkpoint
from claprt_export.comparison import BOUNDS, verification_sounds, verification_texts
from claprt_export.graph import export_audio_tower, export_text_tower
from claprt_export.on_cpu import running
from claprt_export.parity import compare, make_reference, require
from claprt_export.precision.data import CalibrationSet, by_length, calibration_set, text_batches, waveform_batches
from claprt_export.report import VariantReport, demo_accuracy, demo_sounds, require_accuracy, sizes
from claprt_export.report import write as write_report
from claprt_export.source import DEMO_SOURCES
from claprt_export.variants import Choice, Tower, write_half, write_int8

# Letters, accents, punctuation, an emoji, capitals: what tokenizers disagree about.
PROBE_TEXT = "The sound of 2 dogs barking — naïve, café-style; ¿OK? 🎺"
# Steps of a build besides its variants' verifications.
_STEPS = 4
# Sounds that layers are judged on at most, spread over those that the result is verified on.
_JUDGED = 40
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
    precisions: Sequence[str] = ("fp32",),
    calibration: Path | None = None,
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
        precisions: "fp32", "fp16", "int8"; FP32 is always built, as the others are made from it and judged beside it.
        calibration: a directory of recordings and captions to calibrate INT8 on; None is claprt's own.

    Returns:
        The manifest of the new bundle.

    Raises:
        CheckpointError: the checkpoint cannot be loaded or is of an architecture that claprt refuses.
        ExportError: the export failed or misses its bounds. Nothing is left behind.
        OptionError: the output cannot be written, or exists; or an option does not apply to this source.
        AudioError: `recordings` or `calibration` has no usable sounds.
    """
    _check_precisions(precisions, calibration)
    _check_output(output, replace)
    with Progress(f"build {output.name}", total=_STEPS + len(_variants(precisions))) as progress:
        progress.note("loading the checkpoint")
        checkpoint = load_checkpoint(source, revision, tokenizer, int16)
        description, waveforms = verification_sounds(checkpoint.log_mel, recordings)
        data = None
        if "int8" in precisions:
            progress.note("making the calibration set")
            data = calibration_set(checkpoint, calibration)
        progress.advance()
        with _staging(output) as staging:
            towers = _export_towers(checkpoint, staging, progress)
            choices = _write_variants(checkpoint, towers, precisions, data, waveforms, progress)
            del towers
            manifest = _manifest(checkpoint, staging, _variants(precisions))
            _write(manifest, staging)
            reports = _verify(checkpoint, staging, description, waveforms, choices, progress)
            calibrated = None if data is None else {"description": data.description, "sha256": data.sha256}
            write_report(staging, checkpoint.source, calibrated, reports)
            manifest = Manifest(
                manifest.model,
                manifest.audio,
                manifest.text,
                {variant: report.verification.to_json() for variant, report in reports.items()},
                _provenance(),
            )
            _write(manifest, staging)
            open_bundle(staging)  # only the manifest is new since the verification loaded the rest
            _put_in_place(staging, output, replace)
            progress.advance()
    return manifest


def _check_precisions(precisions: Sequence[str], calibration: Path | None) -> None:
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not precisions:
        found = f"unknown precision: {unknown[0]!r}" if unknown else "no precision was named"
        raise OptionError(f"{found}; choose among {', '.join(PRECISIONS)}")
    if calibration is not None and "int8" not in precisions:
        raise OptionError(f"a calibration directory without INT8: {calibration}; add --precision fp32,int8")
    if calibration is not None and not calibration.is_dir():
        raise OptionError(f"the calibration directory does not exist: {calibration}; pass a directory of recordings")


def _variants(precisions: Sequence[str]) -> list[str]:
    """The variants of a bundle of these precisions."""
    wanted = {"fp32", *precisions} | ({"int8-cpu"} if "int8" in precisions else set())
    return [name for name in VARIANTS if name in wanted]


def _export_towers(checkpoint: Checkpoint, staging: Path, progress: Progress) -> list[Tower]:
    """Both FP32 graphs and the tokenizer."""
    progress.note("exporting the audio tower")
    audio = export_audio_tower(checkpoint, staging / "audio.fp32.onnx")
    progress.advance()
    progress.note("exporting the text tower")
    text = export_text_tower(checkpoint, staging / "text.fp32.onnx")
    (staging / "tokenizer.json").write_text(checkpoint.tokenizer_json(), encoding="utf-8")
    progress.advance()
    return [
        Tower("audio", audio, staging / "audio.fp32.onnx", (), ()),
        Tower("text", text, staging / "text.fp32.onnx", (), ()),
    ]


def _write_variants(
    checkpoint: Checkpoint,
    towers: Sequence[Tower],
    precisions: Sequence[str],
    data: CalibrationSet | None,
    waveforms: Sequence[NDArray[np.float32]],
    progress: Progress,
) -> dict[str, dict[str, Choice]]:
    """Write what is asked for besides FP32. Returns choices[variant][tower]."""
    choices: dict[str, dict[str, Choice]] = {}
    if set(precisions) <= {"fp32"}:
        return choices
    for tower in towers:
        if tower.name == "audio":
            some = [waveforms[round(i)] for i in np.linspace(0, len(waveforms) - 1, min(len(waveforms), _JUDGED))]
            tower.inputs = waveform_batches(checkpoint, some)
        else:
            tower.inputs = by_length(text_batches(checkpoint, _judged_texts(tower)))
        if data is not None:
            tower.calibration = data.audio if tower.name == "audio" else data.text

        def tick(text: str, name: str = tower.name) -> None:
            progress.note(f"{name} tower, {text}")

        if "fp16" in precisions:
            choice = write_half(tower, getattr(BOUNDS["fp16"], tower.name), tick)
            choices.setdefault("fp16", {})[tower.name] = choice
        if "int8" in precisions:
            for variant, choice in write_int8(tower, getattr(BOUNDS["int8"], tower.name), tick).items():
                choices.setdefault(variant, {})[tower.name] = choice
        tower.calibration, tower.inputs = (), ()
    return choices


def _judged_texts(tower: Tower) -> list[str]:
    """What layers are judged on. INT8 fails on few texts and there badly: the more of them the better."""
    weights = sum(p.numel() for p in tower.module.parameters())
    more = sentences.mixtures(min(1000, 1_000_000_000 // weights))
    return [*verification_texts(), *sentences.CALIBRATION, *more]


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


def _manifest(checkpoint: Checkpoint, staging: Path, variants: Sequence[str]) -> Manifest:
    spec = checkpoint.log_mel
    weights = checkpoint.weights_sha256
    tokenizer = graph.file_entry(staging / "tokenizer.json")
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
            variants={name: graph.entry(staging / f"audio.{name}.onnx") for name in variants},
        ),
        text=TextInfo(
            tokenizer=tokenizer,
            pad_id=int(text_config.pad_token_id),
            vocab_size=int(text_config.vocab_size),
            max_tokens=checkpoint.max_tokens,
            probe=TokenizerProbe(PROBE_TEXT, tuple(checkpoint.tokenizer(PROBE_TEXT)["input_ids"])),
            variants={name: graph.entry(staging / f"text.{name}.onnx") for name in variants},
        ),
    )


def _write(manifest: Manifest, staging: Path) -> None:
    (staging / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def _verify(
    checkpoint: Checkpoint,
    staging: Path,
    description: str,
    waveforms: Sequence[NDArray[np.float32]],
    choices: Mapping[str, Mapping[str, Choice]],
    progress: Progress,
) -> dict[str, VariantReport]:
    """Each variant against transformers, and on the labelled sounds of a demo checkpoint."""

    def say(what: str, total: int) -> Callable[[int], None]:
        return lambda done: progress.note(f"{what}, {done} of {total}")

    count = len(waveforms)
    reference = make_reference(checkpoint, description, waveforms, say("transformers, sound", count))
    labelled = demo_sounds() if checkpoint.source in DEMO_SOURCES else []
    reports: dict[str, VariantReport] = {}
    manifest = open_bundle(staging).manifest
    for variant in manifest.variants:
        with running(staging, variant) as clap:
            verification = compare(clap, reference, say(f"verifying {variant}, sound", count))
            require(verification, variant)
            sounds = say(f"{variant}: labelled sound", len(labelled))
            accuracy = demo_accuracy(clap, labelled, sounds) if labelled else None
        reports[variant] = VariantReport(verification, sizes(manifest, variant), choices.get(variant, {}), accuracy)
        require_accuracy(variant, accuracy, reports["fp32"].accuracy)
        progress.advance()
    return reports


def _provenance() -> dict[str, object]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "claprt": claprt.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
