"""A row of a result: two sides, their ratio, a target, and whether it was met. And how rows are printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from claprt_bench.measure import Spread


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: what is compared.
        against: the other side.
        unit: of all samples.
        sense: "faster": the ratio is theirs / ours, and a target is what it must at least be. "smaller": the ratio is
            ours / theirs, and a target is what it may at most be.
        target: bound of the ratio; None where none was set: the row then informs only.
        below: our own median must be below this too, in `unit`.
        ours, theirs: samples; element i of both is from the same round. Empty: not measured, and `notes` says why.
        accuracy: how far our values are from theirs on the inputs that were timed.
        notes: what a reader of the figures must know.
    """

    what: str
    against: str
    unit: str
    sense: Literal["faster", "smaller"] = "faster"
    target: float | None = None
    below: float | None = None
    ours: Sequence[float] = ()
    theirs: Sequence[float] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def measured(self) -> bool:
        """Whether both sides have samples."""
        return bool(self.ours) and bool(self.theirs)

    @property
    def ratio(self) -> float | None:
        """Ratio of the medians; None if not measured."""
        if not self.measured:
            return None
        return self._over(statistics.median(self.ours), statistics.median(self.theirs))

    @property
    def pairwise_ratio(self) -> float | None:
        """Median of the ratios of each round: less moved by a machine that gets slower and faster meanwhile."""
        if not self.measured:
            return None
        return statistics.median(self._over(*pair) for pair in zip(self.ours, self.theirs, strict=True))

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without a target or a measurement."""
        ratio = self.ratio
        if ratio is None or (self.target is None and self.below is None):
            return None
        reached = self.below is None or statistics.median(self.ours) < self.below
        if self.target is not None:
            reached = reached and (ratio >= self.target if self.sense == "faster" else ratio <= self.target)
        return reached

    def _over(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.sense == "faster" else ours / theirs

    def to_json(self) -> dict[str, Any]:
        """All of it. Ratios are those of the samples, not rounded."""
        return {
            "what": self.what,
            "against": self.against,
            "unit": self.unit,
            "ours": asdict(Spread.of(self.ours)) if self.ours else None,
            "theirs": asdict(Spread.of(self.theirs)) if self.theirs else None,
            "ratio_is": "theirs / ours" if self.sense == "faster" else "ours / theirs",
            "ratio": self.ratio,
            "pairwise_ratio": self.pairwise_ratio,
            "target": {
                key: value
                for key, value in (
                    ("ratio_at_least" if self.sense == "faster" else "ratio_at_most", self.target),
                    ("ours_below", self.below),
                )
                if value is not None
            }
            or None,
            "met": self.met,
            "accuracy": dict(self.accuracy),
            "notes": list(self.notes),
            "samples": {"ours": list(self.ours), "theirs": list(self.theirs)},
        }


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text: medians, ratio of medians, median of the pairwise ratios, target, verdict, then notes."""
    lines = [("", "unit", "claprt", "other", "ratio", "by round", "target", "")]
    notes: list[str] = []
    for row in rows:
        marks = []
        for note in row.notes:
            if note not in notes:
                notes.append(note)
            marks.append(f"[{notes.index(note) + 1}]")
        lines.append(
            (
                row.what,
                row.unit,
                _figure(row.ours),
                _figure(row.theirs),
                _ratio(row.ratio, row.sense),
                _ratio(row.pairwise_ratio, row.sense),
                _target(row),
                " ".join([_verdict(row), *marks]).strip(),
            )
        )
    return aligned(lines, left=(0, 1, 7)) + "".join(f"\n[{number}] {note}" for number, note in enumerate(notes, 1))


def aligned(lines: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Columns of text, a rule under the first line; columns not in `left` end at the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([texts[0], "-" * max(len(text) for text in texts), *texts[1:]])


def _figure(samples: Sequence[float]) -> str:
    if not samples:
        return "-"
    value = statistics.median(samples)
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio(ratio: float | None, sense: str) -> str:
    """Two decimals, rounded towards a miss: 2.199 never reads as 2.20."""
    if ratio is None:
        return "-"
    if sense == "faster":
        return f"{math.floor(ratio * 100) / 100:.2f}x"
    return f"{math.ceil(ratio * 1000) / 1000:.3f}"


def _target(row: Row) -> str:
    parts = []
    if row.target is not None:
        parts.append(f">= {row.target:g}x" if row.sense == "faster" else f"<= {row.target:.3f}")
    if row.below is not None:
        parts.append(f"< {row.below:g}")
    return ", ".join(parts) or "-"


def _verdict(row: Row) -> str:
    if not row.measured:
        return "not measured"
    return {True: "met", False: "MISSED", None: ""}[row.met]
