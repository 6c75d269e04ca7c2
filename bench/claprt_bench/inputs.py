"""What is timed: 10 s clips of real recordings where there are any, else of made sounds; and short texts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.errors import AudioError
from claprt.spec import LogMelSpec
from claprt_export.demo import sounds

TEXTS = (
    "a dog barking",
    "This is a sound of rain.",
    "a church bell in the distance",
    "an ambulance siren",
    "footsteps on gravel",
    "a crowd cheering and applauding",
    "someone plays the trumpet",
    "birds singing in a forest at dawn",
    "This is a sound of thunder.",
    "a ticking clock",
    "waves on a beach",
    "a baby crying",
    "This is a sound of a helicopter.",
    "a woman reads from a book",
    "glass breaking",
    "a string orchestra plays a fast dance",
)
_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus"}
# -60 dB of full scale. Quieter clips are left out: digital silence is cheap to compute in some implementations.
_QUIET = 1e-3


def default_recordings() -> Path | None:
    """`audio/` where the tests look for recordings: in $CLAPRT_TEST_DATA, or in `shared` beside the repository."""
    shared = os.environ.get("CLAPRT_TEST_DATA", Path(__file__).resolve().parents[3] / "shared")
    folder = Path(shared) / "audio"
    return folder if folder.is_dir() else None


def clips(spec: LogMelSpec, directory: Path | None, count: int) -> tuple[str, list[NDArray[np.float32]]]:
    """`count` different clips of exactly `spec.clip_samples`, none of them silent, and a description of them.

    Takes the recordings in turn, a window of each; one that is shorter than a clip is repeated. Made sounds stand in
    where there are no recordings, or too few.

    Raises:
        AudioError: the directory has no usable recordings.
    """
    recorded: list[NDArray[np.float32]] = []
    if directory is not None:
        if not directory.is_dir():
            what = "not a directory" if directory.exists() else "no such directory"
            raise AudioError(f"no recordings: {directory}: {what}; pass a directory of sounds as --audio")
        paths = sorted(path for path in directory.rglob("*") if path.suffix.lower() in _SUFFIXES)
        turns = zip_longest(*(_windows(path, spec) for path in paths[:64]))
        recorded = list(islice((clip for turn in turns for clip in turn if clip is not None), count))
        if not recorded:
            raise AudioError(
                f"no recordings: {directory}: no file is a sound that is loud enough; pass another --audio"
            )
    made = [
        sounds.render(kind, seed=8_000_000 + index, duration=spec.clip_samples / sounds.SAMPLING_RATE)
        for index, kind in enumerate(sounds.KINDS[: count - len(recorded)])
    ]
    names = [f"{len(recorded)} of recordings"] * bool(recorded) + [f"{len(made)} made by a program"] * bool(made)
    return f"{count} different clips of {spec.clip_seconds:g} s: {', '.join(names)}", recorded + made


def _windows(path: Path, spec: LogMelSpec) -> Iterator[NDArray[np.float32]]:
    with open_audio(path) as source:
        for clip in recipes.clips(source, spec, "windows"):
            assert isinstance(clip, recipes.WaveClip)
            if float(np.sqrt(np.mean(np.square(clip.waveform)))) > _QUIET:
                yield np.resize(clip.waveform, spec.clip_samples)
