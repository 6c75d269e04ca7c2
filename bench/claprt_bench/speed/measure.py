"""Measuring a bundle, from options to a document."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import claprt
from claprt.engines.ort import default_threads
from claprt.errors import OptionError
from claprt.gpu import NO_DRIVER
from claprt.progress import Progress
from claprt_bench import cold_start, document
from claprt_bench.errors import BenchError
from claprt_bench.machine import describe
from claprt_bench.measure import turns
from claprt_bench.speed import plan
from claprt_bench.speed.checks import TOWERS, Checks
from claprt_bench.speed.inputs import read_inputs, write_inputs
from claprt_bench.speed.jobs import Workers
from claprt_bench.speed.noise import Noise
from claprt_bench.speed.open_loop import loop_id, measure_open_loop
from claprt_bench.speed.options import SpeedOptions
from claprt_bench.speed.scaling import REPEATS, measure_curve
from claprt_bench.speed.statistics import summary
from claprt_bench.speed.steps import PATHS, Side

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13-bindings", "cuda-bindings")
_FIRST_CALLS = 3
# Repeats that differ by more than this are said to.
_WIDE = 1.15


def measure(bundle: Path, options: SpeedOptions) -> dict[str, Any]:
    """Measure a bundle.

    Args:
        bundle: its directory.
        options: what, and how.

    Returns:
        A document of the kind "speed".

    Raises:
        BundleError, BackendError, OptionError: as `claprt.load`.
        AudioError: the recordings cannot be used.
        BenchError: values are wrong, or a process that measures cannot do its work.
    """
    precisions = options.precisions or ("fp32",)
    claps = [claprt.load(bundle, options.backend, name, options.threads, options.device) for name in precisions]
    if options.against and claps[0].backend != "ort-cpu":
        raise OptionError(f"peers are compared on the CPU; the backend is {claps[0].backend}: pass ort-cpu")
    threads = options.threads or default_threads()
    sides = [
        Side(str(bundle.absolute()), clap.precision, clap.backend, threads, options.device, clap.log_mel)
        for clap in claps
    ]
    with tempfile.TemporaryDirectory(prefix="claprt-bench-") as folder:
        return _Run(bundle, options, claps[0], sides, Path(folder)).document()


class _Run:
    """One run. Its methods fill the document's lists, in turn."""

    def __init__(self, bundle: Path, options: SpeedOptions, clap: claprt.Clap, sides: list[Side], folder: Path) -> None:
        self.bundle, self.options, self.clap, self.sides, self.folder = bundle, options, clap, sides, folder
        self.workers = Workers(folder, options.pause)
        self.left_out: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self.groups = plan.groups(options, sides)
        self.curves = [curve for side in sides for curve in plan.curves(options, side, default_threads())]

    def document(self) -> dict[str, Any]:
        """All of it."""
        noise = Noise()
        about = write_inputs(self.folder, self.clap.manifest.audio.log_mel, self.options.recordings)
        # First: a checkpoint that is not the bundle's is found out before minutes of measuring.
        against = self._against() if self.options.against else []
        with Progress("checks", total=self._jobs(), unit="process") as self.progress:
            checks = self._checks()
            self.progress.title("calls")
            measurements = self._measurements()
            self.progress.title("cold starts")
            starts = self._cold_starts() if "cold-start" in self.options.parts else []
            self.progress.title("open loop")
            loops = self._open_loops()
            self.progress.title("scaling")
            scaling = self._scaling()
        found = noise.found(self.workers.yardsticks)
        self.warnings += [f"not a quiet machine: {reason}" for reason in found["why_noisy"]]
        self._warn_of_spread(measurements)
        manifest, first = self.clap.manifest, self.sides[0]
        return {
            **document.new_document(document.SPEED),
            "machine": describe(PACKAGES, None if first.backend == "ort-cpu" else self.options.device),
            "bundle": {
                "source": manifest.model.source,
                "weights_sha256": manifest.model.weights_sha256,
                "space_id": manifest.model.space_id,
                "embedding_dim": manifest.model.embedding_dim,
                "clip_seconds": manifest.audio.clip_seconds,
            },
            "method": self._method(about),
            "noise": found,
            "checks": checks,
            "measurements": measurements,
            "cold_start": starts,
            "open_loop": loops,
            "scaling": scaling,
            "against": against,
            "left_out": self.left_out,
            "warnings": self.warnings,
        }

    def _jobs(self) -> int:
        """How many processes there will be, about."""
        options, count = self.options, len(self.sides)
        paths = sum(one.group == "path" for group in self.groups for one in group.measurements)
        return (
            4 * count
            + options.repeats * len(self.groups)
            + min(_FIRST_CALLS, options.repeats) * paths
            + (2 * count * (options.repeats + 1) if "cold-start" in options.parts else 0)
            + count * len(options.rates)
            + len(self.curves)
        )

    def _method(self, inputs: str) -> dict[str, Any]:
        options = self.options
        return {
            "duration_s": options.duration,
            "repeats": options.repeats,
            "pause_s": options.pause,
            "warm_up": "at least 3 calls and 0.2 s, in each process",
            "threads": self.sides[0].threads,
            "batches": list(options.batches),
            "backend_asked_for": options.backend,
            "not_chosen": {
                name: reason for name, reason in self.clap.choice.passed_over if not reason.startswith(NO_DRIVER)
            },
            "processes": "a fresh one for each repeat of a tower; all take turns",
            "percentile": "linear interpolation over all calls; shown when two calls lie above it",
            "spread": "lowest and highest median of a repeat",
            "first_call_and_peak": f"median of {min(_FIRST_CALLS, options.repeats)} fresh processes that do nothing "
            "else: the call that loads the tower; resident memory, weights and inputs in it; of a GPU what is taken",
            "inputs": inputs,
        }

    def _checks(self) -> list[dict[str, Any]]:
        checks = Checks(self.workers, self.clap.manifest, self.options.batches)
        checks.log_mel(read_inputs(self.folder))
        for side in self.sides:
            for tower in TOWERS:
                checks.tower(side, tower)
                self.progress.advance(2)
        return checks.found

    def _measurements(self) -> list[dict[str, Any]]:
        options = self.options
        blocks: dict[str, list[dict[str, Any]]] = {}
        firsts: dict[str, list[dict[str, Any]]] = {}
        dropped: set[str] = set()
        for repeat in range(options.repeats):
            for number in turns([str(index) for index in range(len(self.groups))], repeat) if self.groups else []:
                group = self.groups[int(number)]
                chosen = [one for one in group.turned(repeat) if one.id not in dropped]
                for one, block in self._blocks(group.side, chosen, options.duration / options.repeats, dropped):
                    blocks.setdefault(one.id, []).append(block)
                if repeat < _FIRST_CALLS:
                    for one in chosen:
                        if one.group == "path" and one.id not in dropped:
                            firsts.setdefault(one.id, []).append(self.workers.first(one.side, one.task))
                            self.progress.advance()
        return [
            self._measurement(one, blocks[one.id], firsts.get(one.id, []))
            for group in self.groups
            for one in group.measurements
            if one.id not in dropped
        ]

    def _blocks(
        self, side: Side, chosen: list[plan.Measurement], seconds: float, dropped: set[str]
    ) -> list[tuple[plan.Measurement, dict[str, Any]]]:
        """A block of each, in one process; where that fails each in its own, and those that fail alone are left out."""
        try:
            found = self.workers.blocks(side, [one.task for one in chosen], seconds) if chosen else []
            self.progress.advance()
            return list(zip(chosen, found, strict=True))
        except BenchError as error:
            if len(chosen) == 1:
                dropped.add(chosen[0].id)
                self.left_out.append({"what": chosen[0].id, "why": str(error)})
                return []
        return [pair for one in chosen for pair in self._blocks(side, [one], seconds, dropped)]

    def _measurement(
        self, one: plan.Measurement, blocks: list[dict[str, Any]], firsts: list[dict[str, Any]]
    ) -> dict[str, Any]:
        about = one.about(self.clap.manifest)
        repeats = [[round(sample, 5) for sample in block["samples_ms"]] for block in blocks]
        cpu = sum(block["cpu_ms"] for block in blocks)
        return {
            **about,
            "first_call_ms": statistics.median(first["first_call_ms"] for first in firsts) if firsts else None,
            "samples_ms": repeats,
            "summary": summary(repeats, one.task.batch, about["audio_seconds"], cpu),
            **{key: _median([first[key] for first in firsts]) for key in ("peak_host_bytes", "peak_device_bytes")},
        }

    def _warn_of_spread(self, measurements: list[dict[str, Any]]) -> None:
        wide = {}
        for one in measurements:
            low, high = one["summary"]["spread_ms"]
            if one["step"] in PATHS and high > _WIDE * low:
                wide[one["id"]] = 100 * (high / low - 1)
        if wide:
            worst = max(wide, key=lambda name: wide[name])
            self.warnings.append(
                f"the repeats of {len(wide)} of the whole paths differ by more than {100 * _WIDE - 100:.0f} %, most "
                f"those of {worst}, by {wide[worst]:.0f} %: read the figures with their spread"
            )

    def _cold_starts(self) -> list[dict[str, Any]]:
        options, inputs = self.options, read_inputs(self.folder)
        sides: dict[str, list[str]] = {}
        about: dict[str, dict[str, Any]] = {}
        for side in self.sides:
            for tower, what in (("audio", Path(inputs.files[0])), ("text", inputs.texts[0])):
                name = f"cold-start/{tower}/{side.precision}/{side.backend}"
                sides[name] = cold_start.ours(
                    self.bundle, side.precision, what, side.threads, side.backend, side.device
                )
                of = "a file" if tower == "audio" else "a text"
                about[name] = {
                    "id": name,
                    "what": f"process start -> first vector of {of}",
                    "precision": side.precision,
                    "backend": side.backend,
                    "threads": side.threads,
                }
        try:
            starts = cold_start.measure(sides, options.repeats, options.pause)
        except RuntimeError as error:
            raise BenchError(f"cold start: {error}") from error
        self.progress.advance(len(sides) * (options.repeats + 1))
        found = []
        for name, side_starts in starts.items():
            times = [start.seconds * 1000 for start in side_starts]
            found.append(
                {
                    **about[name],
                    "samples_ms": times,
                    "median_ms": statistics.median(times),
                    "spread_ms": [min(times), max(times)],
                    "peak_host_bytes": round(statistics.median(start.peak_bytes for start in side_starts)),
                }
            )
        return found

    def _open_loops(self) -> list[dict[str, Any]]:
        found = []
        for side in self.sides:
            for rate in self.options.rates:
                try:
                    found.append(measure_open_loop(self.workers, side, rate, self.options.duration))
                except BenchError as error:
                    self.left_out.append({"what": loop_id(side, rate), "why": str(error)})
                self.progress.advance()
        return found

    def _scaling(self) -> list[dict[str, Any]]:
        repeats, seconds = min(REPEATS, self.options.repeats), self.options.duration / self.options.repeats
        found = []
        for curve in self.curves:
            found.append(measure_curve(self.workers, curve, repeats, seconds, self.left_out))
            self.progress.advance()
        return found

    def _against(self) -> list[dict[str, Any]]:
        from claprt_bench.peers.against import AgainstOptions, run_against

        options = self.options
        result = run_against(
            self.bundle,
            options.against,
            AgainstOptions(
                checkpoint=options.checkpoint,
                tokenizer=options.tokenizer,
                pythons=options.peer_pythons,
                precisions=[side.precision for side in self.sides],
                batches=options.batches,
                threads=options.threads,
                rounds=options.rounds,
                recordings=options.recordings,
            ),
        )
        self.left_out += result.left_out
        self.warnings += result.warnings
        return result.rows


def _median(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known)) if known else None
