"""Sounds -> vectors: clips of many sounds go through the audio tower in batches, each sound's vectors are averaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import AudioInput, open_audio
from claprt.engines import Engine
from claprt.errors import AudioError
from claprt.log_mel import LogMel
from claprt.manifest import AudioInfo

ErrorHook = Callable[[int, AudioError], None]
ProgressHook = Callable[[int], None]


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
    """The audio half of a model: recipe, log-Mel, engine, mean. Holds no state between calls."""

    def __init__(self, engine: Engine, info: AudioInfo, dim: int, batch_size: int) -> None:
        """Make one for an engine.

        Args:
            engine: the audio tower.
            info: the manifest's account of it.
            dim: length of its vectors.
            batch_size: clips of one run.
        """
        self._engine, self._info, self._dim, self._batch_size = engine, info, dim, batch_size
        self._log_mel = LogMel(info.log_mel)

    def embed(
        self,
        sounds: Iterable[AudioInput],
        sampling_rate: int | None,
        recipe: str,
        on_error: ErrorHook | None = None,
        on_progress: ProgressHook | None = None,
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Embed sounds in order, with bounded memory.

        Args:
            sounds: paths, file objects, arrays.
            sampling_rate: Hz of the arrays; None is the model's own rate.
            recipe: "head", "windows" or "fusion".
            on_error: called with (index, error) for each sound that cannot be used; the others go on. Without it the
                error is raised.
            on_progress: called with the index of a sound whenever another clip of it was prepared.

        Returns:
            The indices of the sounds that were embedded, ascending, and their vectors (n, dim) float32 of unit length.
        """
        info = self._info
        spec = info.log_mel
        batch = _Batch(
            np.empty((self._batch_size, info.channels, spec.frames, spec.n_mels), dtype=np.float32),
            np.zeros((self._batch_size, 1), dtype=np.bool_),
        )
        sums: dict[int, NDArray[np.float64]] = {}  # of unit vectors, by sound
        for index, sound in enumerate(sounds):
            sums[index] = np.zeros(self._dim)
            try:
                with open_audio(sound, sampling_rate, default_rate=spec.sampling_rate) as source:
                    for clip in recipes.clips(source, spec, recipe, info.channels):
                        slot = len(batch.owners)
                        batch.features[slot] = recipes.features(clip, self._log_mel, info.channels)
                        batch.is_longer[slot] = clip.is_longer
                        batch.owners.append(index)
                        if batch.full:
                            self._flush(batch, sums)
                        if on_progress is not None:
                            on_progress(index)
            except AudioError as error:  # not the engine's errors: they are no fault of this sound
                if on_error is None:
                    if isinstance(sound, (str, os.PathLike)):
                        raise
                    raise type(error)(f"clip {index}: {error}") from error  # arrays have no name of their own
                del sums[index]
                on_error(index, error)
        self._flush(batch, sums)
        vectors = np.empty((len(sums), self._dim), dtype=np.float32)
        for row, total in enumerate(sums.values()):
            vectors[row] = unit(total)
        return list(sums), vectors

    def _flush(self, batch: _Batch, sums: Mapping[int, NDArray[np.float64]]) -> None:
        """Run the waiting clips and add their vectors to their sounds; a sound that failed meanwhile has no sum."""
        count = len(batch.owners)
        if count == 0:
            return
        inputs: dict[str, NDArray[np.generic]] = {"input_features": batch.features[:count]}
        if self._info.fusion:
            inputs["is_longer"] = batch.is_longer[:count]
        vectors = self._engine.run(inputs)
        for owner, vector in zip(batch.owners, vectors, strict=True):
            if owner in sums:
                sums[owner] += vector
        batch.owners.clear()


def unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Vectors scaled to unit length along the last axis, dtype kept."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: NDArray[np.floating] = vectors / np.maximum(norm, 1e-12)
    return result
