"""The rows of the CPU result: what is compared with what, after the values of every side were checked."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

import claprt
from claprt.errors import OptionError
from claprt.log_mel import LogMel
from claprt_bench import cold_start, graphs
from claprt_bench.checks import check_log_mel, check_spread, check_vectors
from claprt_bench.errors import BenchError
from claprt_bench.inputs import TEXTS, clips
from claprt_bench.measure import Side, Spread, interleave
from claprt_bench.prepare import PRECISIONS, Prepared
from claprt_bench.reference import TEXT_TOKENS, Reference, as_it_comes, check_subnormals, flushed
from claprt_bench.rows import Row
from claprt_export.checkpoint import load_checkpoint

# What the project wants to reach on two threads with the full-size architecture. INT8 alone has no target as a graph.
WAVEFORM_TARGETS = {("fp32", 1): 2.2, ("fp32", 8): 3.0, ("int8", 1): 4.0, ("int8", 8): 5.0}
GRAPH_TARGETS = {"fp32": 1.3}
LOG_MEL_TARGET = 4.0
TEXT_TARGETS = {"fp32": 2.0, "int8": 4.0}
START_TARGET = 4.0
MEMORY_TARGET = 1 / 3

_Samples = dict[str, list[float]]
_Accuracy = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        repeats: timed runs of each side.
        starts: timed cold starts of each side.
        pause: seconds before each run.
        warm_up: runs of each side that are not timed.
        threads: of every side.
        recordings: where the clips come from; None makes them.
        targets: whether the project's targets apply (they are for the full-size architecture).
        batches: clips of one call.
    """

    repeats: int = 15
    starts: int = 7
    pause: float = 0.2
    warm_up: int = 2
    threads: int = 2
    recordings: Path | None = None
    targets: bool = True
    batches: tuple[int, ...] = (1, 8)


