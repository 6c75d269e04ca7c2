"""claprt against its peers: same inputs, same threads, in turn, values checked first; every side in its own process.

Processes of their own, because pins conflict, because idle threads of one library take cores from the next, and because
ONNX Runtime changes how its process computes subnormal floats (see `claprt_bench.reference`). On the CPU.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claprt.bundle import open_bundle
from claprt.engines.ort import default_threads
from claprt.errors import OptionError
from claprt.manifest import Manifest
from claprt.progress import Progress
from claprt_bench.checks import check_spread, check_vectors, difference
from claprt_bench.errors import BenchError
from claprt_bench.inputs import clips
from claprt_bench.measure import turns
from claprt_bench.peers.catalogue import Peer, choose
from claprt_bench.peers.figures import row
from claprt_bench.peers.sides import Side, Sides, Step
from claprt_bench.peers.worker import SIDES, Limits, WorkerError

_MIN_CLIPS = 8
_FEW_ROUNDS = 11


@dataclass(frozen=True)
class AgainstOptions:
    """How to compare.

    Attributes:
        checkpoint: that peers load: a directory as transformers saves one, a hub id, "demo", "demo-fused", one of
            LAION's .pt files. None takes what the bundle's manifest names. Its weights must be the bundle's.
        tokenizer: of a .pt file; None is roberta-base.
        pythons: the Python of an environment that has a peer, by the peer's name; the others run on the current one.
        precisions: of claprt; each is compared with each peer.
        batches: clips of one call.
        threads: of every side; None takes the cores that this process may use.
        rounds: timed runs of each side.
        warm_up: rounds before them that are not timed.
        pause: seconds before each run.
        recordings: where the clips come from; None makes them.
        limits: how long a side may take.
    """

    checkpoint: str | None = None
    tokenizer: str | None = None
    pythons: Mapping[str, Path] = field(default_factory=dict)
    precisions: Sequence[str] = ("fp32",)
    batches: Sequence[int] = (1, 8)
    threads: int | None = None
    rounds: int = 15
    warm_up: int = 2
    pause: float = 0.2
    recordings: Path | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class AgainstResult:
    """What came out.

    Attributes:
        rows: entries of a speed document's "against".
        left_out: entries of its "left_out": peers that did not run, and why.
        warnings: what the user should know.
        inputs: what the clips are.
    """

    rows: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    warnings: list[str]
    inputs: str


def run_against(bundle: Path, peers: Sequence[str], options: AgainstOptions | None = None) -> AgainstResult:
    """Compare a bundle with peers. A peer that cannot run is left out; the stock export is always one.

    Args:
        bundle: its directory.
        peers: names of `catalogue.PEERS`.
        options: None takes the defaults.

    Raises:
        BenchError: no peer can run, claprt's own values are wrong, or the checkpoint is not the bundle's.
        OptionError: an option that is not allowed.
        MissingExtraError: the checkpoint cannot be read without claprt[export].
        BundleError: the bundle cannot be used.
    """
    options = options or AgainstOptions()
    chosen = choose(peers, options.pythons)
    manifest = open_bundle(bundle).manifest
    _check(options, manifest)
    with tempfile.TemporaryDirectory(prefix="claprt-against-") as directory, contextlib.ExitStack() as stack:
        return _Against(bundle.resolve(), manifest, chosen, options, Path(directory), stack).run()


def _check(options: AgainstOptions, manifest: Manifest) -> None:
    threads = 1 if options.threads is None else options.threads
    if options.rounds < 1 or options.warm_up < 0 or not 0 <= options.pause <= 60 or threads < 1:
        raise OptionError("rounds and threads must be at least 1, warm-up rounds at least 0, the pause 0 to 60 s")
    if not options.batches or min(options.batches) < 1 or not options.precisions:
        raise OptionError("nothing to compare: batches must be at least 1, and at least one precision named")
    for precision in options.precisions:
        if precision not in manifest.precisions:
            raise OptionError(f"the bundle has no {precision}; it has {', '.join(manifest.precisions)}")


class _Against:
    """One comparison while it runs."""

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        chosen: list[Peer],
        options: AgainstOptions,
        directory: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self.bundle, self.manifest, self.chosen, self.options = bundle, manifest, chosen, options
        self.precisions = list(dict.fromkeys(options.precisions))
        self.threads = options.threads or default_threads()
        self.ours: dict[str, Side] = {}
        self.theirs: dict[str, Side] = {}
        self.left_out: list[dict[str, str]] = []
        self.warnings: list[str] = []
        if options.rounds < _FEW_ROUNDS:
            self.warnings.append(
                f"ratios of {options.rounds} rounds: their intervals take {_FEW_ROUNDS} or more; pass --rounds"
            )
        log_mel = manifest.audio.log_mel
        self.inputs, waveforms = clips(log_mel, options.recordings, max(_MIN_CLIPS, *options.batches))
        rate, limits = log_mel.sampling_rate, options.limits
        self.sides = Sides(directory, waveforms, rate, options.batches, self.threads, limits, stack)

    def run(self) -> AgainstResult:
        sides = len(self.precisions) + len(self.chosen)
        runs = (self.options.rounds + self.options.warm_up) * len(self.sides.steps)
        with Progress("against", 2 + sides * (1 + runs), "run") as progress:
            progress.note("checkpoint")
            made = self._checkpoint()
            progress.advance()
            self._load_ours(progress)
            for peer in self.chosen:
                progress.note(peer.name)
                self._load_peer(peer, made)
                progress.advance()
            self._need_peers()
            if "fp32" not in self.precisions:
                self.ours["fp32"].worker.close()
            rows = [entry for step in self.sides.steps for entry in self._rows(step, progress)]
            self._need_peers()
        return AgainstResult(rows, self.left_out, self.warnings, self.inputs)

    def _checkpoint(self) -> dict[str, Any]:
        source, named = self.manifest.model.source, self.options.checkpoint
        wants = [peer.needs for peer in self.chosen]
        revision, sha256 = self.manifest.model.revision, self.manifest.model.weights_sha256
        try:
            return self.sides.checkpoint(
                source if named is None else named,
                revision if named is None else None,
                self.options.tokenizer,
                sha256,
                wants,
            )
        except BenchError as error:
            if named is None:
                raise BenchError(f"{error} (the bundle says that its source is {source!r})") from error
            raise

    def _load_ours(self, progress: Progress) -> None:
        """Our own sides in each precision, and in FP32 for the values whether that is timed or not."""
        for precision in dict.fromkeys(["fp32", *self.precisions]):
            name = f"claprt {precision}"
            progress.note(name)
            job = {"bundle": str(self.bundle), "precision": precision}
            side = self.ours[precision] = self.sides.load(name, SIDES / "with_claprt.py", None, name, job)
            for step, vectors in side.vectors.items():
                expected = self.ours["fp32"].vectors[step]
                check_vectors(f"{step[0]}, {name}, batch {step[1]}", vectors, expected, _tower(step), precision)
            progress.advance()
        check_spread(self.ours["fp32"].vectors[self.sides.steps[0]])

    def _load_peer(self, peer: Peer, made: dict[str, Any]) -> None:
        """Start a peer and check its values, or note why not."""
        python = self.options.pythons.get(peer.name)
        try:
            if peer.needs in made["refused"]:
                raise BenchError(made["refused"][peer.needs])
            work = self.sides.directory / peer.name
            job = made | dict(peer.settings) | {"work": str(work)}
            # laion-clap takes directories of the place where it works for repositories of the hub.
            place = "checkpoint" if peer.needs == "laion" else peer.name
            side = self.sides.load(peer.name, peer.file, python, place, job)
            try:
                self._check_peer(peer, side)
            except BenchError:
                side.worker.close()
                raise
        except BenchError as error:
            self._leave_out(peer, _reason(peer, error, python), warn=python is not None)
        else:
            self.theirs[peer.name] = side

    def _check_peer(self, peer: Peer, side: Side) -> None:
        """Its vectors must be claprt's in FP32, of the same samples."""
        for step, vectors in side.vectors.items():
            expected = self.ours["fp32"].vectors[step]
            if step[0] == "waveform" and peer.int16 != self.manifest.audio.log_mel.int16:
                expected, vectors = (self.sides.rounded(one, step[1]) for one in (self.ours["fp32"], side))
                note = (
                    f"{peer.name if peer.int16 else 'claprt, with this bundle,'} rounds samples to int16 and the other "
                    "side does not: values were checked on clips that had been rounded, the cosine is of those timed"
                )
                side.notes.setdefault(f"{step[0]}/b{step[1]}", []).append(note)
            check_vectors(f"{step[0]}, batch {step[1]}", vectors, expected, _tower(step), "fp32")

    def _rows(self, step: Step, progress: Progress) -> Iterator[dict[str, Any]]:
        """Time a step of all sides, and compare each precision with each peer."""
        progress.note(f"{step[0]}, batch {step[1]}")
        samples = self._samples(step, progress)
        for precision in self.precisions:
            for name, side in self.theirs.items():
                computes = [f"{name} computes in FP32"] * (precision != "fp32")
                yield row(
                    step,
                    precision,
                    self.threads,
                    name,
                    side.versions,
                    ours=samples[f"claprt {precision}"],
                    theirs=samples[name],
                    accuracy=difference(self.ours[precision].vectors[step], side.vectors[step]),
                    notes=[*side.notes_of(step), *computes],
                )

    def _samples(self, step: Step, progress: Progress) -> dict[str, list[float]]:
        """Milliseconds by side; element i of every list is from round i. A peer that fails now is left out."""
        sides = {f"claprt {precision}": self.ours[precision] for precision in self.precisions} | self.theirs
        samples: dict[str, list[float]] = {name: [] for name in sides}
        for index in range(-self.options.warm_up, self.options.rounds):
            picked = self.sides.picked(step, index)
            for name in turns(list(samples), index):
                time.sleep(self.options.pause)
                try:
                    seconds = sides[name].worker.seconds(step[0], picked)
                except WorkerError as error:
                    if name not in self.theirs:
                        raise
                    self.theirs.pop(name).worker.close()
                    del samples[name]
                    self._leave_out(next(peer for peer in self.chosen if peer.name == name), str(error), warn=True)
                else:
                    samples[name] += [seconds * 1000] * (index >= 0)
                progress.advance()
        return samples

    def _leave_out(self, peer: Peer, reason: str, warn: bool) -> None:
        self.left_out.append({"what": f"peer {peer.name}", "why": reason})
        if warn:
            self.warnings.append(f"peer {peer.name} is left out: {reason}")

    def _need_peers(self) -> None:
        if not self.theirs:
            reasons = "; ".join(f"{entry['what']}: {entry['why']}" for entry in self.left_out)
            raise BenchError(f"nothing to compare with: {reasons}")


def _reason(peer: Peer, error: BenchError, python: Path | None) -> str:
    missing = error.missing if isinstance(error, WorkerError) else None
    if missing is None:
        return str(error)
    if python is not None:
        return f"{python} has no {missing}; install it there: pip install {peer.install}"
    return (
        f"{missing} is not installed here; pip install {peer.install}, in an environment of its own if need be, "
        f"whose Python --peer-python {peer.name}=PATH names"
    )


def _tower(step: Step) -> str:
    return "text" if step[0] == "text" else "audio"
