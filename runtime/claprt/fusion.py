"""The fusion recipe's long path: which frames of a long sound are needed, and the samples under them.

The log-Mel of 10 hours has 3.6 million frames, but the model sees at most five thousand of them: two neighbours for
each row of the shrunk log-Mel and three crops. So the sound is counted first, the frames are chosen, and a second pass
keeps only their samples. Sounds up to `_KEEP` samples are kept in memory instead of being decoded twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from claprt.audio_source import AudioSource, shown
from claprt.clip import Clip, FusionClip, wave_clip
from claprt.errors import AudioError
from claprt.resample import resample_blocks, resampled_length
from claprt.spec import LogMelSpec

_KEEP = 4_000_000  # samples, 16 MB: 90 s at 44.1 kHz

Blocks = Iterable[NDArray[np.float32]]


def fusion_clip(source: AudioSource, spec: LogMelSpec) -> Clip:
    """The one clip of the fusion recipe: plain waveform when the sound has no more frames than a clip.

    Raises:
        AudioError: the sound cannot be used, or has another length when it is read again.
    """
    kept, native = _count(source)
    blocks = _same_length(source, native) if kept is None else kept
    resampled = resample_blocks(blocks, source.sampling_rate, spec.sampling_rate)
    samples = resampled_length(native, source.sampling_rate, spec.sampling_rate)
    total = spec.frames_of(samples)
    if total <= spec.frames:
        return wave_clip(*resampled)
    low, high, weight = shrink_rows(total, spec.frames)
    firsts = crop_starts(total, spec.frames)
    crops = np.concatenate([np.arange(first, first + spec.frames) for first in firsts])
    needed = np.unique(np.concatenate([low, high, crops]))
    gathered, starts = _gather(_mirrored(resampled, spec.n_fft // 2), needed, spec)
    front, middle, back = (int(row) for row in np.searchsorted(needed, firsts))
    return FusionClip(
        samples=gathered,
        starts=starts,
        low=np.searchsorted(needed, low).astype(np.int64),
        high=np.searchsorted(needed, high).astype(np.int64),
        weight=weight,
        crops=(front, middle, back),
    )


def shrink_rows(total: int, frames: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Where row t of the shrunk log-Mel reads the full one: rows low and high, and the weight of high.

    Bilinear without antialiasing or aligned corners: source = (total / frames)·(t + 1/2) - 1/2. PyTorch computes this
    in float32, which matters for long sounds (at a million rows float32 has steps of 1/16); its compilers fuse the
    multiplication with the subtraction, so both are done in float64 here and rounded once.

    Returns:
        low, high: int64 (frames,), 0 … total - 1. weight: float32 (frames,), 0 … 1.
    """
    scale = np.float64(np.float32(total) / np.float32(frames))
    source = np.maximum(scale * (np.arange(frames) + 0.5) - 0.5, 0.0).astype(np.float32)
    low = np.minimum(source.astype(np.int64), total - 1)
    weight = np.clip(source - low.astype(np.float32), np.float32(0.0), np.float32(1.0))
    return low, np.minimum(low + 1, total - 1), weight


def crop_starts(total: int, frames: int) -> tuple[int, int, int]:
    """First frames of the front, middle and back crop.

    The possible starts 0 … total - frames are split into three runs as numpy.array_split does (the first ones longer);
    each crop starts at element len // 2 of its run, or at 0 if the run is empty.
    """
    starts = total - frames + 1
    first = 0
    chosen = []
    for part in range(3):
        length = starts // 3 + (part < starts % 3)
        chosen.append(first + length // 2 if length else 0)
        first += length
    return chosen[0], chosen[1], chosen[2]


def _count(source: AudioSource) -> tuple[list[NDArray[np.float32]] | None, int]:
    """Length of the sound at its own rate, and its blocks if they are few enough to keep."""
    if source.known_samples is not None:
        return None, source.known_samples
    kept: list[NDArray[np.float32]] | None = []
    native = 0
    for block in source.blocks():
        native += block.size
        if kept is not None:
            kept.append(block)
            if native > _KEEP:
                kept = None
    return kept, native


def _same_length(source: AudioSource, native: int) -> Iterator[NDArray[np.float32]]:
    """The sound again; AudioError when it is not as long as it was counted to be (the file is being written to)."""
    again = 0
    for block in source.blocks():
        again += block.size
        if again > native:
            break
        yield block
    if again != native:
        more = " or more" if again > native else ""
        raise AudioError(
            f"{shown(source.name)} changed while it was read: {native} samples at first, then {again}{more}; "
            "embed a file that is not being written to"
        )


def _mirrored(blocks: Blocks, side: int) -> Iterator[NDArray[np.float32]]:
    """The stream with `side` samples mirrored at either end, the edge samples not repeated (reflect padding).

    The stream must be longer than `side`.
    """
    head: list[NDArray[np.float32]] = []
    begun = 0
    tail = np.empty(0, dtype=np.float32)
    for block in blocks:
        tail = np.concatenate([tail, block[-side - 1 :]])[-side - 1 :]
        if begun <= side:
            begun += block.size
            head.append(block)
            if begun <= side:
                continue
            block = np.concatenate(head)
            yield block[side:0:-1]
        yield block
    yield tail[-2::-1]


def _gather(
    extended: Blocks, needed: NDArray[np.int64], spec: LogMelSpec
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the samples under the needed frames of a mirrored stream.

    Frames that touch or overlap share their samples, so they form runs that are copied whole.

    Returns:
        float32 (n,): the runs back to back. int64 (len(needed),): where each frame starts in them.
    """
    begins = needed * spec.hop_length
    gaps = np.diff(begins)
    starts = np.concatenate([[0], np.cumsum(np.minimum(gaps, spec.n_fft))]).astype(np.int64)
    first = np.concatenate([[0], np.flatnonzero(gaps > spec.n_fft) + 1])  # of each run, an index into `needed`
    last = np.append(first[1:], needed.size) - 1
    run_begin, run_end, target = begins[first], begins[last] + spec.n_fft, starts[first]
    out = np.empty(int(starts[-1]) + spec.n_fft, dtype=np.float32)
    run = position = 0
    for block in extended:
        end = position + block.size
        while run < first.size and run_begin[run] < end:
            left, right = max(position, int(run_begin[run])), min(end, int(run_end[run]))
            to = int(target[run]) + left - int(run_begin[run])
            out[to : to + right - left] = block[left - position : right - position]
            if run_end[run] > end:
                break  # the rest of this run is in the next block
            run += 1
        position = end
    for constant in (out, starts):
        constant.setflags(write=False)
    return out, starts
