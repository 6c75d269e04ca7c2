"""Clips -> vectors on a GPU: PCM goes up, the log-Mel kernel writes the tower's input, vectors come down.

A batch has pinned memory, which its clips' samples are copied into as they are decoded. A full one gets a slot for as
long as it takes to put it on the slot's stream: one upload, the kernel and the tower, one download. While a batch runs,
the next one is decoded.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.clip import Clip, FusionClip, Samples
from claprt.cpu_clips import Owned
from claprt.engines.device import DeviceEngine, Slot, Staging, explained
from claprt.errors import BackendError
from claprt.log_mel import LogMel
from claprt.manifest import AudioInfo

_WHOLE = 16  # clips: 160 s
_RUNNING = 1  # batches of a call that run while its next one is decoded
_INT16, _FLOAT32 = np.dtype(np.int16), np.dtype(np.float32)


class GpuClips:
    """A tower on a GPU, and the log-Mel kernel before it. See `claprt.embedder.ClipVectors`.

    With fusion the kernel makes all four channels, of sounds up to `keeps_whole` samples, which go up whole. Of longer
    ones, hours perhaps, NumPy computes the log-Mel, and that goes up.
    """

    takes_int16 = True

    def __init__(self, engine: DeviceEngine, info: AudioInfo) -> None:
        """Load the kernel onto the engine's GPU.

        Args:
            engine: the audio tower.
            info: the manifest's account of it.

        Raises:
            BackendError: the kernel does not compute this log-Mel, or cannot run here.
        """
        import claprt_kernels

        self._engine, self._info = engine, info
        self.keeps_whole = _WHOLE * info.log_mel.clip_samples
        self._log_mel = LogMel(info.log_mel)
        self._idle: list[Staging] = []  # of batches that are done
        self._lock = threading.Lock()
        try:
            self._kernel = claprt_kernels.LogMel(
                info.log_mel, channels=info.channels, max_batch=engine.most, launcher=engine.launcher
            )
        except claprt_kernels.KernelError as error:
            raise BackendError(
                f"the log-Mel kernel cannot be used: {error}; or load the bundle with log_mel='cpu'"
            ) from error

    def vectors(self, clips: Iterator[Owned[Clip]]) -> Generator[Owned[NDArray[np.float32]], None, None]:
        """See `claprt.embedder.ClipVectors`."""
        running: deque[_Batch] = deque()
        filling: _Batch | None = None
        try:
            with explained(self._engine.tower.name):
                for owner, clip in clips:
                    if filling is None:
                        while len(running) > _RUNNING:
                            yield from self._finish(running)
                        filling = self._batch()
                    filling.add(owner, clip, self._log_mel)
                    if filling.full:
                        running.append(filling)
                        filling = None
                        self._start(running[-1])
                if filling is not None:
                    running.append(filling)
                    filling = None
                    self._start(running[-1])
                while running:
                    yield from self._finish(running)
        finally:
            for batch in (*running, *([filling] if filling is not None else [])):
                self._leave(batch)

    def _batch(self) -> _Batch:
        with self._lock:
            staging = self._idle.pop() if self._idle else None
        return _Batch(
            staging or Staging(self._engine.launcher), self._engine.most, self._info, self._engine.tower.steps
        )

    def _leave(self, batch: _Batch) -> None:
        batch.staging.settle()
        with self._lock:
            self._idle.append(batch.staging)

    def _start(self, batch: _Batch) -> None:
        """Put a batch on a stream; where memory does not suffice for it, do it in parts, and wait for them."""
        rows, parts = len(batch.owners), []
        first = 0
        while first < rows:
            count = min(rows - first, self._engine.most)
            try:
                with self._engine.slot() as slot:
                    self._run(batch, slot, first, count)
                    if count < rows:
                        parts.append(batch.staging.vectors(count, slot.dim))
            except MemoryError as error:
                self._engine.relieve(error)
                continue
            first += count
        if parts:
            batch.vectors = np.concatenate(parts)

    def _run(self, batch: _Batch, slot: Slot, first: int, count: int) -> None:
        info, staging = self._info, batch.staging
        samples, places = batch.part(first, count)
        pcm = slot.device("pcm", batch.rounded(samples.nbytes))
        slot.launcher.copy(pcm, samples.view(np.uint8), slot.stream)
        self._kernel(
            pcm,
            places,
            out=slot.inputs["input_features"],
            stream=slot.stream,
            pcm_samples=samples.size,
            pcm_dtype=samples.dtype,
            out_dtype=_FLOAT32,
        )
        for row, features in batch.features.items():
            if first <= row < first + count:
                slot.upload("input_features", features[None], row - first, staging)
        shapes: dict[str, tuple[int, ...]] = {
            "input_features": (count, info.channels, info.log_mel.frames, info.log_mel.n_mels)
        }
        if info.fusion:
            slot.upload("is_longer", np.array(batch.is_longer[first : first + count])[:, None], staging=staging)
            shapes["is_longer"] = (count, 1)
        slot.enqueue(shapes, staging)

    def _finish(self, running: deque[_Batch]) -> Iterator[Owned[NDArray[np.float32]]]:
        """Wait for the oldest batch, and leave it before its vectors are handed on."""
        batch = running[0]
        vectors = batch.vectors
        if vectors is None:
            vectors = batch.staging.vectors(len(batch.owners), self._engine.dim)
        self._leave(running.popleft())
        yield from zip(batch.owners, vectors, strict=True)


class _Batch:
    """Clips that are copied one behind the other into pinned memory."""

    def __init__(self, staging: Staging, most: int, info: AudioInfo, steps: Sequence[int]) -> None:
        self.staging, self._most, self._steps = staging, most, steps
        self._room = info.log_mel.clip_samples + info.log_mel.hop_length  # samples of a clip, at most
        self.owners: list[int] = []
        self._places: list[tuple[int, int]] = []  # offset and length in samples
        self.is_longer: list[bool] = []
        self.features: dict[int, NDArray[np.float32]] = {}  # of rows that NumPy computed
        self._samples = 0
        self._dtype: np.dtype[Any] = _FLOAT32
        self.vectors: NDArray[np.float32] | None = None  # if they are there already

    @property
    def full(self) -> bool:
        return len(self.owners) >= self._most or self._samples >= self._most * self._room

    def add(self, owner: int, clip: Clip, log_mel: LogMel) -> None:
        """Take on a clip."""
        if not isinstance(clip, FusionClip):
            waveform: Samples = clip.waveform
        else:
            self.features[len(self.owners)] = recipes.features(clip, log_mel, 4)
            waveform = np.zeros(1, np.float32)  # something for the kernel, which writes every row
        if not self.owners:
            self._dtype = waveform.dtype
        elif waveform.dtype != self._dtype:
            waveform = self._widened(waveform)
        staged = self._staged(self._samples + waveform.size)
        staged[self._samples :] = waveform
        self.owners.append(owner)
        self._places.append((self._samples, waveform.size))
        self.is_longer.append(clip.is_longer)
        self._samples += waveform.size

    def part(self, first: int, count: int) -> tuple[NDArray[Any], list[tuple[int, int]]]:
        """Some of the clips: their samples, and where in these each of them is."""
        places = self._places[first : first + count]
        begin, end = places[0][0], sum(places[-1])
        return self._staged(self._samples)[begin:end], [(offset - begin, length) for offset, length in places]

    def rounded(self, size: int) -> int:
        """Bytes to allocate for samples of `size` bytes: as many as full clips of one of the tower's batches have."""
        unit = self._dtype.itemsize * self._room
        return next((unit * step for step in self._steps if unit * step >= size), size)

    def _widened(self, waveform: NDArray[Any]) -> NDArray[np.float32]:
        """A waveform as float32, in a batch that is float32 from now on: sounds of both kinds have met."""
        if self._dtype == _INT16:
            staged = self._staged(self._samples) * np.float32(1 / 32768)
            self._dtype = _FLOAT32
            self._staged(self._samples)[:] = staged
            return waveform
        widened: NDArray[np.float32] = waveform * np.float32(1 / 32768)
        return widened

    def _staged(self, samples: int) -> NDArray[Any]:
        """The first samples of the pinned memory, which grows with the batches that it has seen."""
        size = samples * self._dtype.itemsize
        memory = self.staging.memory("pcm", 0)
        if memory.nbytes < size:
            kept = memory[: self._samples * self._dtype.itemsize].copy()
            memory = self.staging.memory("pcm", self.rounded(size))
            memory[: kept.nbytes] = kept
        return memory[:size].view(self._dtype)
