"""What two results were measured on, and how: where that differs, the figures may differ for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from claprt.printable import printable
from claprt_bench.comparing.fields import Fields
from claprt_bench.document import SPEED
from claprt_bench.errors import ResultError
from claprt_bench.speed.statistics import tenths

# What may differ without making figures less comparable: it is what a comparison is made for, or a mere name.
_HARDLY = ("machine.versions", "machine.python", "bundle")
# Noise is not taken for more than this factor.
_MOST = 10.0
_MACHINE = tuple(f"machine.{name}" for name in ("processor", "cpu_flags", "usable_cores", "governor", "system", "gpu"))


@dataclass(frozen=True)
class Difference:
    """A field of machine, bundle, method or dataset that is not the same in both."""

    field: str
    before: str
    after: str

    @property
    def matters(self) -> bool:
        """Whether it makes two figures hard to compare."""
        return not any(self.field == name or self.field.startswith(f"{name}.") for name in _HARDLY)


def warnings_of(kind: str, documents: Sequence[Fields], differences: Sequence[Difference]) -> list[str]:
    """What makes figures hard to compare, a sentence each."""
    fields = {one.field for one in differences}
    found = []
    if any(field.startswith(name) for field in fields for name in _MACHINE):
        found.append("different machines: what changed may be the machine, not claprt")
    if fields & {"bundle.weights_sha256", "bundle.space_id"}:
        found.append("different models: times are of other weights or another space; accuracy cannot be compared")
    if any(field.startswith("method.") for field in fields):
        found.append("measured in different ways")
    if kind == SPEED:
        for name, document in zip(("before", "after"), documents, strict=True):
            noise = document.fields("noise")
            if not noise.flag("quiet"):
                why = "; ".join(noise.texts("why_noisy")) if noise.has("why_noisy") else ""
                found.append(f"{name}: the machine was not quiet" + (f": {why}" if why else ""))
    return found


def taken_by_others(document: Fields) -> float:
    """The factor by which a "speed" run may have been slowed down by what it was not alone with; 1 if it was quiet.

    Others that used c of n cores leave n - c of them; and the yardstick, a fixed piece of work before each process,
    took so much longer at one time than at another.
    """
    noise = document.fields("noise")
    if noise.flag("quiet"):
        return 1.0
    cores = document.fields("machine").integer("usable_cores")
    used = sum(noise.number(key, 0) for key in ("others", "stolen") if noise.has(key))
    factor = cores / max(cores - used, cores / _MOST)
    if noise.has("yardstick_ms") and noise.values["yardstick_ms"]:
        fast, slow = tenths(noise.numbers("yardstick_ms"))
        factor = max(factor, slow / fast)
    return min(factor, _MOST)


def differences_of(before: Fields, after: Fields) -> list[Difference]:
    """Fields of machine, bundle, method and dataset that differ, by their full names; the date is none."""
    found = []
    for part in ("machine", "bundle", "method", *(["dataset"] if "dataset" in before.values else [])):
        old, new = (_flat(document.fields(part).values, part) for document in (before, after))
        found += [
            Difference(name, old.get(name, "not there"), new.get(name, "not there"))
            for name in {**old, **new}
            if old.get(name) != new.get(name) and name not in ("machine.date", "dataset.seconds")
        ]
    return found


def failed_checks(document: Fields) -> list[str]:
    """The checks of a "speed" document that failed."""
    return [check.text("what") for check in document.items("checks") if not check.flag("passed")]


def check_same_task(documents: Sequence[Fields]) -> None:
    """Metrics of other tasks, items or models are no before and after.

    Raises:
        ResultError: with what differs.
    """
    tasks = [document.text("task") for document in documents]
    if tasks[0] != tasks[1]:
        raise ResultError(f"evaluations of different tasks: {tasks[0]!r} and {tasks[1]!r}; compare like")
    for part, key, what in (
        ("dataset", "sha256", "other sounds or labels"),
        ("bundle", "weights_sha256", "other weights"),
        ("bundle", "space_id", "another space"),
    ):
        values = [document.fields(part).text(key) for document in documents]
        if values[0] != values[1]:
            raise ResultError(
                f"evaluations that cannot be compared: {what}: {part}.{key} is {values[0]} and {values[1]}; evaluate "
                "both on the same data with the same model"
            )
    if len({document.fields("dataset").integer("items") for document in documents}) > 1:
        raise ResultError("evaluations that cannot be compared: dataset.items differs; evaluate both on the same data")


def _flat(value: object, name: str) -> dict[str, str]:
    """Every leaf of an object by its full name, as a short text of printable characters."""
    if isinstance(value, dict) and value:
        leaves: dict[str, str] = {}
        for key, item in value.items():
            leaves |= _flat(item, f"{name}.{_shown(key)}")
        return leaves
    return {name: _shown(value)}


def _shown(value: object) -> str:
    if isinstance(value, list):
        text = ", ".join(str(item) for item in value)
    else:
        text = "none" if value is None else str(value)
    return printable(text)
