"""Ratios with their spread, rows of the result, and the table for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from claprt_bench.rows import aligned

_RESAMPLES = 2000
_SEED = 0


def ratio_spread(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """95 % interval of the ratio of medians, theirs / ours: percentile bootstrap over rounds.

    A round is drawn as a whole, both sides of it, for what slows one side down in a round slows the other too
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). The seed is fixed: the same samples give
    the same interval.

    Args:
        ours, theirs: samples of at least one round, in the same unit; element i of both is from the same round.

    Returns:
        The lower and the upper end.
    """
    rounds = np.random.default_rng(_SEED).integers(len(ours), size=(_RESAMPLES, len(ours)))
    a, b = (np.median(np.asarray(samples, dtype=np.float64)[rounds], axis=1) for samples in (ours, theirs))
    return [float(value) for value in np.percentile(b / a, [2.5, 97.5])]


def row(
    step: tuple[str, int],
    precision: str,
    threads: int,
    peer: str,
    versions: Mapping[str, str],
    *,
    ours: Sequence[float],
    theirs: Sequence[float],
    accuracy: Mapping[str, float],
    notes: Sequence[str],
) -> dict[str, Any]:
    """An entry of a speed document's list "against". Samples are in ms, one a round, of a whole batch."""
    name, batch = step
    return {
        "id": f"against/{name}/{precision}/b{batch}/{peer}",
        "what": f"{name} -> vector",
        "step": name,
        "precision": precision,
        "batch": batch,
        "threads": threads,
        "peer": peer,
        "peer_versions": dict(versions),
        "unit": "ms",
        "ours": list(ours),
        "theirs": list(theirs),
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "ratio_spread": ratio_spread(ours, theirs),
        "accuracy": dict(accuracy),
        "notes": list(notes),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text, then the notes; times are medians of a whole batch, a ratio above 1: claprt is faster."""
    lines: list[tuple[str, ...]] = [("", "", "batch", "peer", "claprt", "peer", "ratio", "95 %", "worst cosine", "")]
    notes: list[str] = []
    for entry in rows:
        for note in entry["notes"]:
            if note not in notes:
                notes.append(note)
        low, high = entry["ratio_spread"]
        lines.append(
            (
                entry["what"],
                entry["precision"].upper(),
                str(entry["batch"]),
                entry["peer"],
                _milliseconds(entry["ours"]),
                _milliseconds(entry["theirs"]),
                f"{_down(entry['ratio']):.2f}x",
                f"{_down(low):.2f}-{math.ceil(high * 100) / 100:.2f}",
                _cosine(entry["accuracy"]["worst_cosine"]),
                " ".join(f"[{notes.index(note) + 1}]" for note in entry["notes"]),
            )
        )
    return aligned(lines, left=(0, 1, 3, 9)) + "".join(f"\n[{number}] {note}" for number, note in enumerate(notes, 1))


def _milliseconds(samples: Sequence[float]) -> str:
    value = statistics.median(samples)
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _down(ratio: float) -> float:
    """Two decimals, never rounded up: 1.999 is not 2."""
    return math.floor(ratio * 100) / 100


def _cosine(cosine: float) -> str:
    """Near 1 the distance from it: six nines would hide it."""
    distance = max(0.0, 1.0 - cosine)
    return f"1 - {distance:.0e}" if distance < 1e-4 else f"{cosine:.5f}"
