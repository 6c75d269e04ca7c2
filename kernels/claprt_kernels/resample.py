"""`Resampler`: PCM of other rates and channels to mono at the model's rate, on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from claprt_kernels import device_array
from claprt_kernels.errors import KernelInputError, KernelLaunchError, KernelSpecError
from claprt_kernels.fatbin import fatbin
from claprt_kernels.launcher import Launcher, open_launcher
from claprt_kernels.staging import TableRing, check_batch

CLIP = np.dtype([("offset", np.int64), ("length", np.int64), ("out_offset", np.int64)])
ARGUMENTS = np.dtype(
    [
        ("pcm", np.uint64),
        ("clips", np.uint64),
        ("taps", np.uint64),
        ("out", np.uint64),
        ("pcm_frames", np.int64),
        ("out_samples", np.int64),
        ("channels", np.int32),
        ("up", np.int32),
        ("down", np.int32),
        ("tap_count", np.int32),
        ("gain", np.float32),
    ],
    align=True,
)
THREADS = 256
MAX_CHANNELS = 64
_SPAN = 3072  # input frames that a block of the kernel has room for
_MAX_UP = 1024

# The band that passes ends at 0.913 of the lower rate's half, as soxr's "HQ" does; at that half it is gone.
_PASSBAND = 0.913
_REJECTION_DB = 120.0


def ratio(in_rate: int, out_rate: int) -> tuple[int, int]:
    """(up, down): the rates, reduced.

    Raises:
        KernelSpecError: a rate is not positive, or the kernel has no room for the filter of this pair.
    """
    if in_rate < 1 or out_rate < 1:
        raise KernelSpecError(f"rates are positive, not {in_rate} and {out_rate} Hz")
    divisor = math.gcd(in_rate, out_rate)
    up, down = out_rate // divisor, in_rate // divisor
    if up > _MAX_UP or THREADS * down // up + tap_count(up, down) + 2 > _SPAN:
        raise KernelSpecError(
            f"the kernel does not resample {in_rate} to {out_rate} Hz (by {up} / {down}); it does 8, 11.025, 16, "
            "22.05, 24, 32, 44.1, 88.2, 96, 192 kHz and others with a simple ratio: resample on the host"
        )
    return up, down


def tap_count(up: int, down: int) -> int:
    """Taps of each phase of the filter: a multiple of 4. Where the rates are equal nothing is filtered."""
    if up == down:
        return 4
    width = math.pi * (1.0 - _PASSBAND) * min(1.0, up / down)  # of the transition, radians per input sample
    return 4 * math.ceil((_REJECTION_DB - 7.95) / (2.285 * width) / 4)  # Kaiser (1974)


def filter_taps(up: int, down: int) -> NDArray[np.float32]:
    """The filter, float32 (taps, up): a sinc under a Kaiser window, every phase of sum 1."""
    taps = tap_count(up, down)
    if up == down:  # channels are mixed, no more
        return np.eye(taps, 1, 1 - taps // 2, dtype=np.float32)
    cutoff = 0.5 * (1.0 + _PASSBAND) * 0.5 * min(1.0, up / down)  # cycles per input sample
    beta = 0.1102 * (_REJECTION_DB - 8.7)
    distance = np.arange(up)[None] / up + taps / 2 - 1 - np.arange(taps)[:, None]
    window = np.i0(beta * np.sqrt(np.maximum(0.0, 1.0 - (distance / (taps / 2)) ** 2))) / np.i0(beta)
    response = 2.0 * cutoff * np.sinc(2.0 * cutoff * distance) * window
    return np.asarray(response / response.sum(axis=0), dtype=np.float32)


def resampled_length(frames: int, up: int, down: int) -> int:
    """Samples after conversion: frames·up / down rounded half up, at least 1."""
    return max(1, (2 * frames * up + down) // (2 * down))


def resample_arguments(
    up: int,
    down: int,
    *,
    samples: np.dtype[Any],
    channels: int,
    pcm: int,
    pcm_frames: int,
    clips: int,
    taps: int,
    out: int,
    out_samples: int,
) -> NDArray[np.void]:
    """The kernel's argument, an `ARGUMENTS` scalar in an array of shape (); addresses are of device memory."""
    gain = 1.0 / (channels * (32768.0 if samples == np.int16 else 1.0))
    fields = (pcm, clips, taps, out, pcm_frames, out_samples, channels, up, down, tap_count(up, down), gain)
    return np.array(fields, dtype=ARGUMENTS)


