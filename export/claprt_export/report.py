"""`report.json` and `report.md` of a bundle: what each variant is, and how close it is to the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from claprt.errors import ExportError
from claprt.manifest import Manifest
from claprt.model import Clap
from claprt_export.comparison import BOUNDS, Verification
from claprt_export.demo import captions, sounds
from claprt_export.demo.testset import synthetic_test_set
from claprt_export.variants import Choice

JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"
# Clips of each kind in the demo's test: 8 x 32 kinds, so that one clip is 0.4 point.
_PER_KIND = 8
_AT_ONCE = 16  # clips
# Points of accuracy on the demo's test that a variant may lose against FP32.
MAX_DROP = 0.5


@dataclass(frozen=True)
class VariantReport:
    """One variant.

    Attributes:
        verification: against transformers.
        bytes: of its graphs, by tower.
        choices: what was decided, by tower; FP32 has none.
        accuracy: share of the demo's labelled test sounds that are classified right; None for other checkpoints.
    """

    verification: Verification
    bytes: Mapping[str, int]
    choices: Mapping[str, Choice]
    accuracy: float | None

    def to_json(self, variant: str) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **self.verification.to_json(),
            "bounds": asdict(BOUNDS[variant]),
            "bytes": dict(self.bytes),
            "choices": {tower: asdict(choice) for tower, choice in self.choices.items()},
            "demo_accuracy": self.accuracy,
        }


def sizes(manifest: Manifest, variant: str) -> dict[str, int]:
    """Bytes of a variant's files, by tower."""
    towers = {"audio": manifest.audio.variants, "text": manifest.text.variants}
    return {tower: sum(f.bytes for f in variants[variant].files) for tower, variants in towers.items()}


def demo_sounds() -> list[tuple[np.ndarray[Any, np.dtype[np.float32]], int]]:
    """The demo's labelled test sounds: waveform at 48 kHz, and its index in `sounds.KINDS`."""
    return list(synthetic_test_set(_PER_KIND))


def demo_accuracy(
    clap: Clap,
    labelled: Sequence[tuple[np.ndarray[Any, np.dtype[np.float32]], int]],
    tick: Callable[[int], None] = lambda done: None,
) -> float:
    """Zero-shot top-1 on labelled sounds, 0..1."""
    labels = clap.embed_text([captions.CLASS_TEMPLATE.format(kind) for kind in sounds.KINDS])
    right: list[bool] = []
    for start in range(0, len(labelled), _AT_ONCE):
        batch = labelled[start : start + _AT_ONCE]
        found = (clap.embed_audio([waveform for waveform, _ in batch]) @ labels.T).argmax(axis=1)
        right += [bool(ok) for ok in found == [label for _, label in batch]]
        tick(len(right))
    return float(np.mean(right))


def require_accuracy(variant: str, accuracy: float | None, fp32: float | None) -> None:
    """Refuse a variant that lost more than `MAX_DROP` points.

    Raises:
        ExportError: with both figures.
    """
    if accuracy is not None and fp32 is not None and 100 * (fp32 - accuracy) > MAX_DROP:
        raise ExportError(
            f"the exported {variant} loses more than {MAX_DROP} points of accuracy: {100 * accuracy:.2f} % against "
            f"{100 * fp32:.2f} % in FP32; build without it (--precision)"
        )


def write(
    directory: Path, source: str, calibration: Mapping[str, str] | None, reports: Mapping[str, VariantReport]
) -> None:
    """Write both files into a bundle."""
    document = {
        "source": source,
        "calibration": None if calibration is None else dict(calibration),
        "variants": {name: report.to_json(name) for name, report in reports.items()},
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (directory / JSON_FILE).write_text(text, encoding="utf-8")
    (directory / MARKDOWN_FILE).write_text(markdown(document), encoding="utf-8")


def markdown(document: Mapping[str, Any]) -> str:
    """The readable form of a report's JSON."""
    variants: Mapping[str, Any] = document["variants"]
    inputs = next(iter(variants.values()))["inputs"]
    lines = [
        f"# {document['source']}: how close each variant is",
        "",
        f"Against transformers in FP32, on {inputs}.",
        "",
    ]
    if document["calibration"] is not None:
        calibration = document["calibration"]
        lines += [f"INT8 was calibrated on {calibration['description']} (SHA-256 `{calibration['sha256']}`).", ""]
    lines += _table(
        ["variant", "tower", "MB", "worst cosine", "needed", "mean cosine", "max abs", "kept high"],
        [
            [
                name,
                tower,
                f"{v['bytes'][tower] / 1e6:.1f}",
                f"{v[tower]['worst_cosine']:.7f}",
                f"{v['bounds'][tower]:g}",
                f"{v[tower]['mean_cosine']:.7f}",
                f"{v[tower]['max_abs']:.1e}",
                _kept(v["choices"].get(tower)),
            ]
            for name, v in variants.items()
            for tower in ("audio", "text")
        ],
    )
    lines += ["", "How alike sounds and texts are ranked (share, 1 is the same ranking):", ""]
    with_accuracy = any(v["demo_accuracy"] is not None for v in variants.values())
    lines += _table(
        ["variant", "zero-shot top-1", "recall@1", "recall@10", "mAP@10"] + ["accuracy"] * with_accuracy,
        [
            [name, *(f"{v['agreement'][key]:.4f}" for key in ("top1", "recall_at_1", "recall_at_10", "map_at_10"))]
            + ([f"{100 * v['demo_accuracy']:.2f} %"] if with_accuracy else [])
            for name, v in variants.items()
        ],
    )
    if with_accuracy:
        lines += [
            "",
            f"Accuracy: zero-shot top-1 on {_PER_KIND * len(sounds.KINDS)} labelled sounds held out of training.",
        ]
    lines += _decisions(variants)
    return "\n".join(lines) + "\n"


def _kept(choice: Mapping[str, Any] | None) -> str:
    return "-" if choice is None else f"{len(choice['kept'])} of {choice['layers']}"


def _decisions(variants: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, variant in variants.items():
        for tower, choice in variant["choices"].items():
            if choice["method"]:
                lines.append(f"- {name}, {tower}: {choice['method']}.")
            if choice["kept"]:
                kept = ", ".join(
                    f"{layer} ({share:.1e})"
                    for layer, share in zip(choice["kept"], choice["contributions"], strict=True)
                )
                lines.append(
                    f"- {name}, {tower}: kept in higher precision, {choice['weights_kept']:,} weights, with what each "
                    f"alone adds to 1 - cosine: {kept}."
                )
    return ["", "Decisions:", "", *lines] if lines else []


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]
