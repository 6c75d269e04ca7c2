"""What every sound looks like to the rest of the runtime: a named stream of mono float32 blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from claprt.errors import AudioError

_Source = TypeVar("_Source", bound="AudioSource")

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; anything outside is a damaged header, not a sound
BLOCK_ITEMS = 65_536  # samples times channels in one block: bounds memory whatever a header claims
MAX_SAMPLE = 64.0  # above it a float is an unscaled integer; mixes that clip at 1.0 stay far below


class AudioSource(ABC):
    """One sound: mono float32 blocks at its own sampling rate, readable from the beginning any number of times.

    Attributes:
        name: what error messages call it: the path, the file object's name, or "array".
        sampling_rate: Hz.
        known_samples: exact length in samples per channel when it is known without decoding, else None.
        is_int16: whether it is mono int16, which `int16_blocks` then gives as it is.
    """

    known_samples: int | None = None
    is_int16: bool = False

    def __init__(self, name: str, sampling_rate: int) -> None:
        self.name = name
        self.sampling_rate = sampling_rate

    @abstractmethod
    def _decode(self) -> Iterator[NDArray[np.floating]]:
        """Yield (k, channels) floating blocks from the beginning, k·channels of about `BLOCK_ITEMS`."""

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the sound from its beginning as mono float32 (k,) blocks, full scale ±1, mean over channels.

        A block may be a read-only view of the caller's array; copy it to keep it.

        Raises:
            AudioError: no samples, NaN or infinite samples, unscaled integers, a damaged or truncated file.
        """
        position = 0
        for block in self._decode():
            self._check(block, position)
            position += len(block)
            if len(block):
                yield mono(block)
        if not position:
            raise AudioError(f"{shown(self.name)} has 0 samples; pass a sound with at least one sample")

    def int16_blocks(self) -> Iterator[NDArray[np.int16]]:
        """Yield a sound that `is_int16` from its beginning as int16 (k,) blocks, full scale 32768.

        Raises:
            AudioError: as `blocks`.
        """
        position = 0
        for block in self._decode_int16():
            position += len(block)
            if len(block):
                yield block
        if not position:
            raise AudioError(f"{shown(self.name)} has 0 samples; pass a sound with at least one sample")

    def _decode_int16(self) -> Iterator[NDArray[np.int16]]:
        """Yield (k,) blocks from the beginning. Only for sounds that are `is_int16`."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - most sources hold nothing
        """Close what this object opened; the caller's own file objects stay open."""

    def __enter__(self: _Source) -> _Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, block: NDArray[np.floating], position: int) -> None:
        """Refuse samples that are not sound. The two reductions also see NaN: it comes out of min and max."""
        if not block.size or (block.min() >= -MAX_SAMPLE and block.max() <= MAX_SAMPLE):
            return
        bad = ~np.isfinite(block)
        if not bad.any():
            bad = np.abs(block) > MAX_SAMPLE
        row, channel = np.argwhere(bad)[0]
        index, value = position + int(row), float(block[row, channel])
        where = f"{shown(self.name)}: sample {index} (at {index / self.sampling_rate:.6g} s) is {value:g}"
        if np.isfinite(value):
            raise AudioError(
                f"{where}, far outside ±1, as in integers that were never scaled; pass int16 or divide by 32768"
            )
        raise AudioError(f"{where}, not a finite number; repair the sound, e.g. with numpy.nan_to_num")


def mono(block: NDArray[np.floating]) -> NDArray[np.float32]:
    """Mean over channels, (k, channels) → float32 (k,), added channel by channel so that every source rounds alike."""
    if block.shape[1] == 1:
        return np.asarray(block[:, 0], dtype=np.float32)
    total = block[:, 0].astype(np.float32)
    for channel in range(1, block.shape[1]):
        total += block[:, channel].astype(np.float32, copy=False)
    total /= np.float32(block.shape[1])
    return total


def check_rate(rate: int, name: str) -> int:
    """A sampling rate that a sound can have, or AudioError."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"{shown(name)} has a sampling rate of {rate} Hz, outside {MIN_RATE} … {MAX_RATE} Hz; "
            "check the header, or resample the sound first"
        )
    return rate


def shown(value: object, limit: int = 200) -> str:
    """`repr` for messages: one line whatever the value holds, long ones shortened in the middle."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 :]}"


def one_line(error: BaseException) -> str:
    """Another library's message on one line, for quoting in ours."""
    return " ".join(str(error).split()) or type(error).__name__
