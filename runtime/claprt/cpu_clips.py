"""Clips -> vectors with the log-Mel on the CPU: side by side where the engine has lanes, else in batches."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.clip import Clip
from claprt.engines import Engine
from claprt.lazy import after_fork
from claprt.log_mel import LogMel
from claprt.manifest import AudioInfo
from claprt.workers import Workers

_T = TypeVar("_T")
Owned = tuple[int, _T]  # with the index of the sound that it belongs to


@dataclass
class _Batch:
    """Clips that wait for the next run, and the sound that each belongs to."""

    features: NDArray[np.float32]
    is_longer: NDArray[np.bool_]
    owners: list[int] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.owners) == len(self.features)


class CpuClips:
    """An engine, and NumPy's log-Mel before it. See `claprt.embedder.ClipVectors`.

    Where the engine has lanes, a call with many clips runs as many at a time as there are lanes, log-Mel included. It
    does so in threads of its own, which end with the call: there is nothing to wait for when the process ends, and
    nothing missing after a fork. Calls at the same time share the lanes: however many they are, no more than `lanes` of
    their clips run side by side, and no more than two for each lane wait or run.
    """

    takes_int16 = False
    keeps_whole = 0

    def __init__(self, engine: Engine, info: AudioInfo, batch_size: int) -> None:
        """Make one for an engine.

        Args:
            engine: the audio tower.
            info: the manifest's account of it.
            batch_size: clips of one run that has the engine to itself.
        """
        self._engine, self._info, self._batch_size = engine, info, batch_size
        self._log_mel = LogMel(info.log_mel)
        self._renew()
        after_fork(self, CpuClips._renew)

    def _renew(self) -> None:
        self._free = threading.Semaphore(self._engine.lanes)  # lanes that no call uses

    def vectors(self, clips: Iterator[Owned[Clip]]) -> Generator[Owned[NDArray[np.float32]], None, None]:
        """See `claprt.embedder.ClipVectors`."""
        rest: Iterable[Owned[Clip]] = clips
        if self._engine.lanes > 1:
            rest = yield from self._in_lanes(clips)
        yield from self._in_batches(rest)

    def _in_lanes(self, clips: Iterator[Owned[Clip]]) -> Generator[Owned[NDArray[np.float32]], None, list[Owned[Clip]]]:
        """Run clips side by side, in waves of one for each lane.

        A wave that would leave half of the lanes idle or more can only be the last. It is returned instead: with all
        threads on one clip after the other it is done sooner.
        """
        lanes = self._engine.lanes
        wave = list(islice(clips, lanes))
        if 2 * len(wave) <= lanes:
            return wave
        lane = self._engine.lane()
        running: list[Owned[Future[NDArray[np.float32]]]] = []
        workers: Workers[NDArray[np.float32]] = Workers(lanes)
        with workers:
            while 2 * len(wave) > lanes:
                queued = [(owner, workers.submit(partial(self._in_lane, clip, lane))) for owner, clip in wave]
                for owner, future in running:
                    yield owner, future.result()
                running = queued
                wave = list(islice(clips, lanes))  # read while the queued ones run
            for owner, future in running:
                yield owner, future.result()
        return wave

    def _in_lane(self, clip: Clip, lane: Engine) -> NDArray[np.float32]:
        with self._free:
            batch = self._batch(1)
            self._add(batch, 0, clip)
            vector: NDArray[np.float32] = self._run(batch, lane)[0]
            return vector

    def _in_batches(self, clips: Iterable[Owned[Clip]]) -> Iterator[Owned[NDArray[np.float32]]]:
        batch = self._batch(self._batch_size)
        for owner, clip in clips:
            self._add(batch, owner, clip)
            if batch.full:
                yield from zip(batch.owners, self._run(batch, self._engine), strict=True)
                batch.owners.clear()
        if batch.owners:
            yield from zip(batch.owners, self._run(batch, self._engine), strict=True)

    def _batch(self, size: int) -> _Batch:
        spec = self._info.log_mel
        features = np.empty((size, self._info.channels, spec.frames, spec.n_mels), dtype=np.float32)
        return _Batch(features, np.zeros((size, 1), dtype=np.bool_))

    def _add(self, batch: _Batch, owner: int, clip: Clip) -> None:
        slot = len(batch.owners)
        batch.features[slot] = recipes.features(clip, self._log_mel, self._info.channels)
        batch.is_longer[slot] = clip.is_longer
        batch.owners.append(owner)

    def _run(self, batch: _Batch, engine: Engine) -> NDArray[np.float32]:
        count = len(batch.owners)
        inputs: dict[str, NDArray[np.generic]] = {"input_features": batch.features[:count]}
        if self._info.fusion:
            inputs["is_longer"] = batch.is_longer[:count]
        return engine.run(inputs)
