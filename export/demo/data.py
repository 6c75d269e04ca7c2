"""The training clips: made once, kept as float16 log-mel in files that training reads.

Short clips fill 10 s (repeated or cropped, as the feature extractor does) and are kept under both
mel banks. Long clips of 11 to 40 s are kept whole under the HTK bank, for the fused model.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from tqdm import tqdm

from claprt_export.demo.captions import LABELS
from claprt_export.demo.sounds import KINDS, render
from claprt_export.demo.testset import (
    DIGIT_SAMPLING_RATE,
    TEST_RECORDINGS,
    TRAINING_SEEDS_END,
    digit_files,
    recording_number,
)
from demo.features import CLIP_SAMPLES, FRAMES, MELS, SAMPLING_RATE, Waveform, log_mel, repeat_pad

LONG_FRAMES = 40 * 100 + 1
LONG_SEEDS = 500_000  # training seeds of long clips start here
assert LONG_SEEDS < TRAINING_SEEDS_END


@dataclass(frozen=True)
class Job:
    """One clip to make. ``source`` is a kind of sound or the path of a digit recording."""

    source: str
    label: int
    seed: int
    longer: bool


@dataclass(frozen=True)
class Corpus:
    """The training clips.

    short: float16 (n, 1001, 64), dB, under the model's mel bank; short_labels: int64 (n,).
    long: float16 (m, 4001, 64), HTK, or none; long_frames: int64 (m,) frames in use;
    long_labels: int64 (m,).
    """

    short: npt.NDArray[np.float16]
    short_labels: npt.NDArray[np.int64]
    long: npt.NDArray[np.float16]
    long_labels: npt.NDArray[np.int64]
    long_frames: npt.NDArray[np.int64]


def training_digits(fsdd_dir: Path) -> list[Path]:
    """The recordings outside the test split; raises FileNotFoundError when there are none."""
    files = [f for f in digit_files(fsdd_dir) if recording_number(f) not in TEST_RECORDINGS]
    if not files:
        raise FileNotFoundError(f"No training recordings of spoken digits in {fsdd_dir}.")
    return files


def digit_clip(file: Path, seed: int, longer: bool) -> Waveform:
    """A spoken digit at 48 kHz, varied a little: speed and pitch, level, noise, pauses.

    Seed 0 leaves a short clip as it is. Longer clips say the digit again and again.
    """
    waveform, rate = soundfile.read(file, dtype="float32")
    if rate != DIGIT_SAMPLING_RATE:
        raise ValueError(f"{file.name} has {rate} Hz, expected {DIGIT_SAMPLING_RATE} Hz.")
    if seed == 0 and not longer:
        plain: Waveform = soxr.resample(waveform, rate, SAMPLING_RATE).astype(np.float32)
        return plain
    rng = np.random.default_rng([seed, int(file.name[0]), recording_number(file)])
    speed = rng.uniform(0.88, 1.14)
    clip: Waveform = soxr.resample(waveform, rate * speed, SAMPLING_RATE).astype(np.float32)
    pauses = rng.integers(0, SAMPLING_RATE // 3, 2) * (rng.random(2) < 0.6)
    clip = np.pad(clip, (int(pauses[0]), int(pauses[1])))
    if longer:
        clip = np.pad(clip, (0, int(rng.integers(1, SAMPLING_RATE // 2))))
        length = int(rng.uniform(11, 30) * SAMPLING_RATE)
        clip = np.resize(clip, length)
    clip *= np.float32(10 ** rng.uniform(-1, 0.2))
    if rng.random() < 0.6:
        level = np.sqrt(np.mean(clip**2)) * 10 ** (-rng.uniform(10, 45) / 20)
        clip += np.float32(level) * rng.standard_normal(len(clip), np.float32)
    return clip


def make_clip(job: Job) -> Waveform:
    """The waveform of a job, float32 at 48 kHz; exactly or at most 10 s unless it is longer."""
    if job.label >= len(KINDS):
        return digit_clip(Path(job.source), job.seed, job.longer)
    rng = np.random.default_rng([job.seed, job.label])
    if job.longer:
        return render(job.source, job.seed, float(rng.uniform(11, 40)))
    if rng.random() < 0.15:  # what the extractor's random crop of a long clip looks like
        clip = render(job.source, job.seed, float(rng.uniform(10.5, 20)))
        start = int(rng.integers(0, len(clip) - CLIP_SAMPLES))
        return clip[start : start + CLIP_SAMPLES]
    return render(job.source, job.seed)


def _jobs(fsdd_dir: Path, per_kind: int, digit_variants: int, longer: bool) -> list[Job]:
    """All jobs of one sort, shuffled so that any part of them holds every class."""
    first = LONG_SEEDS if longer else 0
    jobs = [Job(kind, label, first + seed, longer) for label, kind in enumerate(KINDS) for seed in range(per_kind)]
    for file in training_digits(fsdd_dir):
        if longer and recording_number(file) % 3 != 0:
            continue  # long digits only have to show that speech can be long too
        label = len(KINDS) + int(file.name[0])
        jobs += [Job(str(file), label, first + v, longer) for v in range(digit_variants)]
    order = np.random.default_rng(0).permutation(len(jobs))
    return [jobs[i] for i in order]


_target: dict[str, npt.NDArray[np.generic]] = {}


def _open(directory: Path) -> None:
    """Map the files into a worker process."""
    torch.set_num_threads(1)
    for name in ("short", "long", "long_frames"):
        _target[name] = np.load(directory / f"{name}.npy", mmap_mode="r+")


def _work(task: tuple[int, Job]) -> None:
    """Make one clip and store its features in the mapped files."""
    row, job = task
    slaney, htk = log_mel(repeat_pad(make_clip(job)))
    if job.longer:
        _target["long"][row, : len(htk)] = htk
        _target["long_frames"][row] = len(htk)
    else:
        _target["short"][row, 0] = slaney
        _target["short"][row, 1] = htk


def build(
    directory: Path,
    fsdd_dir: Path,
    per_kind: int,
    digit_variants: int,
    long_per_kind: int,
    processes: int,
) -> None:
    """Make all clips and write the files of a `Corpus` into ``directory``.

    per_kind, long_per_kind: short and long clips of each kind of sound.
    digit_variants: variants of each training recording; the first is the recording itself.
    """
    # under another name until all is there: a run that was cut off leaves nothing half made
    target, directory = directory, directory.with_name(f"{directory.name}.part-{os.getpid()}")
    directory.mkdir(parents=True)
    short = _jobs(fsdd_dir, per_kind, digit_variants, longer=False)
    long = _jobs(fsdd_dir, long_per_kind, 1, longer=True)
    shapes = {
        "short": ((len(short), 2, FRAMES, MELS), np.float16),
        "long": ((len(long), LONG_FRAMES, MELS), np.float16),
        "long_frames": ((len(long),), np.int64),
    }
    for name, (shape, dtype) in shapes.items():
        np.lib.format.open_memmap(directory / f"{name}.npy", "w+", dtype, shape)
    tasks: Iterable[tuple[int, Job]] = [*enumerate(short), *enumerate(long)]
    with multiprocessing.Pool(processes, _open, (directory,)) as pool:
        done = pool.imap_unordered(_work, tasks, chunksize=16)
        for _ in tqdm(done, total=len(short) + len(long), desc="clips", mininterval=2):
            pass
    np.save(directory / "long_labels.npy", np.asarray([job.label for job in long], np.int64))
    np.save(directory / "short_labels.npy", np.asarray([job.label for job in short], np.int64))
    directory.rename(target)


def load(directory: Path, fusion: bool) -> Corpus:
    """Read the clips that `build` wrote, all into memory: about 3 GB, fused 5 GB."""
    bank = 1 if fusion else 0
    long = np.load(directory / "long.npy", mmap_mode="r")
    corpus = Corpus(
        np.array(np.load(directory / "short.npy", mmap_mode="r")[:, bank]),
        np.load(directory / "short_labels.npy"),
        np.array(long) if fusion else long[:0],
        np.load(directory / "long_labels.npy"),
        np.load(directory / "long_frames.npy"),
    )
    assert corpus.short_labels.max() < len(LABELS)
    return corpus