class Contest:
    """All sides, loaded, and what they are measured on. One method for each group of rows."""

    def __init__(self, prepared: Prepared, options: Options) -> None:
        """Load them, and check that comparing them can show a difference.

        Raises:
            BenchError: the bundle is not of this checkpoint, or the comparison would not be valid.
        """
        self.prepared, self.options = prepared, options
        checkpoint = load_checkpoint(str(prepared.checkpoint))
        self.log_mel = LogMel(checkpoint.log_mel)
        self.inputs, self.clips = clips(checkpoint.log_mel, options.recordings, max(options.batches))
        # transformers first: torch's threads must exist before ONNX Runtime changes this one (see `reference`).
        self.reference = Reference(checkpoint, options.threads)
        self.vectors = self.reference.embed_audio(self.clips)
        self.text_vectors = self.reference.embed_text(TEXTS)
        check_subnormals(options.threads)
        check_spread(self.vectors)
        self.ours: dict[str, claprt.Clap] = {}
        self.missing: dict[str, str] = {}
        for precision in PRECISIONS:
            self._load(precision)
        if "fp32" in self.missing:
            raise BenchError(self.missing["fp32"])
        self.manifest = self.ours["fp32"].manifest
        if self.manifest.model.weights_sha256 != checkpoint.weights_sha256:
            raise BenchError(f"the bundle is of other weights: {prepared.bundle}; make it again with --rebuild")

    def waveform(self, batch: int) -> list[Row]:
        """Waveform to unit vector."""
        accuracy = {
            name: check_vectors(f"audio, {name}", clap.embed_audio(self.clips), self.vectors, "audio", name)
            for name, clap in self.ours.items()
        }

        def claprt_side(clap: claprt.Clap) -> Side:
            return flushed(lambda index: clap.embed_audio([self.clips[i] for i in self._picked(index, batch)]))

        sides = {
            "theirs": as_it_comes(
                lambda index: self.reference.embed_audio([self.clips[i] for i in self._picked(index, batch)])
            )
        }
        samples = self._timed(sides | {name: claprt_side(clap) for name, clap in self.ours.items()}, batch)
        against = "transformers (feature extractor and ClapModel, eager)"
        return [
            Row(
                f"waveform -> vector, {name.upper()}, batch {batch}",
                against,
                "ms/clip",
                target=self._target(WAVEFORM_TARGETS.get((name, batch))),
                **self._fields(name, samples, accuracy),
            )
            for name in PRECISIONS
        ]

    def graph(self, batch: int) -> tuple[list[Row], dict[str, Any] | None]:
        """The audio graph alone against the stock export; at batch 1 also what FP32 arithmetic costs at least."""
        features = np.stack([self.log_mel.clip(clip) for clip in self.clips])[:, None]
        sessions = {"theirs": graphs.session(self.prepared.stock, self.options.threads)}
        sessions |= {name: graphs.session(self.graph_file(name), self.options.threads) for name in self.ours}
        accuracy = {}
        for name, session in sessions.items():
            (found,) = session.run(None, {"input_features": features})
            precision = "fp32" if name == "theirs" else name
            accuracy[name] = check_vectors(f"audio graph, {name}", found, self.vectors, "audio", precision)

        def side(session: Any) -> Side:
            return flushed(lambda index: session.run(None, {"input_features": features[self._picked(index, batch)]}))

        sides = {name: side(session) for name, session in sessions.items()}
        product, operand, product_flops = graphs.peak_product()
        if batch == 1:
            peak = graphs.session(product, self.options.threads)
            sides["peak"] = flushed(lambda index: peak.run(None, {"a": operand}))
        samples = self._timed(sides, batch)
        opset = graphs.opset(self.prepared.stock)
        against = f"torch.onnx.export of transformers' tower (FP32, opset {opset}) in the same ONNX Runtime"
        rows = [
            Row(
                f"audio graph alone, {name.upper()}, batch {batch}",
                against,
                "ms/clip",
                target=self._target(GRAPH_TARGETS.get(name)),
                **self._fields(name, samples, accuracy),
            )
            for name in PRECISIONS
        ]
        return rows, self._floor(product_flops, samples) if batch == 1 else None

    def log_mel_alone(self) -> list[Row]:
        """Log-Mel of one clip. Neither side needs ONNX Runtime, so both run as in a process without it."""
        error = max(check_log_mel(self.log_mel.clip(clip), self.reference.log_mel(clip)) for clip in self.clips)
        count = len(self.clips)
        sides = {
            "theirs": as_it_comes(lambda index: self.reference.log_mel(self.clips[index % count])),
            "ours": as_it_comes(lambda index: self.log_mel.clip(self.clips[index % count])),
        }
        samples = self._timed(sides, 1)
        return [
            Row(
                "log-Mel alone",
                "ClapFeatureExtractor",
                "ms/clip",
                target=self._target(LOG_MEL_TARGET),
                ours=samples["ours"],
                theirs=samples["theirs"],
                accuracy={"max_abs_db": error},
            )
        ]

    def text(self) -> list[Row]:
        """Short texts to unit vectors, tokenisation included."""
        accuracy = {
            name: check_vectors(f"text, {name}", clap.embed_text(TEXTS), self.text_vectors, "text", name)
            for name, clap in self.ours.items()
        }

        def claprt_side(clap: claprt.Clap) -> Side:
            return flushed(lambda index: clap.embed_text(TEXTS))

        sides = {"theirs": as_it_comes(lambda index: self.reference.embed_text(TEXTS))}
        samples = self._timed(sides | {name: claprt_side(clap) for name, clap in self.ours.items()}, 1)
        tokens = [len(ids) for ids in self.reference.checkpoint.tokenizer(list(TEXTS))["input_ids"]]
        note = f"the texts have {min(tokens)} to {max(tokens)} tokens; transformers pads them to {TEXT_TOKENS}"
        return [
            Row(
                f"{len(TEXTS)} texts -> vectors, {name.upper()}",
                f"transformers (tokenizer and ClapModel, eager, padded to {TEXT_TOKENS})",
                "ms",
                target=self._target(TEXT_TARGETS[name]),
                **self._fields(name, samples, accuracy, note),
            )
            for name in PRECISIONS
        ]

    def cold_start(self) -> list[Row]:
        """Process start to the first vector of a WAV file, and the peak memory of those processes."""
        options = self.options
        with tempfile.TemporaryDirectory() as directory:
            sound = Path(directory) / "clip.wav"
            soundfile.write(sound, self.clips[0], self.manifest.audio.log_mel.sampling_rate, subtype="PCM_16")
            sides = {"theirs": cold_start.theirs(self.prepared.checkpoint, sound, options.threads)}
            for name in self.ours:
                sides[name] = cold_start.ours(self.prepared.bundle, name, sound, options.threads)
            try:
                starts = cold_start.measure(sides, options.starts, options.pause)
            except RuntimeError as error:
                raise BenchError(f"cold start: {error}") from error
        expected = _vectors(starts["theirs"])
        accuracy = {
            name: check_vectors(f"cold start, {name}", _vectors(starts[name]), expected, "audio", name)
            for name in self.ours
        }
        seconds = {name: [start.seconds for start in side] for name, side in starts.items()}
        megabytes = {name: [start.peak_bytes / 1e6 for start in side] for name, side in starts.items()}
        against = "transformers (import, ClapModel.from_pretrained, soundfile, feature extractor, model)"
        start_target, memory_target = self._target(START_TARGET), self._target(MEMORY_TARGET)
        return [
            Row(
                f"cold start to first vector, {name.upper()}",
                against,
                "s",
                target=start_target,
                **self._fields(name, seconds, accuracy),
            )
            for name in PRECISIONS
        ] + [
            Row(
                f"peak memory of that, {name.upper()}",
                against,
                "MB",
                "smaller",
                target=memory_target,
                **self._fields(name, megabytes, accuracy),
            )
            for name in PRECISIONS
        ]

    def profiles(self) -> dict[str, list[graphs.Operator]]:
        """ONNX Runtime's profile, at batch 1, of the stock graph and of ours."""
        feeds = {"input_features": self.log_mel.clip(self.clips[0])[None, None]}
        files = {"stock export": self.prepared.stock}
        files |= {f"claprt {name.upper()}": self.graph_file(name) for name in self.ours}
        return {name: graphs.profile(file, feeds, self.options.threads) for name, file in files.items()}

    def parameters(self) -> dict[str, int]:
        """Numbers in the weights of each tower, projection included."""
        model = self.reference.checkpoint.model
        towers = {
            "audio": (model.audio_model, model.audio_projection),
            "text": (model.text_model, model.text_projection),
        }
        return {name: sum(p.numel() for part in parts for p in part.parameters()) for name, parts in towers.items()}

    def graph_file(self, precision: str) -> Path:
        """The audio graph that a precision, one of `ours`, runs on a CPU."""
        variant = self.manifest.variant_for(precision, cpu=True)
        assert variant is not None
        return self.prepared.bundle / self.manifest.audio.variants[variant].file

    def _load(self, precision: str) -> None:
        """Load our side of a precision, or note why there is none."""
        try:
            self.ours[precision] = claprt.load(self.prepared.bundle, "ort-cpu", precision, self.options.threads)
        except OptionError as error:
            refused = self.prepared.refused
            why = refused.read_text(encoding="utf-8").strip() if refused.is_file() else str(error)
            self.missing[precision] = f"{precision.upper()} not measured: {why}"

    def _timed(self, sides: dict[str, Side], batch: int) -> _Samples:
        """Milliseconds a clip, by side."""
        samples = interleave(sides, self.options.repeats, self.options.pause, self.options.warm_up)
        return {name: [seconds * 1000 / batch for seconds in times] for name, times in samples.items()}

    def _fields(self, precision: str, samples: _Samples, accuracy: _Accuracy, *notes: str) -> dict[str, Any]:
        """The fields of a row that come from measuring; the reason instead for a precision that is missing."""
        if precision in self.missing:
            return {"theirs": samples["theirs"], "notes": (*notes, self.missing[precision])}
        return {
            "ours": samples[precision],
            "theirs": samples["theirs"],
            "accuracy": accuracy[precision],
            "notes": notes,
        }

    def _target(self, target: float | None) -> float | None:
        return target if self.options.targets else None

    def _picked(self, index: int, size: int) -> list[int]:
        """Numbers of the clips of a round: others in each round, the same for all sides."""
        return [(index + i) % len(self.clips) for i in range(size)]

    def _floor(self, product_flops: float, samples: _Samples) -> dict[str, Any]:
        """What the FP32 tower's arithmetic costs at the speed of one large product, beside what was measured."""
        flops = graphs.flops(self.graph_file("fp32"))
        peak = [product_flops / milliseconds / 1e6 for milliseconds in samples["peak"]]
        median = statistics.median(peak)
        return {
            "gflop_per_clip": flops / 1e9,
            "gflop_per_clip_of_the_stock_graph": graphs.flops(self.prepared.stock) / 1e9,
            "product": list(graphs.PEAK_PRODUCT),
            "peak_gflop_per_s": {"median": median, "best": max(peak), "samples": peak},
            "floor_ms_per_clip": {"at_median_peak": flops / median / 1e6, "at_best_peak": flops / max(peak) / 1e6},
            "measured_ms_per_clip": asdict(Spread.of(samples["fp32"])),
        }


def _vectors(starts: Sequence[cold_start.Start]) -> NDArray[np.float32]:
    return np.stack([np.frombuffer(start.vector, dtype=np.float32) for start in starts])
