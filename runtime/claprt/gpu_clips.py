"""Clips -> vectors on a GPU: PCM goes up, the log-Mel kernel writes the tower's input, vectors come down.

A batch has a slot: pinned memory that its clips' samples are copied into as they are decoded, one upload, the kernel
and the tower on the slot's own stream, one download. While a batch runs, the next one is decoded into the other slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.clip import Clip, FusionClip, Samples
from claprt.cpu_clips import Owned
from claprt.engines.device import DeviceEngine, Slot, explained
from claprt.errors import BackendError
from claprt.log_mel import LogMel
from claprt.manifest import AudioInfo

_WHOLE = 16  # clips: 160 s
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
                        while (slot := self._engine.take(wait=not running)) is None:
                            yield from self._finish(running)
                        filling = _Batch(slot, self._engine.most, self._info)
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
                self._engine.give(batch.slot)

    def _start(self, batch: _Batch) -> None:
        """Put a batch on its stream; where memory does not suffice for it, do it in parts, and wait for them."""
        rows = len(batch.owners)
        batch.upload()
        try:
            self._run(batch, 0, rows)
        except MemoryError as error:
            self._engine.shrink(rows, error)
            batch.vectors = np.concatenate(list(self._in_parts(batch)))

    def _in_parts(self, batch: _Batch) -> Iterator[NDArray[np.float32]]:
        first, rows = 0, len(batch.owners)
        while first < rows:
            count = min(rows - first, self._engine.most)
            try:
                self._run(batch, first, count)
            except MemoryError as error:
                self._engine.shrink(count, error)
                continue
            yield batch.slot.wait(count)
            first += count

    def _run(self, batch: _Batch, first: int, count: int) -> None:
        slot, info = batch.slot, self._info
        self._kernel(
            slot.device("pcm", 0),
            batch.places[first : first + count],
            out=slot.inputs["input_features"],
            stream=slot.stream,
            pcm_samples=batch.samples,
            pcm_dtype=batch.dtype,
            out_dtype=_FLOAT32,
        )
        for row, features in batch.features.items():
            if first <= row < first + count:
                slot.upload("input_features", features[None], first=row - first)
        shapes: dict[str, tuple[int, ...]] = {
            "input_features": (count, info.channels, info.log_mel.frames, info.log_mel.n_mels)
        }
        if info.fusion:
            slot.upload("is_longer", np.array(batch.is_longer[first : first + count])[:, None])
            shapes["is_longer"] = (count, 1)
        slot.enqueue(shapes)

    def _finish(self, running: deque[_Batch]) -> Iterator[Owned[NDArray[np.float32]]]:
        """Wait for the oldest batch, and give its slot back before its vectors are handed on."""
        batch = running[0]
        vectors = batch.slot.wait(len(batch.owners)) if batch.vectors is None else batch.vectors
        running.popleft()
        self._engine.give(batch.slot)
        yield from zip(batch.owners, vectors, strict=True)


class _Batch:
    """Clips that are copied one behind the other into a slot's pinned memory."""

    def __init__(self, slot: Slot, most: int, info: AudioInfo) -> None:
        self.slot, self._most = slot, min(most, slot.most)
        self._room = info.log_mel.clip_samples + info.log_mel.hop_length  # samples of a clip, at most
        self.owners: list[int] = []
        self.places: list[tuple[int, int]] = []  # offset and length in samples
        self.is_longer: list[bool] = []
        self.features: dict[int, NDArray[np.float32]] = {}  # of rows that NumPy computed
        self.samples = 0
        self.dtype: np.dtype[Any] = _FLOAT32
        self.vectors: NDArray[np.float32] | None = None  # if they are there already

    @property
    def full(self) -> bool:
        return len(self.owners) >= self._most or self.samples >= self._most * self._room

    @property
    def used(self) -> int:
        """Bytes of the samples."""
        return self.samples * self.dtype.itemsize

    def add(self, owner: int, clip: Clip, log_mel: LogMel) -> None:
        """Take on a clip."""
        if not isinstance(clip, FusionClip):
            waveform: Samples = clip.waveform
        else:
            self.features[len(self.owners)] = recipes.features(clip, log_mel, 4)
            waveform = np.zeros(1, np.float32)  # something for the kernel, which writes every row
        if not self.owners:
            self.dtype = waveform.dtype
        elif waveform.dtype != self.dtype:
            waveform = self._widened(waveform)
        staged = self._staged(self.samples + waveform.size)
        staged[self.samples :] = waveform
        self.owners.append(owner)
        self.places.append((self.samples, waveform.size))
        self.is_longer.append(clip.is_longer)
        self.samples += waveform.size

    def upload(self) -> None:
        """Copy all samples to the device, at once."""
        staged = self._staged(self.samples).view(np.uint8)
        address = self.slot.device("pcm", self.slot.pinned("pcm", staged.nbytes).nbytes)
        self.slot.launcher.copy(address, staged, self.slot.stream)

    def _widened(self, waveform: NDArray[Any]) -> NDArray[np.float32]:
        """A waveform as float32, in a batch that is float32 from now on: sounds of both kinds have met."""
        if self.dtype == _INT16:
            staged = self._staged(self.samples) * np.float32(1 / 32768)
            self.dtype = _FLOAT32
            self._staged(self.samples)[:] = staged
            return waveform
        widened: NDArray[np.float32] = waveform * np.float32(1 / 32768)
        return widened

    def _staged(self, samples: int) -> NDArray[Any]:
        """The first samples of the pinned memory, which grows with the batches that a slot has seen."""
        size = samples * self.dtype.itemsize
        memory = self.slot.pinned("pcm", 0)
        if memory.nbytes < size:
            kept = memory[: self.used].copy()
            steps = [step for step in self.slot.tower.steps if 4 * self._room * step >= size]
            memory = self.slot.pinned("pcm", 4 * self._room * steps[0] if steps else size)
            memory[: kept.nbytes] = kept
        return memory[:size].view(self.dtype)
