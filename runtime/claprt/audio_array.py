"""Sounds that are already NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from claprt.audio_source import BLOCK_ITEMS, AudioSource, shown
from claprt.errors import AudioError

MAX_CHANNELS = 64

# (offset, full scale) of the integer types, as libsndfile scales them.
_INTEGERS = {"int8": (0, 2.0**7), "uint8": (128, 2.0**7), "int16": (0, 2.0**15), "int32": (0, 2.0**31)}
_FLOATS = ("float16", "float32", "float64")


class ArraySource(AudioSource):
    """A NumPy array as a sound: (n,) or (n, channels); int8/uint8/int16/int32 or float16/float32/float64.

    Integers are scaled to ±1 as libsndfile does (int16 by 1/32768). The array is read block by block, never copied
    whole and never written to; `close` lets go of it.
    """

    def __init__(self, array: NDArray[np.generic], sampling_rate: int) -> None:
        super().__init__("array", sampling_rate)
        kind = array.dtype.name  # the same for either byte order
        if kind not in _INTEGERS and kind not in _FLOATS:
            raise AudioError(
                f"an array of dtype {shown(kind)} is not sound; convert it to float32 (±1), or to int16, "
                "int32, int8 or uint8 at full scale"
            )
        if array.ndim not in (1, 2):
            raise AudioError(
                f"an array of shape {array.shape} has {array.ndim} dimensions; pass (samples,) or (samples, channels)"
            )
        if array.ndim == 2 and array.shape[1] > MAX_CHANNELS:
            raise AudioError(
                f"an array of shape {array.shape} would have {array.shape[1]} channels, which looks like "
                "(channels, samples); pass array.T"
            )
        if not array.size:
            raise AudioError(f"an array of shape {array.shape} has 0 samples; pass at least one sample")
        if np.ma.isMaskedArray(array):
            raise AudioError("a masked array hides samples, which a sound cannot; fill it, e.g. with array.filled(0)")
        view = np.asarray(array)  # of a subclass, the plain array
        self._array: NDArray[np.generic] | None = view[:, None] if view.ndim == 1 else view
        self.known_samples = len(array)
        self.is_int16 = kind == "int16" and self._array.shape[1] == 1

    def _decode(self) -> Iterator[NDArray[np.floating]]:
        return map(_scaled, self._blocks())

    def _decode_int16(self) -> Iterator[NDArray[np.int16]]:
        for block in self._blocks():
            yield block[:, 0].astype(np.int16, copy=False)  # native byte order

    def _blocks(self) -> Iterator[NDArray[np.generic]]:
        array = self._array
        if array is None:
            raise AudioError("the array's source is closed; open the array again with open_audio")
        step = max(1, BLOCK_ITEMS // array.shape[1])
        for start in range(0, len(array), step):
            yield array[start : start + step]

    def close(self) -> None:
        """Let go of the caller's array."""
        self._array = None


def _scaled(block: NDArray[np.generic]) -> NDArray[np.floating]:
    """Integers to float32 ±1; floats as a read-only view, still in their own type so that range checks see it all."""
    name = block.dtype.name
    if name in _INTEGERS:
        offset, full = _INTEGERS[name]
        scaled = block.astype(np.float32)
        scaled -= np.float32(offset)
        scaled *= np.float32(1.0 / full)
        return scaled
    view: NDArray[np.floating] = block.view()
    view.setflags(write=False)
    return view
