"""Device memory as callers hand it over: addresses, or arrays with `__cuda_array_interface__`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from claprt_kernels.errors import KernelInputError

SAMPLE_TYPES = (np.dtype(np.int16), np.dtype(np.float32))


def samples(pcm: Any, count: int | None, dtype: DTypeLike | None) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
    """Address, dtype and shape of samples.

    Raises:
        KernelInputError: an address without count and dtype, an array with them, or another dtype.
    """
    shape: tuple[int, ...]
    if isinstance(pcm, int):
        if count is None or dtype is None:
            raise KernelInputError("pcm is an address: pass pcm_samples and pcm_dtype with it")
        address, found, shape = pcm, np.dtype(dtype), (count,)
    else:
        address, found, shape = array(pcm, "pcm")
        if count is not None or dtype is not None:
            raise KernelInputError("pcm says itself what it holds: pass no pcm_samples and no pcm_dtype with it")
    if found not in SAMPLE_TYPES:
        raise KernelInputError(f"pcm is {found}; the kernel takes int16 and float32")
    check_address(address, found, "pcm")
    return address, found, shape


def array(value: Any, name: str) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
    """Address, dtype and shape of a C-contiguous array in device memory.

    The interface's "stream", on which the array may still be written, is not waited for: that is the caller's.

    Raises:
        KernelInputError: it is none, or `name` is "out" and it is read-only.
    """
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except Exception as error:  # PyTorch: of a tensor that requires grad, or is sparse
        raise KernelInputError(
            f"{name} is {type(value).__name__}, whose __cuda_array_interface__ cannot be had: {error}"
        ) from error
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


def check_address(address: int, dtype: np.dtype[Any], name: str) -> None:
    """Refuse what cannot be an address of such elements.

    Raises:
        KernelInputError: it is null, negative, or misaligned.
    """
    if not 0 < address < 1 << 64:
        raise KernelInputError(f"{name} is at address {address:#x}, which is no device memory")
    if address % dtype.itemsize:
        raise KernelInputError(f"{name} is misaligned: address {address:#x} is no multiple of {dtype.itemsize}")


def clip_pairs(clips: Any, most: int, count: int, unit: str) -> NDArray[np.int64]:
    """(offset, length) pairs, int64 (n, 2), each inside of `count` samples or frames.

    Raises:
        KernelInputError: they are not pairs of integers, none or more than `most`, or one is empty or outside.
    """
    try:
        pairs = np.asarray(clips, dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise KernelInputError(f"clips are not pairs of integers (offset, length) below 2^63: {error}") from error
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not 1 <= len(pairs) <= most:
        raise KernelInputError(
            f"clips of shape {pairs.shape} are not 1 … {most} pairs (offset, length); split the batch, or make an "
            "object with a larger max_batch"
        )
    if np.asarray(clips).dtype.kind not in "iu":
        raise KernelInputError(f"clips are {np.asarray(clips).dtype}, not integers")
    offset, length = pairs.T
    wrong = np.flatnonzero((length < 1) | (offset < 0) | (length > count - offset))
    if wrong.size:
        first, size = pairs[wrong[0]]
        reason = "it needs at least one" if size < 1 else f"that is outside of the {count} of pcm"
        raise KernelInputError(f"clip {wrong[0]} has {size} {unit} from {first} on: {reason}")
    return pairs
