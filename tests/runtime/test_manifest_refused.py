"""Every way in which a manifest can be wrong: one line that names the file and the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from claprt.errors import BundleError
from claprt.manifest import MANIFEST_MAX_BYTES, parse_manifest
from tests.runtime.manifest_cases import LITERAL, ORIGIN, Keys, at, changed_at, document, parse


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
