"""`python -m claprt_export.demo.write_sounds DIR`: demo sounds as files of several formats, rates and channel counts.

Besides DIR it writes `labels.txt` beside it, one label a line. Needs numpy, soundfile and soxr; no torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr

from claprt_export.demo import sounds

# Seeds that neither training nor the test sets use.
_FIRST_SEED = 9_000_000
# (suffix, subtype, sampling rate, channels), taken in turn.
_FORMATS = (
    ("wav", "PCM_16", 48_000, 1),
    ("flac", "PCM_24", 44_100, 2),
    ("ogg", "VORBIS", 48_000, 1),
    ("wav", "PCM_U8", 16_000, 1),
    ("mp3", "MPEG_LAYER_III", 44_100, 2),
    ("aiff", "PCM_16", 22_050, 1),
    ("wav", "FLOAT", 96_000, 6),
)


def write_sounds(directory: Path, count: int = 14) -> list[Path]:
    """Write the first `count` kinds of demo sound into `directory`, one file each; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, kind in enumerate(sounds.KINDS[:count]):
        suffix, subtype, rate, channels = _FORMATS[index % len(_FORMATS)]
        waveform = sounds.render(kind, _FIRST_SEED + index)
        if rate != sounds.SAMPLING_RATE:
            waveform = soxr.resample(waveform, sounds.SAMPLING_RATE, rate)
        waveform = np.clip(waveform, -1.0, 1.0)
        path = directory / f"{kind.replace(' ', '-')}.{suffix}"
        soundfile.write(path, np.repeat(waveform[:, None], channels, axis=1), rate, subtype=subtype)
        paths.append(path)
    return paths


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write demo sounds into DIR and labels.txt beside it.")
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--count", type=int, default=14, help="how many kinds (14)")
    args = parser.parse_args()
    write_sounds(args.directory, args.count)
    labels = args.directory.parent / "labels.txt"
    labels.write_text("".join(f"{kind}\n" for kind in sounds.KINDS), encoding="utf-8")


if __name__ == "__main__":
    main()
