"""What is measured of a bundle: every measurement with its id, and which of them share a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from claprt.manifest import Manifest
from claprt_bench.speed.options import SpeedOptions
from claprt_bench.speed.steps import PATHS, Side, Task

WHAT = {
    "decode": "decode a file",
    "resample": "resample to the model's rate",
    "log-mel": "log-Mel",
    "audio-tower": "audio tower",
    "tokenizer": "tokenize",
    "text-tower": "text tower",
    "file": "file -> vector",
    "waveform": "waveform -> vector",
    "text": "text -> vector",
    "sound": "waveform of any length -> vector",
    "labels": "labels -> vectors",
    "rank": "rank all labels for a vector",
}
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
_LABELS = (1, 10, 100, 1000, 10_000)
_AXES = {"batch": "batch", "threads": "threads", "clip": "clip_seconds", "labels": "labels"}
# From so many labels on a call is minutes for a large tower; the calls for fewer have warmed up what it needs.
_MANY_LABELS = 1000


@dataclass(frozen=True)
class Measurement:
    """One thing whose calls are timed.

    Attributes:
        id: the same for the same thing in every run.
        group: "stage" or "path".
        task: what is done.
        precision: of the tower; None where none is in it.
        log_mel: where it is computed; None where it is not in it.
    """

    id: str
    group: str
    task: Task
    side: Side
    precision: str | None
    log_mel: str | None

    def about(self, manifest: Manifest) -> dict[str, Any]:
        """Its fields in the document, but for what was measured."""
        step, tower = self.task.step, self.precision is not None
        variant = manifest.variant_for(self.precision, cpu=self.side.backend == "ort-cpu") if self.precision else None
        return {
            "id": self.id,
            "group": self.group,
            "what": WHAT[step],
            "step": step,
            "precision": self.precision,
            "variant": variant,
            "backend": self.side.backend if tower else None,
            "log_mel": self.log_mel,
            "batch": self.task.batch,
            "threads": self.side.threads if tower and self.side.backend == "ort-cpu" else 1,
            "audio_seconds": None if step in ("tokenizer", "text-tower", "text") else manifest.audio.clip_seconds,
        }


@dataclass(frozen=True)
class Group:
    """Measurements that share a process: one tower of one precision, or what comes before the towers."""

    side: Side
    measurements: tuple[Measurement, ...]

    def turned(self, repeat: int) -> tuple[Measurement, ...]:
        """The order of a repeat: another path comes first each time; stages, which load the tower again, come last."""
        paths = [one for one in self.measurements if one.group == "path"]
        stages = [one for one in self.measurements if one.group == "stage"]
        shift = repeat % len(paths) if paths else 0
        return (*paths[shift:], *paths[:shift], *stages)


def groups(options: SpeedOptions, sides: Sequence[Side]) -> list[Group]:
    """All that the options ask for. The sides differ in precision only."""
    found = []
    first = sides[0]
    if "stages" in options.parts:
        log_mels = options.batches if first.log_mel == "cuda" else (1,)
        tasks = [Task("decode"), Task("resample"), *(Task("log-mel", batch) for batch in log_mels), Task("tokenizer")]
        found.append(_group(first, tasks, towers=False))
    for side in sides:
        for paths, stage in ((("file", "waveform"), "audio-tower"), (("text",), "text-tower")):
            tasks = [Task(path, batch) for path in paths for batch in options.batches] * ("paths" in options.parts)
            tasks += [Task(stage, batch) for batch in options.batches] * ("stages" in options.parts)
            if tasks:
                found.append(_group(side, tasks, towers=True))
    return found


def _group(side: Side, tasks: Sequence[Task], towers: bool) -> Group:
    measurements = []
    for task in tasks:
        group = "path" if task.step in PATHS else "stage"
        log_mel = side.log_mel if task.step in ("log-mel", "file", "waveform") else None
        where = f"/{side.precision}/{side.backend}" if towers else f"/{log_mel}" * (log_mel is not None)
        threads = f"/t{side.threads}" if towers and side.backend == "ort-cpu" else ""
        name = f"{group}/{task.step}{where}/b{task.batch}{threads}"
        measurements.append(Measurement(name, group, task, side, side.precision if towers else None, log_mel))
    return Group(side, tuple(measurements))


@dataclass(frozen=True)
class Curve:
    """How a step's cost grows: points (x, task, side) of one axis."""

    id: str
    axis: str
    what: str
    side: Side
    points: tuple[tuple[float, Task, Side], ...]


def curves(options: SpeedOptions, side: Side, cores: int) -> list[Curve]:
    """The scaling curves that the options ask for, of one precision."""
    fixed = {
        "batch": [[(batch, Task(step, batch)) for batch in _BATCHES] for step in ("waveform", "text")],
        "clip": [[(seconds, Task("sound", size=seconds)) for seconds in _SECONDS]],
        "labels": [
            [(count, Task(step, size=count, warm_up=step == "rank" or count < _MANY_LABELS)) for count in _LABELS]
            for step in ("labels", "rank")
        ],
    }
    found = [
        _curve(axis, side, [(x, task, side) for x, task in points])
        for axis in options.scaling
        for points in fixed.get(axis, [])
    ]
    if "threads" in options.scaling and side.backend == "ort-cpu":
        counts = sorted({1, cores, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)})
        for batch in (1, 8):
            points = [(count, Task("waveform", batch), replace(side, threads=count)) for count in counts]
            found.append(_curve("threads", side, points, f", {batch} at once", f"/b{batch}"))
    return found


def _curve(
    axis: str, side: Side, points: Sequence[tuple[float, Task, Side]], remark: str = "", suffix: str = ""
) -> Curve:
    step = points[0][1].step
    name = f"scaling/{axis}/{step}/{side.precision}/{side.backend}{suffix}"
    return Curve(name, _AXES[axis], WHAT[step] + remark, side, tuple(points))