class Resampler:
    """PCM to mono float32 at another rate, for batches of clips, in one kernel launch each.

        y[n] = Σ_t taps[t, n·down mod up] · x[floor(n·down / up) - taps / 2 + 1 + t],   x: mean of a frame's channels

    Up to 0.9 of the lower rate's half, what differs from the exact signal is 115 dB below it; from that half on, 110 dB
    and more are taken away. Linear phase, no delay; a clip is silent outside of itself. soxr's "HQ", which the runtime
    uses on a CPU, differs by -130 dB in the middle of the band and by -62 dB (0.007 dB less) at 0.9.
    """

    def __init__(
        self,
        in_rate: int,
        out_rate: int = 48_000,
        *,
        channels: int = 1,
        max_batch: int = 64,
        device: int = 0,
        launcher: Launcher | None = None,
    ) -> None:
        """Load the kernel and put its filter on the device.

        Args:
            in_rate, out_rate: Hz. Their ratio must be simple: 8, 11.025, 16, 22.05, 24, 32, 44.1, 88.2, 96 and 192 to
                48 kHz are.
            channels: of the input, interleaved, 1 … 64; their mean is resampled.
            max_batch: the most clips of a call, 1 … 65535.
            device: CUDA's number of the GPU; for `launcher` None.
            launcher: what to launch through; None is `open_launcher(device)`.

        Raises:
            KernelSpecError: the kernel does not do this pair of rates.
            KernelInputError: `channels` or `max_batch` has a value that cannot be.
            KernelUnavailableError: no GPU, no driver, no CUDA library, or no kernel in this package.
            DeviceMemoryError: there is not enough device memory.
        """
        self.up, self.down = ratio(in_rate, out_rate)
        if not 1 <= channels <= MAX_CHANNELS:
            raise KernelInputError(f"channels is {channels!r}; it must be 1 … {MAX_CHANNELS}")
        check_batch(max_batch)
        self.channels = channels
        self.max_batch = max_batch
        image = fatbin()
        self._launcher: Launcher = open_launcher(device) if launcher is None else launcher
        names = {np.dtype(np.int16): "resample_int16", np.dtype(np.float32): "resample_fp32"}
        self._functions = {dtype: (name, self._launcher.function(image, name)) for dtype, name in names.items()}
        self._clips = TableRing(self._launcher, filter_taps(self.up, self.down), CLIP, max_batch)

    def out_clips(self, clips: Sequence[tuple[int, int]] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Where the results of clips go, back to back: (offset, length) in samples, int64 (n, 2), for `LogMel`."""
        lengths = [resampled_length(int(length), self.up, self.down) for _, length in np.asarray(clips).tolist()]
        return np.stack([np.cumsum([0, *lengths[:-1]]), lengths], axis=1).astype(np.int64)

    def __call__(
        self,
        pcm: Any,
        clips: Sequence[tuple[int, int]] | NDArray[np.integer],
        *,
        out: Any,
        stream: Any = None,
        pcm_samples: int | None = None,
        pcm_dtype: DTypeLike | None = None,
        out_samples: int | None = None,
    ) -> NDArray[np.int64]:
        """Launch the kernel on a stream; returns before it is done. As with `LogMel`, no other stream is waited for.

        Args:
            pcm: int16 (full scale 32768) or float32 (full scale 1) in device memory, interleaved, (n · channels,) or
                (n, channels), anything with `__cuda_array_interface__`; or an address, with `pcm_samples` (n ·
                channels) and `pcm_dtype`.
            clips: where each clip lies in `pcm`, (offset, length) in frames (samples of one channel), in host memory.
            out: float32 (m,) in device memory, anything with `__cuda_array_interface__`; or an address, with
                `out_samples`. The results lie there back to back, full scale 1.
            stream: the launcher's; None is the default stream.
            pcm_samples, pcm_dtype, out_samples: for addresses only.

        Returns:
            `out_clips(clips)`: what `LogMel` takes as its clips.

        Raises:
            KernelInputError: a clip is empty or outside of `pcm`, there are none or too many, `out` is too small, or a
                dtype, shape or address is not as above. Nothing is launched then.
            KernelLaunchError: CUDA refused the launch, or an earlier one failed.
        """
        source, dtype, shape = device_array.samples(pcm, pcm_samples, pcm_dtype)
        flat = len(shape) == 1 and shape[0] % self.channels == 0
        if not (flat or (len(shape) == 2 and shape[1] == self.channels)) or math.prod(shape) == 0:
            raise KernelInputError(f"pcm of shape {shape} is not interleaved sound of {self.channels} channels")
        frames = math.prod(shape) // self.channels
        pairs = device_array.clip_pairs(clips, self.max_batch, frames, "frames")
        results = self.out_clips(pairs)
        target, room = _room(out, out_samples)
        needed = int(results[-1].sum())
        if room < needed:
            raise KernelInputError(f"out has room for {room} samples; these clips need {needed}")
        table = np.zeros(len(pairs), dtype=CLIP)
        table["offset"], table["length"], table["out_offset"] = pairs[:, 0], pairs[:, 1], results[:, 0]
        name, function = self._functions[dtype]
        grid = (-(-int(results[:, 1].max()) // THREADS), len(pairs))
        with self._clips.on_device(table, stream) as address:
            argument = resample_arguments(
                self.up,
                self.down,
                samples=dtype,
                channels=self.channels,
                pcm=source,
                pcm_frames=frames,
                clips=address,
                taps=self._clips.constants,
                out=target,
                out_samples=room,
            )
            try:
                self._launcher.launch(function, grid, THREADS, argument, stream)
            except KernelLaunchError as error:
                raise KernelLaunchError(f"{name} for {len(pairs)} clips: {error}") from error
        return results

    def close(self) -> None:
        """Wait for what is under way and give the device memory back. The object cannot be used afterwards."""
        self._clips.close()


def _room(out: Any, count: int | None) -> tuple[int, int]:
    """Address of the result, and how many samples there is room for."""
    dtype = np.dtype(np.float32)
    if isinstance(out, int):
        if count is None:
            raise KernelInputError("out is an address: pass out_samples with it")
        address, room = out, int(count)
    else:
        address, dtype, shape = device_array.array(out, "out")
        if count is not None:
            raise KernelInputError("out says itself what it holds: pass no out_samples with it")
        if dtype != np.float32 or len(shape) != 1:
            raise KernelInputError(f"out is {dtype} of shape {shape}; the kernel writes float32 (m,)")
        room = int(shape[0])
    device_array.check_address(address, dtype, "out")
    return address, room
