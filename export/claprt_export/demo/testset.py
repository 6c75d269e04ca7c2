"""Labelled clips that were held out of training, to measure what a change costs in accuracy.

    >>> from claprt_export.demo.testset import synthetic_test_set
    >>> for waveform, label in synthetic_test_set(per_kind=2):
    ...     ...                             # label indexes claprt_export.demo.sounds.KINDS

Training used seeds below `TRAINING_SEEDS_END`, and recordings 5 to 49 of each spoken digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .sounds import KINDS, render
from .synthesis import Array

TRAINING_SEEDS_END = 1_000_000
"""Training draws its seeds from [0, this)."""

TEST_SEED = 1_000_000
"""First seed of the test set."""

LONG_TEST_SEED = 2_000_000
"""First seed of the test set of clips longer than 10 s."""

TEST_RECORDINGS = range(5)
"""Recording numbers of the digits' test split."""

DIGIT_SAMPLING_RATE = 8_000
"""Samples per second of the spoken digits."""


def synthetic_test_set(per_kind: int = 8, *, longer: bool = False) -> Iterator[tuple[Array, int]]:
    """Procedurally made sounds with parameters that training never saw.

    per_kind: clips of each kind, at least 1.
    longer: clips of 12 to 40 s for fused checkpoints, instead of 1 to 10 s.

    Yields (waveform, label): float32 mono (n,) at 48 kHz within [-1, 1], and an index into
    `sounds.KINDS`. The order goes through all kinds, `per_kind` times. Always the same clips.

    Raises ValueError when per_kind is less than 1.
    """
    if per_kind < 1:
        raise ValueError(f"per_kind must be at least 1, but it is {per_kind}.")
    for number in range(per_kind):
        for label, kind in enumerate(KINDS):
            if longer:
                seed = LONG_TEST_SEED + number
                duration = float(np.random.default_rng([seed, label]).uniform(12, 40))
                yield render(kind, seed, duration), label
            else:
                yield render(kind, TEST_SEED + number), label


def digit_test_set(fsdd_dir: Path) -> Iterator[tuple[Array, int, int]]:
    """The test split of the Free Spoken Digit Dataset: recordings 0 to 4 of every speaker.

    fsdd_dir: a directory of files named `{digit}_{speaker}_{number}.wav`.

    Yields (waveform, sampling rate, label): float32 mono (n,) within [-1, 1] at 8,000 Hz, 8000,
    and the digit 0 to 9, an index into `captions.DIGIT_LABELS`. Sorted by file name.

    Raises FileNotFoundError when the directory holds no such file, ValueError for a file with
    another sampling rate or more than one channel.
    """
    import soundfile

    files = [f for f in digit_files(fsdd_dir) if recording_number(f) in TEST_RECORDINGS]
    if not files:
        raise FileNotFoundError(
            f"No recording of the test split in {fsdd_dir}. Give a directory with the Free "
            "Spoken Digit Dataset: files such as 0_jackson_0.wav."
        )
    for file in files:
        waveform, rate = soundfile.read(file, dtype="float32")
        if rate != DIGIT_SAMPLING_RATE or waveform.ndim != 1:
            raise ValueError(
                f"{file.name} has {rate} Hz and shape {waveform.shape}; expected mono at {DIGIT_SAMPLING_RATE} Hz."
            )
        yield waveform, DIGIT_SAMPLING_RATE, int(file.name[0])


def digit_files(fsdd_dir: Path) -> list[Path]:
    """All digit recordings in a directory, sorted by name; [] when there are none."""
    return sorted(f for f in Path(fsdd_dir).glob("[0-9]_*_*.wav") if f.name[0].isdigit())


def recording_number(file: Path) -> int:
    """The number at the end of a recording's name: 12 for `3_theo_12.wav`."""
    return int(file.stem.rsplit("_", 1)[1])
