"""What `claprt bench` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from claprt.errors import OptionError

PARTS = ("stages", "paths", "cold-start")
AXES = ("batch", "threads", "clip", "labels")
MAX_BATCH = 1024
_MAX_RATE = 1e6


@dataclass(frozen=True)
class SpeedOptions:
    """How a bundle is measured.

    Attributes:
        backend: of `claprt.load`; "auto" is resolved once, and what it chose is measured.
        precisions: of those that the bundle has; empty for FP32 alone.
        batches: items of a call.
        threads: CPU threads; None takes the cores that this process may use.
        device: CUDA's number of the GPU.
        duration: seconds of timed calls for each measurement, over all repeats.
        repeats: processes that share them. Each is started afresh, so that what changes from process to process counts.
        pause: seconds before each block of calls. Idle threads of the block before spin for a while.
        parts: of `PARTS`.
        rates: requests per second of the open loop, one run for each; empty for none.
        scaling: of `AXES`; empty for none.
        recordings: a folder of sounds to measure on; None makes sounds.
        against, checkpoint, tokenizer, peer_pythons, rounds: of `claprt_bench.peers.against`; no peers for none.
    """

    backend: str = "auto"
    precisions: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1, 8)
    threads: int | None = None
    device: int = 0
    duration: float = 5.0
    repeats: int = 5
    pause: float = 0.15
    parts: tuple[str, ...] = PARTS
    rates: tuple[float, ...] = ()
    scaling: tuple[str, ...] = ()
    recordings: Path | None = None
    against: tuple[str, ...] = ()
    checkpoint: str | None = None
    tokenizer: str | None = None
    peer_pythons: Mapping[str, Path] = field(default_factory=dict)
    rounds: int = 15

    def __post_init__(self) -> None:
        """Refuse what cannot be measured, before anything is.

        Raises:
            OptionError: with the value.
        """
        if not self.batches or any(not 1 <= batch <= MAX_BATCH for batch in self.batches):
            raise OptionError(f"bad batch: {list(self.batches)}; pass sizes from 1 to {MAX_BATCH}, such as 1,8,32")
        if not 0.01 <= self.duration <= 3600:
            raise OptionError(f"bad duration: {self.duration:g} s; pass 0.01 to 3600 seconds for each measurement")
        if not 1 <= self.repeats <= 1000:
            raise OptionError(f"bad number of repeats: {self.repeats}; pass 1 to 1000")
        if not 0 <= self.pause <= 60:
            raise OptionError(f"bad pause: {self.pause:g} s; pass 0 to 60 seconds")
        for name, chosen, known in (("part", self.parts, PARTS), ("axis of scaling", self.scaling, AXES)):
            unknown = [one for one in chosen if one not in known]
            if unknown:
                raise OptionError(f"unknown {name}: {unknown[0]!r}; choose of {', '.join(known)}")
        if any(not 0 < rate <= _MAX_RATE for rate in self.rates):
            raise OptionError(
                f"bad rate: {list(self.rates)}; pass requests per second above 0 and up to {_MAX_RATE:.0f}"
            )
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"bad number of threads: {self.threads}; pass at least 1")
        if self.against:
            from claprt_bench.peers.catalogue import choose

            choose(self.against, self.peer_pythons)
