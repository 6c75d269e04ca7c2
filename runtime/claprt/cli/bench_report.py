"""`claprt bench report`."""

from __future__ import annotations

import argparse

from claprt.cli.output import print_json
from claprt.errors import OptionError


def run_report(args: argparse.Namespace) -> int:
    """Write results as one HTML page. `args` has `documents` and `output` (paths) and `json`."""
    from claprt_bench.document import check_writable, read_document
    from claprt_bench.report import write_report

    check_writable(args.output)
    if args.output.exists() and any(path.exists() and path.samefile(args.output) for path in args.documents):
        raise OptionError(f"the report would replace a result: {args.output}; choose another path for it")
    write_report([read_document(path) for path in args.documents], args.output)
    if args.json:
        print_json({"report": str(args.output), "results": [str(path) for path in args.documents]})
    else:
        print(f"{args.output}: {len(args.documents)} result{'' if len(args.documents) == 1 else 's'}")
    return 0
