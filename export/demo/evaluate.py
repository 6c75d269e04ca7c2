"""Measure a demo checkpoint's zero-shot accuracy through transformers, on held-out clips.

    PYTHONPATH=export python -m demo.evaluate --checkpoint DIR --fsdd DIR [--json]

Every label is written into "This is a sound of {}." and a clip gets the label whose text vector
is nearest. The half-precision weights compute in float32. --write stores the result and the model
card in the checkpoint's directory.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch
import transformers
from tqdm import tqdm
from transformers import ClapModel, ClapProcessor

from claprt_export.demo.captions import (
    AVERAGING_TEMPLATES,
    CLASS_TEMPLATE,
    DIGIT_LABELS,
    LABELS,
    UNSEEN_TEMPLATE,
)
from claprt_export.demo.sounds import KINDS, SAMPLING_RATE
from claprt_export.demo.testset import digit_test_set, synthetic_test_set
from demo.card import write_card
from demo.model import load

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
BATCH = 16
TEN_SECONDS = 10 * SAMPLING_RATE


@dataclass(frozen=True)
class Clips:
    """Embedded clips: vectors, float32 (n, d) of unit length, and labels, int64 (n,)."""

    vectors: Vectors
    labels: Labels


def embed_text(model: ClapModel, processor: ClapProcessor, labels: Sequence[str], templates: Sequence[str]) -> Vectors:
    """One unit vector per label: the mean over templates, float32 (labels, d)."""
    total = torch.zeros(len(labels), model.config.projection_dim)
    for template in templates:
        texts = [template.format(label) for label in labels]
        tokens = processor(text=texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            total = total + model.get_text_features(**tokens).pooler_output
    return torch.nn.functional.normalize(total, dim=-1).numpy()


def embed_audio(
    model: ClapModel,
    processor: ClapProcessor,
    clips: Iterable[tuple[npt.NDArray[np.float32], int]],
    count: int,
    as_marked: bool = False,
) -> Clips:
    """Embed (waveform at 48 kHz, label) pairs.

    as_marked: keep `is_longer` as the feature extractor gives it. It marks a random short clip of
    each batch when none is longer; without this, "longer" means longer than 10 s.
    """
    np.random.seed(0)  # noqa: NPY002 - the feature extractor crops with the global generator
    vectors, labels = [], []
    pending: list[npt.NDArray[np.float32]] = []

    def flush() -> None:
        if not pending:
            return
        inputs = processor(audio=pending, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        longer = inputs.get("is_longer")
        if not as_marked:
            longer = torch.tensor([[len(clip) > TEN_SECONDS + 480] for clip in pending])
        with torch.inference_mode():
            out = model.get_audio_features(inputs["input_features"].float(), is_longer=longer)
        vectors.append(out.pooler_output.numpy())
        pending.clear()

    for waveform, label in tqdm(clips, total=count, mininterval=2, disable=None):
        pending.append(waveform)
        labels.append(label)
        if len(pending) == BATCH:
            flush()
    flush()
    return Clips(np.concatenate(vectors), np.asarray(labels, np.int64))


def score(clips: Clips, texts: Vectors, names: Sequence[str]) -> dict[str, Any]:
    """Zero-shot top-1 and top-5 in %, per class, and the most frequent confusions."""
    ranking = np.argsort(-(clips.vectors @ texts.T), axis=1)
    guess = ranking[:, 0]
    right = guess == clips.labels
    per_class = {
        names[label]: round(100 * float(right[clips.labels == label].mean()), 1) for label in np.unique(clips.labels)
    }
    wrong = Counter(
        (names[truth], names[said]) for truth, said in zip(clips.labels[~right], guess[~right], strict=True)
    )
    return {
        "clips": len(right),
        "classes": len(texts),
        "chance": round(100 / len(texts), 1),
        "top1": round(100 * float(right.mean()), 2),
        "top5": round(100 * float((ranking[:, :5] == clips.labels[:, None]).any(1).mean()), 2),
        "per_class": per_class,
        "confusions": [f"{a} → {b}: {n}" for (a, b), n in wrong.most_common(8)],
    }


def spread(clips: Clips) -> dict[str, float]:
    """Mean cosine between clips of one class, and between clips of two classes."""
    cosine = clips.vectors @ clips.vectors.T
    same = clips.labels[:, None] == clips.labels[None]
    other = ~same
    np.fill_diagonal(same, False)
    return {
        "same_class": round(float(cosine[same].mean()), 3),
        "other_class": round(float(cosine[other].mean()), 3),
    }


def digits_at_48k(fsdd_dir: Path) -> Iterable[tuple[npt.NDArray[np.float32], int]]:
    """The digits' test split, resampled to 48 kHz."""
    for waveform, rate, label in digit_test_set(fsdd_dir):
        yield soxr.resample(waveform, rate, SAMPLING_RATE).astype(np.float32), label


