"""A manifest of the bundle format, as text and as objects; and changes of it."""

from __future__ import annotations

import json
from typing import Any

from claprt.manifest import (
    AudioInfo,
    FileEntry,
    Manifest,
    ModelInfo,
    TextInfo,
    TokenizerProbe,
    Variant,
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


def at(root: Any, path: Keys) -> Any:
    for key in path:
        root = root[key]
    return root


def changed_at(path: Keys, value: Any) -> Any:
    root = document()
    at(root, path[:-1])[path[-1]] = value
    return root
