"""`LogMel`: log-Mel spectrograms on a GPU, from device memory to device memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from claprt_kernels.errors import KernelInputError, KernelLaunchError, KernelUnavailableError
from claprt_kernels.launcher import Launcher, PyCudaLauncher
from claprt_kernels.layout import CLIP, THREADS, check_spec, kernel_arguments, kernel_grid, kernel_name, kernel_tables

if TYPE_CHECKING:
    from claprt.spec import LogMelSpec

_RUNS = 16  # how many may be under way before one has to wait
_LARGEST_BATCH = 65_535  # blocks of a grid in y
_SAMPLES = (np.dtype(np.int16), np.dtype(np.float32))
_RESULTS = (np.dtype(np.float16), np.dtype(np.float32))


def is_available(device: int = 0) -> bool:
    """Whether `LogMel` can run on this device."""
    return why_unavailable(device) is None


def why_unavailable(device: int = 0) -> str | None:
    """Why `LogMel` cannot run on this device, and what to do; None if it can."""
    try:
        _fatbin()
        PyCudaLauncher(device)
    except KernelUnavailableError as error:
        return str(error)
    return None


class LogMel:
    """Log-Mel spectrograms of batches of clips, on one GPU, in one kernel launch each.

        out[b, c, t, m] = 10·log10(max(Σ_k |STFT(clip b)[t, k]|² · bank[k, m], log_floor)) · factor[m] + summand[m]

    A call allocates nothing and waits for nothing, unless 16 earlier calls have not finished. Several threads may call.
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
            launcher: what to launch through; None is PyCUDA.

        Raises:
            KernelSpecError: the kernel does not compute this specification.
            KernelInputError: `channels`, `max_batch`, `factor` or `summand` has a value that cannot be.
            KernelUnavailableError: no GPU, no driver, no PyCUDA, or no kernel in this package.
            KernelLaunchError: out of device memory.
        """
        check_spec(spec)
        if channels not in (1, 4):
            raise KernelInputError(f"channels is {channels!r}; a model takes 1, or 4 with fusion")
        if not 1 <= max_batch <= _LARGEST_BATCH:
            raise KernelInputError(f"max_batch is {max_batch!r}; it must be 1 … {_LARGEST_BATCH}")
        for name, value in (("factor", factor), ("summand", summand)):
            if np.shape(value) not in ((), (spec.n_mels,)) or not np.isfinite(value).all():
                raise KernelInputError(f"{name} of shape {np.shape(value)} is not a finite number or ({spec.n_mels},)")
        self.spec = spec
        self.channels = channels
        self.max_batch = max_batch
        image = _fatbin()
        self._launcher: Launcher = PyCudaLauncher(device) if launcher is None else launcher
        self._functions = {
            (samples, out): (name, self._launcher.function(image, name))
            for samples in _SAMPLES
            for out in _RESULTS
            for name in [kernel_name(spec, samples, out)]
        }
        tables = kernel_tables(spec, factor, summand)
        size = CLIP.itemsize * max_batch
        self._tables = self._launcher.alloc(tables.nbytes)
        self._clips = self._launcher.alloc(_RUNS * size)
        self._staged = self._launcher.pinned(_RUNS * size).view(CLIP).reshape(_RUNS, max_batch)
        self._done = [self._launcher.event() for _ in range(_RUNS)]
        self._next = 0
        self._lock = threading.Lock()
        done = self._launcher.event()
        self._launcher.copy(self._tables, tables.view(np.uint8), None)
        self._launcher.record(done, None)
        self._launcher.wait(done)

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

        Args:
            pcm: samples in device memory, mono, at `spec.sampling_rate`: int16 (full scale 32768) or float32 (full
                scale 1), (n,), anything with `__cuda_array_interface__`; or an address, with `pcm_samples` and
                `pcm_dtype`.
            clips: where each clip lies in `pcm`, (offset, length) in samples, in host memory; clips may overlap.
            out: float16 or float32 of shape `shape(len(clips))`, C-contiguous, in device memory, anything with
                `__cuda_array_interface__`; or an address, with `out_dtype`. Decibels are written to it.
            stream: the launcher's (for PyCUDA a `pycuda.driver.Stream`); None is the default stream.
            pcm_samples, pcm_dtype, out_dtype: for addresses only.

        Raises:
            KernelInputError: a clip is empty or outside of `pcm`, there are none or too many, or a dtype, shape or
                address is not as above. Nothing is launched then.
            KernelLaunchError: CUDA refused the launch, or an earlier one failed.
        """
        table = _clip_table(clips, self.max_batch)
        source, samples, count = _samples(pcm, pcm_samples, pcm_dtype)
        target, result = _result(out, out_dtype, self.shape(len(table)))
        ends = table["length"] > count - table["offset"]
        wrong = np.flatnonzero((table["length"] < 1) | (table["offset"] < 0) | ends)
        if wrong.size:
            offset, length = table[wrong[0]]
            reason = "it needs at least one sample" if length < 1 else f"that is outside of the {count} of pcm"
            raise KernelInputError(f"clip {wrong[0]} has {length} samples from {offset} on: {reason}")
        name, function = self._functions[samples, result]
        grid = kernel_grid(self.spec, len(table), self.channels)
        with self._lock:
            if not self._done:
                raise KernelInputError("this LogMel is closed; make another one")
            slot = self._next
            self._next = (slot + 1) % _RUNS
            self._launcher.wait(self._done[slot])
            staged = self._staged[slot, : len(table)]
            staged[:] = table
            on_device = self._clips + slot * self.max_batch * CLIP.itemsize
            argument = kernel_arguments(
                self.spec,
                samples=samples,
                pcm=source,
                pcm_samples=count,
                clips=on_device,
                tables=self._tables,
                out=target,
                channels=self.channels,
            )
            try:
                self._launcher.copy(on_device, staged.view(np.uint8), stream)
                self._launcher.launch(function, grid, THREADS, argument, stream)
            except KernelLaunchError as error:
                raise KernelLaunchError(f"{name} for {len(table)} clips: {error}") from error
            self._launcher.record(self._done[slot], stream)

    def close(self) -> None:
        """Wait for what is under way and give the device memory back. The object cannot be used afterwards."""
        with self._lock:
            if not self._done:
                return
            for event in self._done:
                self._launcher.wait(event)
            self._launcher.free(self._tables)
            self._launcher.free(self._clips)
            self._done = []


