"""Sounds -> vectors: a recipe cuts each sound into clips, a tower runs them, each sound's vectors are averaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import AudioInput, open_audio
from claprt.clip import Clip
from claprt.cpu_clips import Owned
from claprt.errors import AudioError
from claprt.manifest import AudioInfo

ErrorHook = Callable[[int, AudioError], None]
ProgressHook = Callable[[int], None]


class ClipVectors(Protocol):
    """Runs clips through the audio tower. Safe to use from several threads."""

    @property
    def takes_int16(self) -> bool:
        """Whether clips may hold int16."""
        ...

    @property
    def keeps_whole(self) -> int:
        """Samples of the longest sound that is wanted whole by the recipe "fusion"; 0 for none."""
        ...

    def vectors(self, clips: Iterator[Owned[Clip]]) -> Generator[Owned[NDArray[np.float32]], None, None]:
        """The vectors of clips, (dim,) float32 of unit length, in their order; bounded in how many wait or run."""
        ...


class AudioEmbedder:
    """The audio half of a model: recipe, clips' vectors, mean."""

    def __init__(self, runner: ClipVectors, info: AudioInfo, dim: int) -> None:
        """Make one.

        Args:
            runner: the audio tower, log-Mel included.
            info: the manifest's account of it.
            dim: length of its vectors.
        """
        self._runner, self._info, self._dim = runner, info, dim

    def embed(
        self,
        sounds: Iterable[AudioInput],
        sampling_rate: int | None,
        recipe: str,
        on_error: ErrorHook | None = None,
        on_progress: ProgressHook | None = None,
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Embed sounds in order, with bounded memory: few clips wait or run.

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
            closing(self._runner.vectors(clips)) as vectors,
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
    ) -> Generator[Owned[Clip], None, None]:
        """All clips and whose they are, read as they are asked for. Sounds enter `sums`; those that fail leave it."""
        spec = self._info.log_mel
        for index, sound in enumerate(sounds):
            sums[index] = np.zeros(self._dim)
            try:
                with open_audio(sound, sampling_rate, default_rate=spec.sampling_rate) as source:
                    clips = recipes.clips(
                        source,
                        spec,
                        recipe,
                        self._info.channels,
                        keep_int16=self._runner.takes_int16,
                        keep_whole=self._runner.keeps_whole,
                    )
                    for clip in clips:
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


def unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Vectors scaled to unit length along the last axis, dtype kept."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: NDArray[np.floating] = vectors / np.maximum(norm, 1e-12)
    return result
