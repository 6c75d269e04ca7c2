"""`manifest.json`: what a bundle says of itself. Frozen dataclasses, read strictly, written deterministically.

The format is specified in the README (section "The bundle"). Reading checks every field's presence and type and the
relations between fields; it does not touch the other files (`claprt.bundle` does).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from claprt.errors import BundleError
from claprt.spec import MEL_NORMS, MEL_SCALES, PADDINGS, PRECISIONS, RECIPES, VARIANTS, LogMelSpec

FORMAT = "claprt-bundle"
SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
MANIFEST_MAX_BYTES = 4 << 20

_MAX_DEPTH = 32  # of nested objects and arrays; real manifests have 5
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: name relative to the bundle, SHA-256 of its bytes (hex), size in bytes."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Variant(FileEntry):
    """One ONNX graph of a tower. `external_data` lists weight files beside it (large graphs have one)."""

    external_data: tuple[FileEntry, ...] = ()

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The graph and its weight files."""
        return (self, *self.external_data)


@dataclass(frozen=True)
class ModelInfo:
    """Where the weights came from and what space their vectors live in."""

    source: str
    revision: str | None
    weights_sha256: str
    embedding_dim: int
    logit_scale: float
    space_id: str


@dataclass(frozen=True)
class AudioInfo:
    """The audio tower: its log-Mel input, its recipe, its graphs by variant."""

    log_mel: LogMelSpec
    frames: int
    clip_seconds: float
    fusion: bool
    default_recipe: str
    variants: Mapping[str, Variant]

    @property
    def channels(self) -> int:
        """Log-Mel channels of the graph's input: 4 with fusion (shrunk whole + three crops), else 1."""
        return 4 if self.fusion else 1


