"""What is measured on: clips, sound files and texts, in a folder that every worker reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from claprt.spec import LogMelSpec
from claprt_bench.inputs import TEXTS, clips

# Different ones in each call: what depends on values (silence, caches) must not be measured on one sound.
CLIPS = 8
# Of the files: the commonest rate, so that the path from a file has all of its stages.
FILE_RATE = 44_100
_CLIPS_FILE = "clips.npy"


@dataclass(frozen=True, eq=False)
class Inputs:
    """Read from the folder by a worker.

    Attributes:
        clips: (CLIPS, clip_samples) float32 at the model's rate.
        files: paths of the same clips, as WAV files of 16-bit stereo at `FILE_RATE`.
        texts: short ones.
    """

    clips: NDArray[np.float32]
    files: tuple[str, ...]
    texts: tuple[str, ...] = TEXTS


def write_inputs(folder: Path, spec: LogMelSpec, recordings: Path | None) -> str:
    """Make the folder's files, and describe them.

    Raises:
        AudioError: the folder of recordings has no usable sound.
    """
    about, waveforms = clips(spec, recordings, CLIPS)
    np.save(folder / _CLIPS_FILE, np.stack(waveforms))
    for index, waveform in enumerate(waveforms):
        mono = soxr.resample(waveform, spec.sampling_rate, FILE_RATE)
        # Two channels that differ, as those of recordings do: nothing about them can be skipped.
        stereo = np.stack([mono, 0.9 * mono], axis=1).clip(-1, 1)
        soundfile.write(_file(folder, index), stereo, FILE_RATE, subtype="PCM_16")
    return f"{about}; files: the same as WAV, {FILE_RATE} Hz, 16-bit stereo; {len(TEXTS)} short texts"


def read_inputs(folder: Path) -> Inputs:
    """What `write_inputs` wrote."""
    waveforms: NDArray[np.float32] = np.load(folder / _CLIPS_FILE)
    return Inputs(waveforms, tuple(str(_file(folder, index)) for index in range(len(waveforms))))


def _file(folder: Path, index: int) -> Path:
    return folder / f"clip-{index}.wav"
