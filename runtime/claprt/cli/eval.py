"""`claprt eval`: runs an evaluation and prints what a reader wants to know of it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from claprt.cli.bundle_files import bundle_files
from claprt.cli.output import EXIT_PARTIAL, print_json, print_table, report_error, report_note
from claprt.extras import BENCH
from claprt.files import check_outputs
from claprt.printable import printable
from claprt_bench.document import check_writable, write_document
from claprt_bench.evaluation.bootstrap import Bootstrap
from claprt_bench.evaluation.dataset import Options
from claprt_bench.evaluation.evaluate import evaluate
from claprt_bench.evaluation.settings import Settings

STDOUT = "-"
_SHOWN = 20
_WORST = 5
_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "map": "mAP",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "audio_to_text_r1": "R@1 audio to text",
    "text_to_audio_r1": "R@1 text to audio",
}
_DIRECTIONS = {"audio_to_text": "audio to text", "text_to_audio": "text to audio"}


def run_eval(args: argparse.Namespace) -> int:
    """Evaluate, print, write. Exit code 1 when a sound could not be used."""
    to_stdout = args.json is not None and str(args.json) == STDOUT
    json_file = None if to_stdout else args.json
    outputs = [("--json", json_file), ("--html", args.html), ("--save-head", args.save_head)]
    settings = Settings(
        task=args.task,
        precisions=tuple(name.strip() for name in args.precision.split(",") if name.strip()),
        backend=args.backend,
        threads=args.threads,
        device=args.device,
        recipe=args.recipe,
        templates=tuple(args.template or ()),
        labels_file=args.labels_file,
        folds=args.folds,
        train_head=args.save_head is not None,
        options=Options(
            path_column=args.path_column,
            label_column=args.label_column,
            caption_columns=tuple(args.caption_column or ()),
            fold_column=args.fold_column,
            split_column=args.split_column,
            label_separator=args.label_separator,
            audio_root=args.audio_root,
            split=args.split,
        ),
        bootstrap=Bootstrap(args.confidence, args.resamples, args.seed),
        outputs=tuple((option, path) for option, path in outputs if path is not None),
    )
    settings.check()
    for _, path in settings.outputs:
        check_writable(path)
    read = [args.dataset, args.labels_file] if args.labels_file else [args.dataset]
    check_outputs(settings.outputs, chain(read, bundle_files(args.bundle)))
    if args.html is not None:
        BENCH.require("a report", "matplotlib")
    write_report = importlib.import_module("claprt_bench.report").write_report if args.html is not None else None
    document, head = evaluate(args.bundle, args.dataset, settings)
    if head is not None:
        head.save(args.save_head)
    if json_file is not None:
        write_document(document, json_file)
    if write_report is not None:
        write_report([document], args.html)
    if to_stdout:
        print_json(document)
    else:
        print_evaluation(document)
    return _report(document["dataset"]["skipped"], document["dataset"]["items"])


def print_evaluation(document: Mapping[str, Any]) -> None:
    """A document of the kind "evaluation" as text."""
    print(printable(_headline(document)))
    print()
    _print_metrics(document)
    for row in document["comparisons"]:
        print(comparison(row, document["task"], document["method"]["confidence"]))
    _print_classes(document["variants"][0])
    for warning in document["warnings"]:
        report_note(f"warning: {warning}")


def comparison(row: Mapping[str, Any], task: str, confidence: float) -> str:
    """What McNemar's test and the interval of the difference say, in words."""
    what = "caption" if row["metric"].startswith("text_to_audio") else "sound"
    a, b, p = row["a"], row["b"], row["p_value"]
    difference = row["difference"]
    points = (
        f"{100 * difference['value']:+.1f} points [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
    )
    if p >= 1 - confidence:
        verdict = "no difference seen"
    else:
        verdict = f"{b} is {'better' if row['only_b'] > row['only_a'] else 'worse'}"
    metric = "" if task != "retrieval" else f", {_NAMES[row['metric']]}"
    only = f"{_count(row['only_a'], what)} right only with {a}, {row['only_b']} only with {b}"
    return f"{b} against {a}{metric}: {only}, p {_p(p)}: {verdict} ({points})"


def _headline(document: Mapping[str, Any]) -> str:
    data, method = document["dataset"], document["method"]
    of = f"{data['classes']} classes" if data["classes"] is not None else f"{data['captions']} captions"
    split = f", split {data['split']}" if data["split"] else ""
    parts = [f"{data['name']}{split}: {data['items']} sounds, {of}, {_duration(data['seconds'])}", document["task"]]
    if method["templates"]:
        parts.append(" + ".join(f'"{template}"' for template in method["templates"]))
    if method.get("held_out"):
        parts.append(method["held_out"])
    return "; ".join(parts)


def _print_metrics(document: Mapping[str, Any]) -> None:
    variants = document["variants"]
    if document["task"] == "retrieval":
        cuts = ("r1", "r5", "r10", "map10")
        rows = [
            [row["variant"], row["backend"], said, *(_figure(row["metrics"][f"{name}_{cut}"]) for cut in cuts)]
            for row in variants
            for name, said in _DIRECTIONS.items()
        ]
        header = ["variant", "backend", "", "R@1", "R@5", "R@10", "mAP@10"]
    else:
        names = list(variants[0]["metrics"])
        rows = [
            [row["variant"], row["backend"], *(_figure(row["metrics"][name]) for name in names)] for row in variants
        ]
        header = ["variant", "backend", *(_NAMES[name] for name in names)]
    print_table(header, rows)
    method = document["method"]
    confidence = f"{100 * method['confidence']:g} %"
    print(f"In brackets: {confidence} intervals, bootstrap over sounds, {method['resamples']} samples.")
    print()


def _print_classes(variant: Mapping[str, Any]) -> None:
    """The classes that are found least, and what they are taken for."""
    classes = [row for row in variant["per_class"] or () if row["recall"] is not None and row["recall"] < 1]
    worst = sorted(classes, key=lambda row: row["recall"])[:_WORST]
    if worst:
        said = ", ".join(f"{row['label']} {100 * row['recall']:.1f} % of {row['items']}" for row in worst)
        print(printable(f"Least found ({variant['variant']}): {said}"))
    confusions = variant["confusions"] or ()
    if confusions:
        said = ", ".join(f"{row['label']} for {row['predicted']} {row['items']}" for row in confusions[:_WORST])
        print(printable(f"Most often mistaken ({variant['variant']}): {said}"))


def _report(skipped: Sequence[Mapping[str, str]], used: int) -> int:
    if not skipped:
        return 0
    report_error(f"{len(skipped)} of {used + len(skipped)} sounds could not be used:")
    for item in skipped[:_SHOWN]:
        report_error(f"{item['path']}: {item['why'].removeprefix(item['path']).lstrip(': ')}")
    if len(skipped) > _SHOWN:
        report_error(f"and {len(skipped) - _SHOWN} more; --json has all of them")
    return EXIT_PARTIAL


def _figure(metric: Mapping[str, float]) -> str:
    return f"{100 * metric['value']:.1f} % [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