@dataclass(frozen=True)
class TokenizerProbe:
    """A text and the ids it must give: catches a tokenizer (or a library version) that disagrees with the export."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TextInfo:
    """The text tower: its tokenizer and its graphs by variant."""

    tokenizer: FileEntry
    pad_id: int
    vocab_size: int
    max_tokens: int
    probe: TokenizerProbe
    variants: Mapping[str, Variant]


@dataclass(frozen=True)
class Manifest:
    """The whole manifest. `verification` and `provenance` are kept as plain JSON objects."""

    model: ModelInfo
    audio: AudioInfo
    text: TextInfo
    verification: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that both towers have, for whatever backend, best first."""
        return tuple(p for p in PRECISIONS if p in self.variants or f"{p}-cpu" in self.variants)

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants that both towers have, best first."""
        return tuple(name for name in VARIANTS if name in self.audio.variants and name in self.text.variants)

    def variant_for(self, precision: str, cpu: bool) -> str | None:
        """The variant that stands for a precision on a CPU, or on a GPU; None where there is none."""
        wanted = (f"{precision}-cpu", precision) if cpu else (precision,)
        return next((name for name in wanted if name in self.variants), None)

    def to_json(self) -> str:
        """The manifest's text: two-space indent, fixed key order, trailing newline."""
        document = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(self)}
        for tower in ("audio", "text"):
            for variant in document[tower]["variants"].values():
                if not variant["external_data"]:
                    del variant["external_data"]
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def compute_space_id(weights_sha256: str, log_mel: LogMelSpec, fusion: bool, tokenizer_sha256: str) -> str:
    """The id of an embedding space: 16 hex digits of a SHA-256 over all that decides where a vector lies.

    That is the weights, the complete log-Mel specification, whether clips are fused, and the tokenizer. Precision is
    left out on purpose: FP16 and INT8 vectors of a model are comparable with its FP32 vectors. So is the recipe for
    long sounds: it decides which parts of a file are heard, not what a vector means.
    """
    key = json.dumps(
        {
            "weights": weights_sha256,
            "log_mel": asdict(log_mel),
            "fusion": fusion,
            "tokenizer": tokenizer_sha256,
        },
        sort_keys=True,
    )
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def parse_manifest(data: bytes, origin: str) -> Manifest:
    """Read a manifest from its bytes; `origin` names the file in errors.

    Raises:
        BundleError: not JSON, not a claprt bundle, another schema version, a missing or ill-typed field, or fields
            that contradict each other.
    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise BundleError(f"the manifest is too large to be one: {origin}: {len(data)} bytes; build the bundle again")
    try:
        document = strict_json(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"the manifest is not valid JSON: {origin}: {reason}; build the bundle again") from error
    root = _Node(document, "", origin)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise BundleError(f"not a claprt bundle: {origin}: format is {_shown(found)}, expected {FORMAT!r}")
    version = document.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(
            f"unknown bundle schema version: {origin}: schema_version is {_shown(version)}, this claprt reads "
            f"{SCHEMA_VERSION}; build the bundle again or install the claprt that wrote it"
        )
    manifest = Manifest(
        model=_model(root.child("model")),
        audio=_audio(root.child("audio")),
        text=_text(root.child("text")),
        verification=root.child("verification").mapping(),
        provenance=root.child("provenance").mapping(),
    )
    _check_relations(manifest, root)
    return manifest


def strict_json(text: str) -> Any:
    """JSON that means the same to every reader, in any language.

    Raises:
        ValueError: not JSON; or a key given twice, NaN, infinity, a number beyond 64 bits, or very deep nesting.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {_shown(key)} is given twice")
            result[key] = value
        return result

    def integer(digits: str) -> int:
        if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 63:
            raise ValueError(f"the integer {_shown(digits)} does not fit into 64 bits")
        return int(digits)

    def finite(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{_shown(digits)} is not a finite number")
        return value

    document = json.loads(text, object_pairs_hook=unique, parse_int=integer, parse_float=finite, parse_constant=finite)
    if _deeper_than(document, _MAX_DEPTH):
        raise ValueError(f"objects and arrays are nested more than {_MAX_DEPTH} deep")
    return document


def _deeper_than(value: Any, limit: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    children = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_deeper_than(child, limit - 1) for child in children)


def _shown(value: object, limit: int = 80) -> str:
    """`repr` for messages, shortened."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _check_relations(manifest: Manifest, root: _Node) -> None:
    audio, model = manifest.audio, manifest.model
    if audio.frames != audio.log_mel.frames:
        raise root.child("audio").child("frames").bad(f"a clip of this log_mel has {audio.log_mel.frames} frames")
    if not math.isclose(audio.clip_seconds, audio.log_mel.clip_seconds, rel_tol=1e-9):
        raise root.child("audio").child("clip_seconds").bad(f"log_mel says {audio.log_mel.clip_seconds}")
    if audio.default_recipe == "fusion" and not audio.fusion:
        raise root.child("audio").child("default_recipe").bad("the recipe 'fusion' needs a checkpoint with fusion")
    expected = compute_space_id(model.weights_sha256, audio.log_mel, audio.fusion, manifest.text.tokenizer.sha256)
    if model.space_id != expected:
        raise root.child("model").child("space_id").bad(f"weights, log_mel and tokenizer give {expected!r}")
    if not manifest.variants:
        raise root.child("audio").child("variants").bad("no variant that both towers have")


def _model(node: _Node) -> ModelInfo:
    revision = node.child("revision")
    return ModelInfo(
        source=node.child("source").text(),
        revision=None if revision.value is None else revision.text(),
        weights_sha256=node.child("weights_sha256").sha256(),
        embedding_dim=node.child("embedding_dim").integer(1, 1 << 20),
        logit_scale=node.child("logit_scale").number(1e-6, 1e6),
        space_id=node.child("space_id").text(),
    )


def _audio(node: _Node) -> AudioInfo:
    return AudioInfo(
        log_mel=_log_mel(node.child("log_mel")),
        frames=node.child("frames").integer(1, 1 << 24),
        clip_seconds=node.child("clip_seconds").number(0.0, 1e6),
        fusion=node.child("fusion").boolean(),
        default_recipe=node.child("default_recipe").choice(RECIPES),
        variants=_variants(node.child("variants")),
    )


def _log_mel(node: _Node) -> LogMelSpec:
    spec = LogMelSpec(
        sampling_rate=node.child("sampling_rate").integer(1000, 768_000),
        n_fft=node.child("n_fft").integer(16, 1 << 16),
        hop_length=node.child("hop_length").integer(1, 1 << 16),
        n_mels=node.child("n_mels").integer(1, 4096),
        f_min=node.child("f_min").number(0.0, 1e6),
        f_max=node.child("f_max").number(0.0, 1e6),
        mel_scale=cast(Any, node.child("mel_scale").choice(MEL_SCALES)),
        mel_norm=cast(Any, node.child("mel_norm").choice(MEL_NORMS)),
        log_floor=node.child("log_floor").number(1e-30, 1.0),
        clip_samples=node.child("clip_samples").integer(1, 1 << 30),
        padding=cast(Any, node.child("padding").choice(PADDINGS)),
        int16=node.child("int16").boolean(),
    )
    if not spec.f_min < spec.f_max <= spec.sampling_rate / 2:
        raise node.child("f_max").bad(f"must lie between f_min = {spec.f_min} and half the sampling rate")
    if spec.clip_samples <= spec.n_fft:
        raise node.child("clip_samples").bad(f"must be more than n_fft = {spec.n_fft}")
    return spec


def _text(node: _Node) -> TextInfo:
    probe = node.child("probe")
    vocab_size = node.child("vocab_size").integer(1, 1 << 30)
    return TextInfo(
        tokenizer=_file_entry(node.child("tokenizer")),
        pad_id=node.child("pad_id").integer(0, vocab_size - 1),
        vocab_size=vocab_size,
        max_tokens=node.child("max_tokens").integer(3, 1 << 20),
        probe=TokenizerProbe(
            text=probe.child("text").text(),
            ids=tuple(item.integer(0, vocab_size - 1) for item in probe.child("ids").items()),
        ),
        variants=_variants(node.child("variants")),
    )


def _variants(node: _Node) -> dict[str, Variant]:
    result = {}
    for name in node.mapping():
        if name not in VARIANTS:
            raise node.bad(f"{_shown(name)} is not a variant this claprt knows ({', '.join(VARIANTS)})")
        child = node.child(name)
        entry = _file_entry(child)
        external = (
            tuple(_file_entry(item) for item in child.child("external_data").items())
            if ("external_data" in child.mapping())
            else ()
        )
        result[name] = Variant(entry.file, entry.sha256, entry.bytes, external)
    return result


def _file_entry(node: _Node) -> FileEntry:
    name = node.child("file").text()
    # One plain alphabet for file names: no absolute path, no "..", no drive, no backslash can be written in it.
    if not _FILE_NAME.fullmatch(name) or len(name) > 200 or ".." in name.split("/"):
        raise node.child("file").bad("a file must be a plain relative path inside the bundle")
    return FileEntry(name, node.child("sha256").sha256(), node.child("bytes").integer(0, 1 << 50))


class _Node:
    """A value inside the document together with its path, so that every error can name the field."""

    def __init__(self, value: Any, path: str, origin: str) -> None:
        self.value, self.path, self.origin = value, path, origin

    def bad(self, why: str) -> BundleError:
        return BundleError(f"bad field in the manifest: {self.origin}: {self.path} is {_shown(self.value)}: {why}")

    def child(self, key: str) -> _Node:
        path = f"{self.path}.{key}" if self.path else key
        if not isinstance(self.value, dict):
            raise self.bad("expected an object")
        if key not in self.value:
            raise BundleError(f"missing field in the manifest: {self.origin}: {path}; build the bundle again")
        return _Node(self.value[key], path, self.origin)

    def items(self) -> list[_Node]:
        if not isinstance(self.value, list):
            raise self.bad("expected an array")
        return [_Node(item, f"{self.path}[{i}]", self.origin) for i, item in enumerate(self.value)]

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.bad("expected an object")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.bad("expected a string")
        try:
            self.value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.bad("a lone surrogate is not valid Unicode") from None
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.bad("expected true or false")
        return self.value

    def integer(self, low: int, high: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not low <= self.value <= high:
            raise self.bad(f"expected an integer from {low} to {high}")
        return self.value

    def number(self, low: float, high: float) -> float:
        ok = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
        if not ok or not low <= self.value <= high:
            raise self.bad(f"expected a number from {low:g} to {high:g}")
        return float(self.value)

    def choice(self, choices: tuple[str, ...]) -> str:
        if self.value not in choices:
            raise self.bad(f"expected one of {', '.join(choices)}")
        return str(self.value)

    def sha256(self) -> str:
        if not isinstance(self.value, str) or not _SHA256.fullmatch(self.value):
            raise self.bad("expected 64 lower-case hex digits")
        return self.value
