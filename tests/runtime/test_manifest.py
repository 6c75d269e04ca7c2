"""The bundle format, pinned by exact values: what is read, written and derived, and the space id."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from claprt.manifest import Manifest, compute_space_id, parse_manifest
from claprt.spec import LogMelSpec
from tests.runtime.manifest_cases import LITERAL, LOG_MEL, MANIFEST, ORIGIN, changed_at, document, parse


def test_format_is_read_as_specified() -> None:
    assert parse_manifest(LITERAL.encode(), ORIGIN) == MANIFEST


def test_format_is_written_byte_for_byte_as_specified() -> None:
    assert MANIFEST.to_json() == LITERAL


def test_absent_revision_is_null() -> None:
    """A checkpoint from a directory has no revision."""
    manifest = parse(changed_at(("model", "revision"), None))
    assert manifest.model.revision is None
    assert json.loads(manifest.to_json())["model"]["revision"] is None


def test_derived_properties() -> None:
    assert MANIFEST.precisions == ("fp32",)  # FP16 has no text tower
    assert MANIFEST.audio.channels == 1
    assert dataclasses.replace(MANIFEST.audio, fusion=True).channels == 4
    assert [entry.file for entry in MANIFEST.text.variants["fp32"].files] == [
        "text.fp32.onnx",
        "weights/text.fp32.onnx.data",
    ]


def with_variants(audio: str, text: str) -> Manifest:
    """A manifest whose towers have these variants, given as names with spaces between."""
    entry = MANIFEST.audio.variants["fp32"]
    return dataclasses.replace(
        MANIFEST,
        audio=dataclasses.replace(MANIFEST.audio, variants=dict.fromkeys(audio.split(), entry)),
        text=dataclasses.replace(MANIFEST.text, variants=dict.fromkeys(text.split(), entry)),
    )


@pytest.mark.parametrize(
    ("audio", "text", "variants", "precisions"),
    [
        ("int8-cpu int8 fp16 fp32", "fp32 fp16 int8 int8-cpu", "fp32 fp16 int8 int8-cpu", "fp32 fp16 int8"),
        ("fp32 int8", "fp32 int8-cpu", "fp32", "fp32"),
        ("int8-cpu", "int8-cpu", "int8-cpu", "int8"),
        ("fp16 int8", "int8 fp16", "fp16 int8", "fp16 int8"),
    ],
)
def test_variants_and_precisions(audio: str, text: str, variants: str, precisions: str) -> None:
    """Only what both towers have, in the order of their exactness."""
    manifest = with_variants(audio, text)
    assert manifest.variants == tuple(variants.split())
    assert manifest.precisions == tuple(precisions.split())


@pytest.mark.parametrize(
    ("there", "precision", "on_cpu", "on_gpu"),
    [
        ("fp32 fp16 int8 int8-cpu", "int8", "int8-cpu", "int8"),
        ("fp32 fp16 int8 int8-cpu", "fp16", "fp16", "fp16"),
        ("fp32 int8", "int8", "int8", "int8"),
        ("fp32 int8-cpu", "int8", "int8-cpu", None),
        ("fp32", "int8", None, None),
        ("fp32 int8-cpu", "fp32", "fp32", "fp32"),
    ],
)
def test_variant_for(there: str, precision: str, on_cpu: str | None, on_gpu: str | None) -> None:
    """A CPU takes what was made for it, then what was made for all; a GPU never takes a CPU's."""
    manifest = with_variants(there, there)
    assert manifest.variant_for(precision, cpu=True) == on_cpu
    assert manifest.variant_for(precision, cpu=False) == on_gpu


def test_unknown_fields_are_ignored() -> None:
    """A later claprt may add fields without a new schema version."""
    root = document()
    for holder in (root, root["model"], root["audio"], root["audio"]["log_mel"], root["text"]["tokenizer"]):
        holder["new_field"] = {"x": [1]}
    assert parse(root) == MANIFEST


def test_the_document_is_not_changed_by_writing() -> None:
    before = copy.deepcopy(MANIFEST)
    MANIFEST.to_json()
    assert before == MANIFEST


# The space id.


def test_space_id_is_pinned() -> None:
    """Vectors that users have stored carry this id: the same model must have it in every version of claprt."""
    assert compute_space_id("a" * 64, LOG_MEL, False, "c" * 64) == "600c6e3668e56987"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(LogMelSpec)])
def test_space_id_depends_on_each_number_of_the_log_mel(field: str) -> None:
    value = getattr(LOG_MEL, field)
    other: Any = {"mel_scale": "htk", "mel_norm": "none", "padding": "pad", "int16": True}.get(field)
    spec = dataclasses.replace(LOG_MEL, **{field: other if other is not None else value * 2})
    assert compute_space_id("a" * 64, spec, False, "c" * 64) != MANIFEST.model.space_id


def test_space_id_depends_on_weights_fusion_and_tokenizer() -> None:
    ids = {
        compute_space_id("a" * 64, LOG_MEL, False, "c" * 64),
        compute_space_id("b" * 64, LOG_MEL, False, "c" * 64),
        compute_space_id("a" * 64, LOG_MEL, True, "c" * 64),
        compute_space_id("a" * 64, LOG_MEL, False, "d" * 64),
    }
    assert len(ids) == 4


def test_space_id_does_not_depend_on_precision_or_recipe() -> None:
    """FP16 vectors are comparable with FP32 vectors, windows with heads: same id, so the manifest stays valid."""
    assert parse(changed_at(("audio", "default_recipe"), "head")).model.space_id == MANIFEST.model.space_id
    root = document()
    del root["audio"]["variants"]["fp16"]
    assert parse(root).model.space_id == MANIFEST.model.space_id
