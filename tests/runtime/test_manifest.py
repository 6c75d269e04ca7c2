"""The bundle format, pinned by exact values, and every way in which a manifest can be wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from claprt.errors import BundleError
from claprt.manifest import (
    MANIFEST_MAX_BYTES,
    AudioInfo,
    FileEntry,
    Manifest,
    ModelInfo,
    TextInfo,
    TokenizerProbe,
    Variant,
    compute_space_id,
    parse_manifest,
)
from claprt.spec import LogMelSpec

ORIGIN = "some/manifest.json"

# Written by hand from the specification. A change here is a change of the format: raise the schema version.
LITERAL = """{
  "format": "claprt-bundle",
  "schema_version": 1,
  "model": {
    "source": "laion/clap-htsat-unfused",
    "revision": "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
    "weights_sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "embedding_dim": 512,
    "logit_scale": 18.25,
    "space_id": "600c6e3668e56987"
  },
  "audio": {
    "log_mel": {
      "sampling_rate": 48000,
      "n_fft": 1024,
      "hop_length": 480,
      "n_mels": 64,
      "f_min": 50.0,
      "f_max": 14000.0,
      "mel_scale": "slaney",
      "mel_norm": "slaney",
      "log_floor": 1e-10,
      "clip_samples": 480000,
      "padding": "repeatpad",
      "int16": false
    },
    "frames": 1001,
    "clip_seconds": 10.0,
    "fusion": false,
    "default_recipe": "windows",
    "variants": {
      "fp32": {
        "file": "audio.fp32.onnx",
        "sha256": "1111111111111111111111111111111111111111111111111111111111111111",
        "bytes": 111
      },
      "fp16": {
        "file": "audio.fp16.onnx",
        "sha256": "2222222222222222222222222222222222222222222222222222222222222222",
        "bytes": 55
      }
    }
  },
  "text": {
    "tokenizer": {
      "file": "tokenizer.json",
      "sha256": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
      "bytes": 6212
    },
    "pad_id": 1,
    "vocab_size": 50265,
    "max_tokens": 512,
    "probe": {
      "text": "naïve 🎺",
      "ids": [
        0,
        282,
        2
      ]
    },
    "variants": {
      "fp32": {
        "file": "text.fp32.onnx",
        "sha256": "3333333333333333333333333333333333333333333333333333333333333333",
        "bytes": 333,
        "external_data": [
          {
            "file": "weights/text.fp32.onnx.data",
            "sha256": "4444444444444444444444444444444444444444444444444444444444444444",
            "bytes": 2147483648
          }
        ]
      }
    }
  },
  "verification": {
    "fp32": {
      "inputs": "3 sounds"
    }
  },
  "provenance": {
    "created": "2026-01-31T12:00:00Z"
  }
}
"""

LOG_MEL = LogMelSpec(
    sampling_rate=48_000,
    n_fft=1024,
    hop_length=480,
    n_mels=64,
    f_min=50.0,
    f_max=14_000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    log_floor=1e-10,
    clip_samples=480_000,
    padding="repeatpad",
    int16=False,
)
MANIFEST = Manifest(
    model=ModelInfo(
        source="laion/clap-htsat-unfused",
        revision="8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
        weights_sha256="a" * 64,
        embedding_dim=512,
        logit_scale=18.25,
        space_id="600c6e3668e56987",
    ),
    audio=AudioInfo(
        log_mel=LOG_MEL,
        frames=1001,
        clip_seconds=10.0,
        fusion=False,
        default_recipe="windows",
        variants={
            "fp32": Variant("audio.fp32.onnx", "1" * 64, 111),
            "fp16": Variant("audio.fp16.onnx", "2" * 64, 55),
        },
    ),
    text=TextInfo(
        tokenizer=FileEntry("tokenizer.json", "c" * 64, 6212),
        pad_id=1,
        vocab_size=50_265,
        max_tokens=512,
        probe=TokenizerProbe("naïve 🎺", (0, 282, 2)),
        variants={
            "fp32": Variant(
                "text.fp32.onnx", "3" * 64, 333, (FileEntry("weights/text.fp32.onnx.data", "4" * 64, 2_147_483_648),)
            )
        },
    ),
    verification={"fp32": {"inputs": "3 sounds"}},
    provenance={"created": "2026-01-31T12:00:00Z"},
)

Keys = tuple[str | int, ...]


def document() -> Any:
    return json.loads(LITERAL)


def parse(changed: Any) -> Manifest:
    return parse_manifest(json.dumps(changed).encode(), ORIGIN)


def rejected(data: bytes) -> str:
    """The message with which a manifest is refused: one line that names the file."""
    with pytest.raises(BundleError) as caught:
        parse_manifest(data, ORIGIN)
    message = str(caught.value)
    assert ORIGIN in message
    assert "\n" not in message
    assert len(message) < 600
    return message


def refused(changed: Any) -> str:
    return rejected(json.dumps(changed).encode())


def at(root: Any, path: Keys) -> Any:
    for key in path:
        root = root[key]
    return root


def changed_at(path: Keys, value: Any) -> Any:
    root = document()
    at(root, path[:-1])[path[-1]] = value
    return root


def dotted(path: Keys) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def nodes(root: Any, path: Keys = ()) -> Iterator[Keys]:
    """The path of every value in the document, but not of what lies inside the two free-form objects."""
    if path:
        yield path
    if path in (("verification",), ("provenance",)):
        return
    items: Any = root.items() if isinstance(root, dict) else enumerate(root) if isinstance(root, list) else ()
    for key, value in items:
        yield from nodes(value, (*path, key))


NODES = list(nodes(document()))
OPTIONAL = {
    ("audio", "variants", "fp32"),
    ("audio", "variants", "fp16"),
    ("text", "variants", "fp32"),
    ("text", "variants", "fp32", "external_data"),
}
REQUIRED = [path for path in NODES if isinstance(path[-1], str) and path not in OPTIONAL]


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


# Not a manifest at all.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe{}",
        LITERAL.encode("utf-16"),
        LITERAL.encode() + b"{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 33 + b"]" * 33,
        b'{"format": NaN}',
        b'{"format": Infinity}',
        b'{"format": 1e999}',
        b'{"format": 9223372036854775808}',
        b'{"format": ' + b"9" * 10_000 + b"}",
        b'{"format": "claprt-bundle", "format": "claprt-bundle"}',
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    """JSON with one meaning in every language: no doubled keys, no NaN, no huge numbers, no deep nesting."""
    assert "not valid JSON" in rejected(data)


def test_huge_manifest_is_refused_unread() -> None:
    assert "too large" in rejected(b" " * (MANIFEST_MAX_BYTES + 1))


@pytest.mark.parametrize(
    "root",
    [[], "claprt-bundle", 1, None, True, {}, {"format": None}, {"format": ["claprt-bundle"]}, {"format": "x" * 999}],
)
def test_other_documents_are_no_bundle(root: Any) -> None:
    assert "not a claprt bundle" in refused(root)


@pytest.mark.parametrize("version", [0, 2, -1, "1", True, 1.0, None, [1], "1" * 9999])
def test_unknown_schema_version_is_refused(version: Any) -> None:
    assert "schema_version is" in refused(document() | {"schema_version": version})


def test_missing_schema_version_is_refused() -> None:
    root = document()
    del root["schema_version"]
    assert "schema_version is None" in refused(root)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 30])
def test_numbers_that_other_readers_cannot_take_are_refused_everywhere(text: str) -> None:
    """Even in the free-form objects: `claprt info --json` prints them."""
    assert "not valid JSON" in rejected(LITERAL.replace('"3 sounds"', text).encode())


def test_deep_free_form_objects_are_refused() -> None:
    assert "deep" in rejected(LITERAL.replace('"3 sounds"', "[" * 700 + "]" * 700).encode())


# Fields.


@pytest.mark.parametrize("path", REQUIRED, ids=dotted)
def test_each_field_is_required(path: Keys) -> None:
    root = document()
    del at(root, path[:-1])[path[-1]]
    message = refused(root)
    if path == ("format",):
        assert "format is None" in message
    elif path == ("schema_version",):
        assert "schema_version is None" in message
    else:
        assert message.startswith("missing field")
        assert f": {dotted(path)};" in message


def wrong_values(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [None, 0, 1, "true", []]
    if isinstance(value, int):
        return [None, "1", 1.0, True, [], {}, -1, 1 << 62]
    if isinstance(value, float):
        return [None, "1.0", True, [], {}, -1.0, 1e300]
    if isinstance(value, str):
        return [None, 1, 1.5, True, [], {}, "\ud800"]
    return [None, 1, "x", True, {} if isinstance(value, list) else []]


ILL_TYPED = [
    pytest.param(path, wrong, id=f"{dotted(path)}={wrong!r}")
    for path in NODES
    if path not in (("format",), ("schema_version",))
    for wrong in wrong_values(at(document(), path))
    if not (path == ("model", "revision") and wrong is None)
]


@pytest.mark.parametrize(("path", "wrong"), ILL_TYPED)
def test_each_field_has_a_type_and_a_range(path: Keys, wrong: Any) -> None:
    message = refused(changed_at(path, wrong))
    assert message.startswith("bad field")
    assert f": {dotted(path)} is " in message


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("model", "embedding_dim"), 0),
        (("model", "logit_scale"), 0),
        (("model", "weights_sha256"), "A" * 64),
        (("model", "weights_sha256"), "a" * 63),
        (("model", "weights_sha256"), "a" * 64 + "\n"),
        (("audio", "default_recipe"), "middle"),
        (("audio", "log_mel", "sampling_rate"), 999),
        (("audio", "log_mel", "hop_length"), 0),
        (("audio", "log_mel", "log_floor"), 0.0),
        (("audio", "log_mel", "mel_scale"), "Slaney"),
        (("audio", "log_mel", "mel_norm"), None),
        (("audio", "log_mel", "padding"), "zeros"),
        (("text", "max_tokens"), 2),
        (("text", "pad_id"), 50_265),
        (("text", "vocab_size"), 0),
        (("text", "tokenizer", "bytes"), -1),
    ],
)
def test_values_out_of_range(path: Keys, wrong: Any) -> None:
    assert f": {dotted(path)} is " in refused(changed_at(path, wrong))


@pytest.mark.parametrize(
    ("path", "wrong", "named"),
    [
        # Fields that contradict each other.
        (("audio", "frames"), 1000, "audio.frames"),
        (("audio", "clip_seconds"), 9.99, "audio.clip_seconds"),
        (("audio", "log_mel", "hop_length"), 240, "audio.frames"),
        (("audio", "log_mel", "f_max"), 24_000.5, "audio.log_mel.f_max"),
        (("audio", "log_mel", "f_max"), 50.0, "audio.log_mel.f_max"),
        (("audio", "log_mel", "f_min"), 14_000.0, "audio.log_mel.f_max"),
        (("audio", "log_mel", "clip_samples"), 1024, "audio.log_mel.clip_samples"),
        (("audio", "default_recipe"), "fusion", "audio.default_recipe"),
        (("text", "probe", "ids"), [0, 50_265], "text.probe.ids[1]"),
        # The space id covers each of these.
        (("model", "space_id"), "0" * 16, "model.space_id"),
        (("model", "space_id"), "ED45F171AF6E62A5", "model.space_id"),
        (("model", "weights_sha256"), "b" * 64, "model.space_id"),
        (("audio", "log_mel", "mel_scale"), "htk", "model.space_id"),
        (("audio", "log_mel", "f_min"), 0.0, "model.space_id"),
        (("audio", "fusion"), True, "model.space_id"),
        (("text", "tokenizer", "sha256"), "d" * 64, "model.space_id"),
        # Precisions.
        (("audio", "variants", "fp64"), {}, "audio.variants"),
        (("audio", "variants", "fp32-cpu"), {}, "audio.variants"),
        (("text", "variants", "FP32"), {}, "text.variants"),
        (("text", "variants", "x" * 100_000), {}, "text.variants"),
        (("text", "variants"), {}, "audio.variants"),
        (("audio", "variants"), {}, "audio.variants"),
    ],
)
def test_fields_that_contradict_each_other(path: Keys, wrong: Any, named: str) -> None:
    assert f": {named} is " in refused(changed_at(path, wrong))


def test_towers_need_a_common_variant() -> None:
    root = document()
    del root["audio"]["variants"]["fp32"]
    assert "no variant that both towers have" in refused(root)


FILES: list[Keys] = [
    ("audio", "variants", "fp32", "file"),
    ("text", "variants", "fp32", "external_data", 0, "file"),
    ("text", "tokenizer", "file"),
]


@pytest.mark.parametrize("path", FILES, ids=dotted)
@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "//host/share",
        "a/../../x",
        "a/..",
        "..",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "",
        "C:\\x",
        "C:x",
        "a\\b",
        "..\\x",
        "a\0b",
        "a\n",
        "a b",
        "~/x",
        "~root",
        "$HOME",
        "-rf",
        "_x",
        "a/-b",
        "a/.b",
        ".hidden",
        "naïve",
        "x" * 201,
    ],
)
def test_file_names_that_could_leave_the_bundle(path: Keys, name: str) -> None:
    assert f": {dotted(path)} is " in refused(changed_at(path, name))


@pytest.mark.parametrize("name", ["a", "audio.fp32.onnx", "sub/dir/A_b-c.1", "x" * 200, "a..b"])
def test_plain_file_names_are_accepted(name: str) -> None:
    assert parse(changed_at(("audio", "variants", "fp32", "file"), name)).audio.variants["fp32"].file == name


def test_a_long_value_is_shortened_in_the_message() -> None:
    assert len(refused(changed_at(("audio", "default_recipe"), "x" * 1_000_000))) < 300


def test_the_document_is_not_changed_by_writing() -> None:
    before = copy.deepcopy(MANIFEST)
    MANIFEST.to_json()
    assert before == MANIFEST
