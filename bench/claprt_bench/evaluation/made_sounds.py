"""`python -m claprt_bench.evaluation.made_sounds DIR`: sounds that a program makes, with captions, for `claprt eval`.

Of each kind of demo sound the first `--per-kind` that training never used (claprt_export.demo.testset) become a FLAC
file, and `captions.csv` gets the columns path, label and caption_1 to caption_5: different phrases for the kind in
different templates of the training captions. Captions say what kind a sound is, not which one of its kind: with one of
each kind a caption has one right sound, with more, retrieval can only guess among them.

claprt eval BUNDLE DIR/captions.csv --task retrieval
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile

from claprt.cli.output import EXIT_ERROR, report_error
from claprt.errors import ClaprtError, OptionError
from claprt.progress import Progress
from claprt_bench.document import check_writable, write_whole
from claprt_export.demo.captions import TEMPLATES, phrases
from claprt_export.demo.sounds import KINDS, SAMPLING_RATE
from claprt_export.demo.testset import synthetic_test_set

CAPTIONS = 5


def write_sounds(folder: Path, per_kind: int = 1) -> int:
    """Write the sounds and their table; returns how many there are.

    Raises:
        OptionError: the folder cannot be written, or per_kind is less than 1.
    """
    if per_kind < 1:
        raise OptionError(f"bad number of sounds of a kind: {per_kind}; pass 1 or more")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"the folder cannot be made: {folder}: {error.strerror}; choose another") from error
    check_writable(folder / "captions.csv")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label", *(f"caption_{i + 1}" for i in range(CAPTIONS))])
    count = per_kind * len(KINDS)
    with Progress("sounds", total=count, unit="sound") as progress:
        for index, (waveform, label) in enumerate(synthetic_test_set(per_kind)):
            kind = KINDS[label]
            name = f"{kind.replace(' ', '_')}_{index // len(KINDS)}.flac"
            soundfile.write(folder / name, waveform, SAMPLING_RATE, subtype="PCM_16")
            table.writerow([name, kind, *_captions(kind)])
            progress.advance()
    write_whole(folder / "captions.csv", text.getvalue().encode())
    return count


def _captions(kind: str) -> list[str]:
    """A kind's phrases, each in a template of its own."""
    return [TEMPLATES[i].format(phrase) for i, phrase in enumerate(phrases(kind)[:CAPTIONS])]


def main(argv: Sequence[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write demo sounds with captions for claprt eval.")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--per-kind", metavar="N", type=int, default=1, help="sounds of each kind (1)")
    args = parser.parse_args(argv)
    try:
        count = write_sounds(args.folder, args.per_kind)
    except ClaprtError as error:
        report_error(str(error))
        return EXIT_ERROR
    print(f"{args.folder / 'captions.csv'}: {count} sounds, {CAPTIONS} captions each")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
