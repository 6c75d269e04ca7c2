"""`claprt_kernels` called as the other implementations are called: from host memory, to host memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from tests.kernels.emulated import clip_table

from claprt.spec import LogMelSpec
from claprt_kernels import LogMel, Resampler, open_launcher


class GpuLogMel:
    """On the first GPU."""

    def __init__(self, library: str = "auto") -> None:
        self.launcher = open_launcher(library=library)

    def __call__(
        self,
        clips: Sequence[NDArray[np.generic]],
        spec: LogMelSpec,
        out: DTypeLike = np.float32,
        channels: int = 1,
        factor: ArrayLike = 1.0,
        summand: ArrayLike = 0.0,
    ) -> NDArray[np.floating]:
        """(batch, channels, frames, n_mels) of clips that lie back to back; what is not written stays NaN."""
        pcm = np.concatenate(clips)
        log_mel = LogMel(
            spec, channels=channels, max_batch=len(clips), factor=factor, summand=summand, launcher=self.launcher
        )
        result = np.full(log_mel.shape(len(clips)), np.nan, dtype=out)
        on_device = self.launcher.alloc(pcm.nbytes)
        target = self.launcher.alloc(result.nbytes)
        try:
            self.launcher.copy(on_device, pcm.view(np.uint8), None)
            self.launcher.copy(target, result.reshape(-1).view(np.uint8), None)
            log_mel(
                on_device,
                clip_table([clip.size for clip in clips]).tolist(),
                out=target,
                pcm_samples=pcm.size,
                pcm_dtype=pcm.dtype,
                out_dtype=result.dtype,
            )
            done = self.launcher.event()
            self.launcher.copy_back(result.reshape(-1).view(np.uint8), target, None)
            self.launcher.record(done, None)
            self.launcher.wait(done)
        finally:
            self.launcher.free(on_device)
            self.launcher.free(target)
            log_mel.close()
        return result


class GpuResampler:
    """`claprt_kernels.Resampler` on the first GPU."""

    def __init__(self, library: str = "auto") -> None:
        self.launcher = open_launcher(library=library)

    def __call__(
        self, clips: Sequence[NDArray[np.generic]], in_rate: int, out_rate: int, channels: int = 1
    ) -> list[NDArray[np.float32]]:
        """float32 (m,) of each clip, (n,) or (n, channels), in its own place; what is not written stays NaN."""
        pcm = np.concatenate([clip.reshape(-1) for clip in clips])
        table = clip_table([clip.size // channels for clip in clips]).tolist()
        resampler = Resampler(in_rate, out_rate, channels=channels, max_batch=len(clips), launcher=self.launcher)
        lengths = resampler.out_clips(table)[:, 1]
        result = np.full(int(lengths.sum()), np.nan, dtype=np.float32)
        on_device = self.launcher.alloc(pcm.nbytes)
        target = self.launcher.alloc(result.nbytes)
        try:
            self.launcher.copy(on_device, pcm.view(np.uint8), None)
            self.launcher.copy(target, result.view(np.uint8), None)
            resampler(on_device, table, out=target, pcm_samples=pcm.size, pcm_dtype=pcm.dtype, out_samples=result.size)
            done = self.launcher.event()
            self.launcher.copy_back(result.view(np.uint8), target, None)
            self.launcher.record(done, None)
            self.launcher.wait(done)
        finally:
            self.launcher.free(on_device)
            self.launcher.free(target)
            resampler.close()
        return np.split(result, np.cumsum(lengths)[:-1])
