"""`python -m claprt_bench.evaluation.fsdd FSDD -o CSV`: a table of the Free Spoken Digit Dataset for `claprt eval`.

The dataset is a folder of `{digit}_{speaker}_{number}.wav`, which is no tree of classes. The table has the columns path
(relative to the table), label (the digit as a word), speaker, fold (the number) and split: numbers 0 to 4 are the test
split, which the demo checkpoints were not trained on.

Zero-shot with the prompt of the demo's own evaluation (claprt_export.demo.captions), and a probe on the test split:

claprt eval BUNDLE fsdd.csv --task zero-shot --split test --template "This is a sound of the spoken digit {}."
claprt eval BUNDLE fsdd.csv --task probe --split test
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from claprt.cli.output import EXIT_ERROR, report_error
from claprt.errors import ClaprtError
from claprt_bench.document import write_whole
from claprt_bench.errors import DatasetError
from claprt_export.demo.captions import DIGITS
from claprt_export.demo.testset import TEST_RECORDINGS

_NAME = re.compile(r"([0-9])_(.+)_([0-9]+)\.wav")


def write_table(folder: Path, output: Path) -> int:
    """Write the table of a folder of digits; returns how many there are.

    Raises:
        DatasetError: there are none.
        OptionError: the table cannot be written.
    """
    named = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.wav"))]
    rows = [(path, match) for path, match in named if match]
    if not rows:
        raise DatasetError(
            f"no spoken digits: {folder}: no file is called like 0_jackson_0.wav; pass the folder of the recordings"
        )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label", "speaker", "fold", "split"])
    for path, match in rows:
        digit, speaker, number = match.groups()
        split = "test" if int(number) in TEST_RECORDINGS else "train"
        relative = Path(os.path.relpath(path, output.absolute().parent)).as_posix()
        table.writerow([relative, DIGITS[int(digit)], speaker, number, split])
    write_whole(output, text.getvalue().encode())
    return len(rows)


def main(argv: Sequence[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a table of the Free Spoken Digit Dataset for claprt eval.")
    parser.add_argument("folder", metavar="FSDD", type=Path, help="the folder of its recordings")
    parser.add_argument("-o", "--output", metavar="CSV", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        print(f"{args.output}: {write_table(args.folder, args.output)} recordings")
    except ClaprtError as error:
        report_error(str(error))
        return EXIT_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