def evaluate(checkpoint: Path, fsdd_dir: Path, per_kind: int) -> dict[str, Any]:
    """All measurements of a checkpoint, as they are written to evaluation.json."""
    model, processor = load(checkpoint)
    fusion = model.config.audio_config.enable_fusion

    def sounds(longer: bool) -> Iterable[tuple[npt.NDArray[np.float32], int]]:
        return synthetic_test_set(per_kind, longer=longer)

    total = per_kind * len(KINDS)
    synthetic = embed_audio(model, processor, sounds(False), total)
    digits = embed_audio(model, processor, digits_at_48k(fsdd_dir), 250)
    both = Clips(
        np.concatenate([synthetic.vectors, digits.vectors]),
        np.concatenate([synthetic.labels, digits.labels + len(KINDS)]),
    )

    def texts(labels: Sequence[str], *templates: str) -> Vectors:
        return embed_text(model, processor, labels, templates)

    results = {
        "synthetic": score(synthetic, texts(KINDS, CLASS_TEMPLATE), KINDS),
        "digits": score(digits, texts(DIGIT_LABELS, CLASS_TEMPLATE), DIGIT_LABELS),
        "joint": score(both, texts(LABELS, CLASS_TEMPLATE), LABELS),
        "joint_averaged_templates": score(both, texts(LABELS, *AVERAGING_TEMPLATES), LABELS),
        "joint_unseen_template": score(both, texts(LABELS, UNSEEN_TEMPLATE), LABELS),
    }
    if fusion:
        longer = embed_audio(model, processor, sounds(True), total)
        results["synthetic_longer"] = score(longer, texts(KINDS, CLASS_TEMPLATE), KINDS)
        marked = embed_audio(model, processor, sounds(False), total, as_marked=True)
        results["synthetic_as_marked"] = score(marked, texts(KINDS, CLASS_TEMPLATE), KINDS)
    return {
        "checkpoint": checkpoint.name,
        "fusion": fusion,
        "template": CLASS_TEMPLATE,
        "per_kind": per_kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_bytes": (checkpoint / "model.safetensors").stat().st_size,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "cosine": spread(both),
        "results": results,
    }


def main() -> None:
    """Read the command line, measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--fsdd", type=Path, required=True, help="directory of spoken digits")
    parser.add_argument("--per-kind", type=int, default=8, help="test clips of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="store evaluation.json and the card")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    result = evaluate(arguments.checkpoint, arguments.fsdd, arguments.per_kind)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if arguments.write:
        (arguments.checkpoint / "evaluation.json").write_text(text + "\n", "utf-8")
        write_card(arguments.checkpoint)
    if arguments.json:
        print(text)
        return
    for name, row in result["results"].items():
        print(f"{name:26s} {row['top1']:6.2f} %  (chance {row['chance']} %, {row['clips']} clips)")
        print("   weakest:", ", ".join(row["confusions"][:5]) or "no error")
    print("mean cosine:", result["cosine"])


if __name__ == "__main__":
    main()
