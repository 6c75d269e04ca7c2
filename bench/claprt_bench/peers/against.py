"""claprt against its peers: same inputs, same threads, in turn, every side in a process of its own, values checked first.

Processes of their own, because pins conflict, because idle threads of one library take cores from the next, and because
ONNX Runtime changes how its process computes subnormal floats (see `claprt_bench.reference`). On the CPU.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.bundle import open_bundle
from claprt.engines.ort import default_threads
from claprt.errors import MissingExtraError, OptionError
from claprt.manifest import Manifest
from claprt.progress import Progress
from claprt_bench.checks import check_spread, check_vectors, difference
from claprt_bench.errors import BenchError
from claprt_bench.inputs import TEXTS, clips
from claprt_bench.measure import turns
from claprt_bench.peers.catalogue import Peer, choose
from claprt_bench.peers.figures import row
from claprt_bench.peers.worker import SIDES, Limits, Worker, WorkerError

# A peer that rounds samples to int16 where the bundle does not: 16 bits of a quiet recording are few.
INT16_COSINE = 0.999
_MIN_CLIPS = 8
_CHECKPOINT = "with_checkpoint.py"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")


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
    limits: Limits = Limits()


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
    if options.rounds < 1 or options.warm_up < 0 or options.pause < 0 or (options.threads or 1) < 1:
        raise OptionError("rounds and threads must be at least 1, warm-up rounds and the pause at least 0")
    if not options.batches or min(options.batches) < 1 or not options.precisions:
        raise OptionError("nothing to compare: batches must be at least 1, and at least one precision named")
    for precision in options.precisions:
        if precision not in manifest.precisions:
            raise OptionError(f"the bundle has no {precision}; it has {', '.join(manifest.precisions)}")


@dataclass
class _Side:
    worker: Worker
    facts: dict[str, Any]
    vectors: dict[tuple[str, int], NDArray[np.float32]] = field(default_factory=dict)


class _Against:
    """One comparison while it runs. Everything that it makes is in one directory, every process in one stack."""

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
        self.directory, self.stack = directory, stack
        self.threads = options.threads or default_threads()
        self.ours: dict[str, _Side] = {}
        self.theirs: dict[str, _Side] = {}
        self.left_out: list[dict[str, str]] = []
        self.warnings: list[str] = []
        log_mel = manifest.audio.log_mel
        self.inputs, waveforms = clips(log_mel, options.recordings, max(_MIN_CLIPS, *options.batches))
        np.save(directory / "clips.npy", np.stack(waveforms).astype(np.float32))
        self.count = len(waveforms)
        self.job = {
            "clips": str(directory / "clips.npy"),
            "texts": list(TEXTS),
            "threads": self.threads,
            "sampling_rate": log_mel.sampling_rate,
            "batches": sorted(set(options.batches)),
        }
        self.steps = [("waveform", batch) for batch in self.job["batches"]] + [("text", len(TEXTS))]

    def run(self) -> AgainstResult:
        sides = len(self.options.precisions) + len(self.chosen)
        runs = (self.options.rounds + self.options.warm_up) * len(self.steps)
        with Progress("against", 1 + sides * (1 + runs), "run") as progress:
            progress.note("checkpoint")
            made = self._checkpoint()
            progress.advance()
            self._load_ours(progress)
            for peer in self.chosen:
                progress.note(peer.name)
                self._load_peer(peer, made)
                progress.advance()
            self._need_peers()
            rows = [entry for step, batch in self.steps for entry in self._rows(step, batch, progress)]
            self._need_peers()
        return AgainstResult(rows, self.left_out, self.warnings, self.inputs)

    def _checkpoint(self) -> dict[str, Any]:
        """What `workers/with_checkpoint.py` makes, in a process that ends before anything is timed."""
        source = self.options.checkpoint or self.manifest.model.source
        work = self.directory / "checkpoint"
        job = {
            "source": str(Path(source).resolve()) if Path(source).exists() else source,
            "tokenizer": self.options.tokenizer,
            "weights_sha256": self.manifest.model.weights_sha256,
            "wants": [peer.needs for peer in self.chosen],
            "work": str(work),
        }
        with self._worker("the checkpoint", SIDES / _CHECKPOINT, sys.executable, work) as worker:
            try:
                return worker.load(job)
            except WorkerError as error:
                if error.missing:
                    raise MissingExtraError(
                        f"peers load the checkpoint, which takes {error.missing}; pip install 'claprt[export]'"
                    ) from error
                hint = "" if self.options.checkpoint else "; pass what the bundle was built of as --checkpoint"
                raise BenchError(f"nothing for the peers to load: {error}{hint}") from error

    def _load_ours(self, progress: Progress) -> None:
        for precision in dict.fromkeys(["fp32", *self.options.precisions]):
            progress.note(f"claprt {precision}")
            name = f"claprt {precision}"
            worker = self._worker(name, SIDES / "with_claprt.py", sys.executable, self.directory / precision)
            side = _Side(worker, worker.load(self.job | {"bundle": str(self.bundle), "precision": precision}))
            self._fill(side)
            self.ours[precision] = side
            for (step, batch), vectors in side.vectors.items():
                expected, tower = self.ours["fp32"].vectors[step, batch], _tower(step)
                check_vectors(f"{step}, {name}, batch {batch}", vectors, expected, tower, precision)
            progress.advance(precision in self.options.precisions)
        check_spread(next(iter(self.ours["fp32"].vectors.values())))
        if "fp32" not in self.options.precisions:
            self.ours["fp32"].worker.close()

    def _load_peer(self, peer: Peer, made: dict[str, Any]) -> None:
        """Start a peer and check its values, or note why not."""
        python = self.options.pythons.get(peer.name)
        work = self.directory / peer.name
        try:
            if peer.needs in made["refused"]:
                raise WorkerError(made["refused"][peer.needs])
            # laion-clap looks for the directories made for it where it works.
            place = self.directory / "checkpoint" if peer.needs == "laion" else work
            worker = self._worker(peer.name, peer.file, python or sys.executable, place, other=python is not None)
            try:
                side = _Side(worker, worker.load(self.job | made | dict(peer.settings) | {"work": str(work)}))
                self._fill(side)
                self._check_peer(peer, side)
            except BaseException:
                worker.close()
                raise
        except BenchError as error:
            self._leave_out(peer, _reason(peer, error, python), warn=python is not None)
        else:
            self.theirs[peer.name] = side

    def _fill(self, side: _Side) -> None:
        """The vectors of every step, in the batches that will be timed."""
        for step, batch in self.steps:
            if step == "text":
                found = side.worker.vectors(step, range(batch))
            else:
                parts = [[(first + i) % self.count for i in range(batch)] for first in range(0, self.count, batch)]
                found = np.concatenate([side.worker.vectors(step, part) for part in parts])[: self.count]
            side.vectors[step, batch] = found

    def _check_peer(self, peer: Peer, side: _Side) -> None:
        notes = side.facts["notes"]
        for (step, batch), vectors in side.vectors.items():
            expected = self.ours["fp32"].vectors[step, batch]
            rounds_samples = peer.name == "laion" and step == "waveform" and not self.manifest.audio.log_mel.int16
            bound = INT16_COSINE if rounds_samples else None
            check_vectors(f"{step}, batch {batch}", vectors, expected, _tower(step), "fp32", bound)
            if rounds_samples:
                notes.setdefault(f"{step}/b{batch}", []).append(
                    f"laion-clap rounds samples to int16, this bundle does not; cosine needed {INT16_COSINE}"
                )

    def _rows(self, step: str, batch: int, progress: Progress) -> Iterator[dict[str, Any]]:
        """Time a step of all sides in turn."""
        ours = {f"claprt {precision}": self.ours[precision] for precision in self.options.precisions}
        samples = self._samples(ours, step, batch, progress)
        for precision in self.options.precisions:
            found = self.ours[precision].vectors[step, batch]
            for name, side in self.theirs.items():
                notes = side.facts["notes"]
                computes = [f"{name} computes in FP32"] * (precision != "fp32")
                yield row(
                    step,
                    precision,
                    batch,
                    self.threads,
                    name,
                    side.facts["versions"],
                    samples[f"claprt {precision}"],
                    samples[name],
                    difference(found, side.vectors[step, batch]),
                    [*notes.get(step, ()), *notes.get(f"{step}/b{batch}", ()), *computes],
                )

    def _samples(self, ours: dict[str, _Side], step: str, batch: int, progress: Progress) -> dict[str, list[float]]:
        """Milliseconds by side; element i of every list is from round i. A peer that fails now is left out."""
        samples: dict[str, list[float]] = {name: [] for name in (*ours, *self.theirs)}
        for index in range(-self.options.warm_up, self.options.rounds):
            progress.note(f"{step}, batch {batch}")
            picked = [(index + i) % self.count for i in range(batch)] if step == "waveform" else range(batch)
            for name in turns(list(samples), index):
                time.sleep(self.options.pause)
                side = ours.get(name) or self.theirs[name]
                try:
                    seconds = side.worker.seconds(step, picked)
                except WorkerError as error:
                    if name in ours:
                        raise
                    side.worker.close()
                    del self.theirs[name], samples[name]
                    peer = next(peer for peer in self.chosen if peer.name == name)
                    self._leave_out(peer, f"{error}", warn=True)
                    continue
                finally:
                    progress.advance()
                if index >= 0:
                    samples[name].append(seconds * 1000)
        return samples

    def _worker(self, name: str, side: Path, python: str | Path, work: Path, other: bool = False) -> Worker:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONHOME"}
        environment |= dict.fromkeys(_THREADS, str(self.threads))
        if side.name != _CHECKPOINT:
            environment["HF_HUB_OFFLINE"] = "1"  # all that a side loads is here; none must wait for a network
        work.mkdir(parents=True, exist_ok=True)
        # What a side compiles or unpacks goes with the directory, and is not there already when it starts.
        environment |= {"TMPDIR": str(work), "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
        if other:
            environment.pop("PYTHONPATH", None)  # another environment's packages must not be hidden by ours
        else:
            environment["PYTHONPATH"] = os.pathsep.join(str(Path(path).resolve()) for path in sys.path)
        worker = Worker(name, side, python, work, environment, self.options.limits)
        self.stack.callback(worker.close)
        return worker

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


def _tower(step: str) -> str:
    return "text" if step == "text" else "audio"
