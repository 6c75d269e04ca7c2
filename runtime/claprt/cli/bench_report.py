"""`claprt bench report`."""

from __future__ import annotations

import argparse

from claprt.cli.output import print_json
from claprt.files import check_outputs
from claprt.printable import printable


def run_report(args: argparse.Namespace) -> int:
    """Write results as one HTML page. `args` has `documents` and `output` (paths) and `json`."""
    from claprt_bench.comparing.fields import Fields
    from claprt_bench.comparing.quantities import metric_quantities
    from claprt_bench.document import EVALUATION, check_writable, read_document
    from claprt_bench.report import write_report

    check_writable(args.output)
    check_outputs([("-o", args.output)], args.documents)
    documents = [read_document(path) for path in args.documents]
    for path, document in zip(args.documents, documents, strict=True):
        if document["kind"] == EVALUATION:  # what cannot be compared is no result to show either
            metric_quantities(Fields(document, f"{path}: "))
    write_report(documents, args.output, [str(path) for path in args.documents])
    if args.json:
        print_json({"report": str(args.output), "results": [str(path) for path in args.documents]})
    else:
        print(f"{printable(str(args.output))}: {len(args.documents)} result{'' if len(args.documents) == 1 else 's'}")
    return 0