@cache
def _fatbin() -> bytes:
    """The compiled kernels of this package."""
    from claprt_kernels import compile as kernel_files

    stamp = kernel_files.STAMP
    fix = "run python -m claprt_kernels.compile on a machine with nvcc"
    if kernel_files.FATBIN.is_file():
        return kernel_files.FATBIN.read_bytes()
    reason = "there is no log_mel.fatbin in this package"
    if stamp.is_file():
        reason = json.loads(stamp.read_text(encoding="utf-8")).get("missing", reason)
    raise KernelUnavailableError(f"the CUDA kernels are missing: {reason}; {fix}")


def _clip_table(clips: Any, most: int) -> NDArray[np.void]:
    """(offset, length) pairs as the kernel reads them."""
    try:
        pairs = np.asarray(clips, dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise KernelInputError(f"clips are not pairs of integers (offset, length) below 2^63: {error}") from error
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not 1 <= len(pairs) <= most:
        raise KernelInputError(
            f"clips of shape {pairs.shape} are not 1 … {most} pairs (offset, length); split the batch, or make a "
            "LogMel with a larger max_batch"
        )
    if np.asarray(clips).dtype.kind not in "iu":
        raise KernelInputError(f"clips are {np.asarray(clips).dtype}, not integers")
    return np.ascontiguousarray(pairs).view(CLIP).reshape(-1)


def _samples(pcm: Any, count: int | None, dtype: DTypeLike | None) -> tuple[int, np.dtype[Any], int]:
    """Address, dtype and number of the samples."""
    if isinstance(pcm, int):
        if count is None or dtype is None:
            raise KernelInputError("pcm is an address: pass pcm_samples and pcm_dtype with it")
        address, found = pcm, np.dtype(dtype)
        shape: tuple[int, ...] = (count,)
    else:
        address, found, shape = _array(pcm, "pcm")
        if count is not None or dtype is not None:
            raise KernelInputError("pcm says itself what it holds: pass no pcm_samples and no pcm_dtype with it")
    if found not in _SAMPLES:
        raise KernelInputError(f"pcm is {found}; the kernel takes int16 and float32")
    if len(shape) != 1 or shape[0] < 1:
        raise KernelInputError(f"pcm of shape {shape} is not (n,) mono samples")
    _check_address(address, found, "pcm")
    return address, found, int(shape[0])


def _result(out: Any, dtype: DTypeLike | None, shape: tuple[int, ...]) -> tuple[int, np.dtype[Any]]:
    """Address and dtype of the result."""
    if isinstance(out, int):
        if dtype is None:
            raise KernelInputError("out is an address: pass out_dtype with it")
        address, found = out, np.dtype(dtype)
    else:
        address, found, given = _array(out, "out")
        if dtype is not None:
            raise KernelInputError("out says itself what it holds: pass no out_dtype with it")
        if given != shape:
            raise KernelInputError(f"out has shape {given}; these clips need {shape}")
    if found not in _RESULTS:
        raise KernelInputError(f"out is {found}; the kernel writes float16 and float32")
    _check_address(address, found, "out")
    return address, found


def _array(value: Any, name: str) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
    """Address, dtype and shape of a C-contiguous array in device memory."""
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        raise KernelInputError(
            f"{name} is {type(value).__name__}; pass the address of device memory, or an array with "
            "__cuda_array_interface__"
        )
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    contiguous = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) * dtype.itemsize for i in range(len(shape)))
    if strides is not None and tuple(strides) != contiguous:
        raise KernelInputError(f"{name} has strides {tuple(strides)}; it must be C-contiguous: {contiguous}")
    if name == "out" and interface["data"][1]:
        raise KernelInputError("out is read-only")
    return int(interface["data"][0]), dtype, shape


def _check_address(address: int, dtype: np.dtype[Any], name: str) -> None:
    if not 0 < address < 1 << 64:
        raise KernelInputError(f"{name} is at address {address:#x}, which is no device memory")
    if address % dtype.itemsize:
        raise KernelInputError(f"{name} is misaligned: address {address:#x} is no multiple of {dtype.itemsize}")
