"""Sounds -> vectors: clips go through the audio tower side by side or in batches, each sound's vectors are averaged."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import AudioInput, open_audio
from claprt.engines import Engine
from claprt.errors import AudioError
from claprt.log_mel import LogMel
from claprt.manifest import AudioInfo
from claprt.recipes import Clip
from claprt.workers import Workers

ErrorHook = Callable[[int, AudioError], None]
ProgressHook = Callable[[int], None]

_T = TypeVar("_T")
_Owned = tuple[int, _T]  # with the index of the sound that it belongs to


@dataclass
class _Batch:
    """Clips that wait for the next run, and the sound that each belongs to."""

    features: NDArray[np.float32]
    is_longer: NDArray[np.bool_]
    owners: list[int] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.owners) == len(self.features)


class AudioEmbedder:
    """The audio half of a model: recipe, log-Mel, engine, mean.

    Where the engine has lanes, a call with many clips runs as many at a time as there are lanes, log-Mel included. It
    does so in threads of its own, which end with the call: there is nothing to wait for when the process ends, and
    nothing missing after a fork. Calls at the same time share the lanes: however many they are, no more than `lanes` of
    their clips run side by side.
    """

    def __init__(self, engine: Engine, info: AudioInfo, dim: int, batch_size: int) -> None:
        """Make one for an engine.

        Args:
            engine: the audio tower.
            info: the manifest's account of it.
            dim: length of its vectors.
            batch_size: clips of one run that has the engine to itself.
        """
        self._engine, self._info, self._dim, self._batch_size = engine, info, dim, batch_size
        self._log_mel = LogMel(info.log_mel)
        self._free = threading.Semaphore(engine.lanes)  # lanes that no call uses

    def embed(
        self,
        sounds: Iterable[AudioInput],
        sampling_rate: int | None,
        recipe: str,
        on_error: ErrorHook | None = None,
        on_progress: ProgressHook | None = None,
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Embed sounds in order, with bounded memory: no more than two clips per lane wait or run.

        Args:
            sounds: paths, file objects, arrays; taken and decoded in the calling thread.
            sampling_rate: Hz of the arrays; None is the model's own rate.
            recipe: "head", "windows" or "fusion".
            on_error: called with (index, error) for each sound that cannot be used; the others go on. Without it the
                error is raised.
            on_progress: called with the index of a sound whenever another clip of it was taken on.

        Returns:
            The indices of the sounds that were embedded, ascending, and their vectors (n, dim) float32 of unit length.
        """
        sums: dict[int, NDArray[np.float64]] = {}  # of unit vectors, by sound
        with (
            closing(self._clips(sounds, sampling_rate, recipe, sums, on_error, on_progress)) as clips,
            closing(self._vectors(clips)) as vectors,
        ):
            for owner, vector in vectors:
                if owner in sums:  # it has none when the sound failed meanwhile
                    sums[owner] += vector
        result = np.empty((len(sums), self._dim), dtype=np.float32)
        for row, total in enumerate(sums.values()):
            result[row] = unit(total)
        return list(sums), result

    def _clips(
        self,
        sounds: Iterable[AudioInput],
        sampling_rate: int | None,
        recipe: str,
        sums: dict[int, NDArray[np.float64]],
        on_error: ErrorHook | None,
        on_progress: ProgressHook | None,
    ) -> Generator[_Owned[Clip], None, None]:
        """All clips and whose they are, read as they are asked for. Sounds enter `sums`; those that fail leave it."""
        spec = self._info.log_mel
        for index, sound in enumerate(sounds):
            sums[index] = np.zeros(self._dim)
            try:
                with open_audio(sound, sampling_rate, default_rate=spec.sampling_rate) as source:
                    for clip in recipes.clips(source, spec, recipe, self._info.channels):
                        yield index, clip
                        if on_progress is not None:
                            on_progress(index)
            except AudioError as error:  # the engine's errors do not come by here: they are no fault of this sound
                if on_error is None:
                    if isinstance(sound, (str, os.PathLike)):
                        raise
                    raise type(error)(f"clip {index}: {error}") from error  # arrays have no name of their own
                del sums[index]
                on_error(index, error)

    def _vectors(self, clips: Iterator[_Owned[Clip]]) -> Generator[_Owned[NDArray[np.float32]], None, None]:
        """The vectors of clips, in their order."""
        rest: Iterable[_Owned[Clip]] = clips
        if self._engine.lanes > 1:
            rest = yield from self._in_lanes(clips)
        yield from self._in_batches(rest)

    def _in_lanes(
        self, clips: Iterator[_Owned[Clip]]
    ) -> Generator[_Owned[NDArray[np.float32]], None, list[_Owned[Clip]]]:
        """Run clips side by side, in waves of one for each lane.

        A wave that would leave half of the lanes idle or more can only be the last. It is returned instead: with all
        threads on one clip after the other it is done sooner.
        """
        lanes = self._engine.lanes
        wave = list(islice(clips, lanes))
        if 2 * len(wave) <= lanes:
            return wave
        lane = self._engine.lane()
        running: list[_Owned[Future[NDArray[np.float32]]]] = []
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

    def _in_batches(self, clips: Iterable[_Owned[Clip]]) -> Iterator[_Owned[NDArray[np.float32]]]:
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


def unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Vectors scaled to unit length along the last axis, dtype kept."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: NDArray[np.floating] = vectors / np.maximum(norm, 1e-12)
    return result
