"""`LogMel`: log-Mel spectrograms on a GPU, from device memory to device memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from claprt_kernels import device_array
from claprt_kernels.errors import KernelInputError, KernelLaunchError, KernelUnavailableError
from claprt_kernels.fatbin import fatbin
from claprt_kernels.launcher import Launcher, open_launcher
from claprt_kernels.layout import CLIP, THREADS, check_spec, kernel_arguments, kernel_grid, kernel_name, kernel_tables
from claprt_kernels.staging import TableRing, check_batch

if TYPE_CHECKING:
    from claprt.spec import LogMelSpec

_RESULTS = (np.dtype(np.float16), np.dtype(np.float32))


def is_available(device: int = 0, library: str = "auto") -> bool:
    """Whether `LogMel` can run on this device; `library` as `open_launcher` takes it."""
    return why_unavailable(device, library) is None


def why_unavailable(device: int = 0, library: str = "auto") -> str | None:
    """Why `LogMel` cannot run on this device, and what to do; None if it can: a kernel has been loaded then."""
    try:
        image = fatbin()
        launcher = open_launcher(device, library)
    except KernelUnavailableError as error:
        return str(error)
    try:
        launcher.function(image, "log_mel_int16_fp16_narrow")
    except KernelLaunchError as error:
        from claprt_kernels.compile import OLDEST

        major, minor = launcher.compute_capability
        version = launcher.driver_version
        return (
            f"the kernels of this package do not load on {launcher.name} (compute capability {major}.{minor}, driver "
            f"for CUDA {version // 1000}.{version % 1000 // 10}): {error}; they are for {OLDEST // 10}.{OLDEST % 10} "
            "and newer: update the driver, or run python -m claprt_kernels.compile with a toolkit that it knows"
        )
    return None


class LogMel:
    """Log-Mel spectrograms of batches of clips, on one GPU, in one kernel launch each.

        out[b, c, t, m] = 10·log10(max(Σ_k |STFT(clip b)[t, k]|² · bank[k, m], log_floor)) · factor[m] + summand[m]

    A call allocates nothing and waits for nothing, unless 16 earlier calls have not finished. Several threads may call.
    Up to 16 calls may be captured (`Launcher.capture`): a replay computes the same clips of what is in `pcm` then. The
    graphs need this object: they must not be replayed after `close`.
    """

    def __init__(
        self,
        spec: LogMelSpec,
        *,
        channels: int = 1,
        max_batch: int = 64,
        factor: ArrayLike = 1.0,
        summand: ArrayLike = 0.0,
        device: int = 0,
        launcher: Launcher | None = None,
    ) -> None:
        """Load the kernel and put its tables on the device.

        Args:
            spec: of the bundle (`manifest.audio.log_mel`).
            channels: of the model's input: 1, or 4 with fusion. With 1 a clip is cut at `spec.clip_samples`; with 4 a
                longer one gives the shrunk whole and three crops, a shorter one the same four times.
            max_batch: the most clips of a call, 1 … 65535.
            factor, summand: applied to the decibels of each band; numbers or (n_mels,).
            device: CUDA's number of the GPU; for `launcher` None.
            launcher: what to launch through; None is `open_launcher(device)`.

        Raises:
            KernelSpecError: the kernel does not compute this specification.
            KernelInputError: `channels`, `max_batch`, `factor` or `summand` has a value that cannot be.
            KernelUnavailableError: no GPU, no driver, no CUDA library, or no kernel in this package.
            KernelLaunchError: the kernels do not load on this GPU; `why_unavailable` says more.
            DeviceMemoryError: there is not enough device memory.
        """
        check_spec(spec)
        if channels not in (1, 4):
            raise KernelInputError(f"channels is {channels!r}; a model takes 1, or 4 with fusion")
        check_batch(max_batch)
        for name, value in (("factor", factor), ("summand", summand)):
            if np.shape(value) not in ((), (spec.n_mels,)) or not np.isfinite(value).all():
                raise KernelInputError(f"{name} of shape {np.shape(value)} is not a finite number or ({spec.n_mels},)")
        self.spec = spec
        self.channels = channels
        self.max_batch = max_batch
        image = fatbin()
        self._launcher: Launcher = open_launcher(device) if launcher is None else launcher
        self._functions = {
            (samples, out): (name, self._launcher.function(image, name))
            for samples in device_array.SAMPLE_TYPES
            for out in _RESULTS
            for name in [kernel_name(spec, samples, out)]
        }
        self._clips = TableRing(self._launcher, kernel_tables(spec, factor, summand), CLIP, max_batch)

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Of the result for `batch` clips: (batch, channels, frames, n_mels)."""
        return batch, self.channels, self.spec.frames, self.spec.n_mels

    def __call__(
        self,
        pcm: Any,
        clips: Sequence[tuple[int, int]] | NDArray[np.integer],
        *,
        out: Any,
        stream: Any = None,
        pcm_samples: int | None = None,
        pcm_dtype: DTypeLike | None = None,
        out_dtype: DTypeLike | None = None,
    ) -> None:
        """Launch the kernel on a stream; returns before it is done.

        Work on other streams is not waited for, that on the `stream` of an array's `__cuda_array_interface__` neither:
        what writes `pcm` and what still uses `out` must be done, or on this stream.

        Args:
            pcm: samples in device memory, mono, at `spec.sampling_rate`: int16 (full scale 32768) or float32 (full
                scale 1), (n,), anything with `__cuda_array_interface__`; or an address, with `pcm_samples` and
                `pcm_dtype`.
            clips: where each clip lies in `pcm`, (offset, length) in samples, in host memory; clips may overlap.
            out: float16 or float32 of shape `shape(len(clips))`, C-contiguous, in device memory, anything with
                `__cuda_array_interface__`; or an address, with `out_dtype`. Decibels are written to it.
            stream: the launcher's; None is the default stream.
            pcm_samples, pcm_dtype, out_dtype: for addresses only.

        Raises:
            KernelInputError: a clip is empty or outside of `pcm`, there are none or too many, or a dtype, shape or
                address is not as above. Nothing is launched then.
            KernelLaunchError: CUDA refused the launch, or an earlier one failed.
        """
        source, samples, given = device_array.samples(pcm, pcm_samples, pcm_dtype)
        if len(given) != 1 or given[0] < 1:
            raise KernelInputError(f"pcm of shape {given} is not (n,) mono samples")
        pairs = device_array.clip_pairs(clips, self.max_batch, given[0], "samples")
        target, result = _result(out, out_dtype, self.shape(len(pairs)))
        name, function = self._functions[samples, result]
        grid = kernel_grid(self.spec, len(pairs), self.channels)
        with self._clips.on_device(np.ascontiguousarray(pairs).view(CLIP).reshape(-1), stream) as table:
            argument = kernel_arguments(
                self.spec,
                samples=samples,
                pcm=source,
                pcm_samples=given[0],
                clips=table,
                tables=self._clips.constants,
                out=target,
                channels=self.channels,
            )
            try:
                self._launcher.launch(function, grid, THREADS, argument, stream)
            except KernelLaunchError as error:
                raise KernelLaunchError(f"{name} for {len(pairs)} clips: {error}") from error

    def close(self) -> None:
        """Wait for what is under way and give the device memory back. The object cannot be used afterwards."""
        self._clips.close()


def _result(out: Any, dtype: DTypeLike | None, shape: tuple[int, ...]) -> tuple[int, np.dtype[Any]]:
    """Address and dtype of the result."""
    if isinstance(out, int):
        if dtype is None:
            raise KernelInputError("out is an address: pass out_dtype with it")
        address, found = out, np.dtype(dtype)
    else:
        address, found, given = device_array.array(out, "out")
        if dtype is not None:
            raise KernelInputError("out says itself what it holds: pass no out_dtype with it")
        if given != shape:
            raise KernelInputError(f"out has shape {given}; these clips need {shape}")
    if found not in _RESULTS:
        raise KernelInputError(f"out is {found}; the kernel writes float16 and float32")
    device_array.check_address(address, found, "out")
    return address, found
