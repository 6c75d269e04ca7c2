"""What the log-Mel kernel is given, its argument and its tables: byte for byte as `csrc/log_mel.cuh` declares them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from claprt_kernels.errors import KernelSpecError
from claprt_kernels.reference import mel_bank_reference

if TYPE_CHECKING:
    from claprt.spec import LogMelSpec

N_FFT = 1024
THREADS = 128  # of a block: 4 warps, each with a pair of frames
CLIP = np.dtype([("offset", np.int64), ("length", np.int64)])
ARGUMENTS = np.dtype(
    [
        ("pcm", np.uint64),
        ("clips", np.uint64),
        ("tables", np.uint64),
        ("out", np.uint64),
        ("pcm_samples", np.int64),
        ("channels", np.int32),
        ("clip_samples", np.int32),
        ("hop", np.int32),
        ("frames", np.int32),
        ("mels", np.int32),
        ("padding", np.int32),
        ("round_trip", np.int32),
        ("floor", np.float32),
        ("gain", np.float32),
    ],
    align=True,
)
_PADDINGS = {"repeatpad": 0, "repeat": 1, "pad": 2}
_SCALES, _NORMS = ("htk", "slaney"), ("none", "slaney")
_NARROW_BINS = 320  # what the kernels named narrow compute
_WARPS = THREADS // 32


def check_spec(spec: LogMelSpec) -> None:
    """Refuse a specification that the kernel does not compute.

    Raises:
        KernelSpecError: the field, its value, and what is supported.
    """
    # As `check_spec` in csrc/claprt_log_mel.cu. NaN is in no range.
    limits = {
        "n_fft": (spec.n_fft == N_FFT, f"{N_FFT}"),
        "sampling_rate": (1 <= spec.sampling_rate < 2**31, "1 … 2^31 - 1"),
        "clip_samples": (N_FFT // 2 < spec.clip_samples < 2**31 - N_FFT, f"{N_FFT // 2 + 1} … 2^31 - {N_FFT + 1}"),
        "hop_length": (1 <= spec.hop_length <= spec.clip_samples, "1 … clip_samples"),
        "n_mels": (1 <= spec.n_mels <= 1024, "1 … 1024"),
        "f_min": (0.0 <= spec.f_min < spec.f_max, "0 … f_max"),
        "f_max": (spec.f_max <= 0.5 * spec.sampling_rate, "f_min … sampling_rate / 2"),
        "log_floor": (1e-30 <= spec.log_floor <= 1e30, "1e-30 … 1e30"),
        "mel_scale": (spec.mel_scale in _SCALES, "htk and slaney"),
        "mel_norm": (spec.mel_norm in _NORMS, "none and slaney"),
        "padding": (spec.padding in _PADDINGS, "repeatpad, repeat and pad"),
    }
    for name, (holds, supported) in limits.items():
        if not holds:
            raise KernelSpecError(
                f"the log-Mel kernel does not support {name} = {getattr(spec, name)!r}; it supports {supported}"
            )


def kernel_tables(spec: LogMelSpec, factor: ArrayLike = 1.0, summand: ArrayLike = 0.0) -> NDArray[np.float32]:
    """The constants that the kernel reads from device memory: window, twiddles, and the bands of the mel bank.

    Args:
        spec: a specification that `check_spec` passes.
        factor, summand: applied to a band's decibels, last; numbers or (n_mels,).

    Returns:
        float32 (n,); integers among them are stored bit for bit.
    """
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)
    turns = 2.0 * np.pi * np.outer(np.arange(32), np.arange(32)) / N_FFT
    twiddles = np.stack([np.cos(turns), -np.sin(turns)], axis=-1)
    bank = _bank(spec)
    bands = np.zeros((spec.n_mels, 5), dtype=np.float32)
    weights = []
    position = 0
    for band in range(spec.n_mels):
        used = np.flatnonzero(bank[:, band])
        begin, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        bands[band, :3] = np.array([begin, end, position], dtype=np.int32).view(np.float32)
        weights.append(bank[begin:end, band])
        position += end - begin
    bands[:, 3], bands[:, 4] = factor, summand
    parts = [window, twiddles, bands, *weights]
    return np.concatenate([np.asarray(part, dtype=np.float32).ravel() for part in parts])


def kernel_name(spec: LogMelSpec, samples: np.dtype, out: np.dtype) -> str:
    """Name in the fatbin of the kernel for these types of samples and result."""
    bins = np.flatnonzero(_bank(spec).any(axis=1))
    width = "wide" if bins.size and bins[-1] >= _NARROW_BINS else "narrow"
    names = {np.dtype(np.int16): "int16", np.dtype(np.float32): "fp32", np.dtype(np.float16): "fp16"}
    return f"log_mel_{names[samples]}_{names[out]}_{width}"


def kernel_arguments(
    spec: LogMelSpec,
    *,
    samples: np.dtype,
    pcm: int,
    pcm_samples: int,
    clips: int,
    tables: int,
    out: int,
    channels: int = 1,
) -> NDArray[np.void]:
    """The kernel's argument, an `ARGUMENTS` scalar in an array of shape (); addresses are of device memory."""
    # The kernel's powers are 4 times too large, and its samples as large as they come.
    unit = 1.0 / 32767.0 if spec.int16 else (1.0 / 32768.0 if samples == np.int16 else 1.0)
    return np.array(
        (
            pcm,
            clips,
            tables,
            out,
            pcm_samples,
            channels,
            spec.clip_samples,
            spec.hop_length,
            spec.frames,
            spec.n_mels,
            _PADDINGS[spec.padding],
            int(spec.int16),
            spec.log_floor,
            0.25 * unit * unit,
        ),
        dtype=ARGUMENTS,
    )


def kernel_grid(spec: LogMelSpec, batch: int, channels: int) -> tuple[int, int]:
    """Blocks of `THREADS` threads, (x, y): a warp for each pair of frames of a clip, and the clips."""
    pairs = (spec.frames + 1) // 2
    if channels > 1:
        pairs = 3 * pairs + spec.frames
    return -(-pairs // _WARPS), batch


@lru_cache(maxsize=8)
def _bank(spec: LogMelSpec) -> NDArray[np.float64]:
    """The mel bank, which is slow to make and asked for by tables and names."""
    bank = mel_bank_reference(spec)
    bank.setflags(write=False)
    return bank
