"""`claprt classify` and `claprt embed`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from claprt.cli.bundle_files import bundle_files
from claprt.cli.output import EXIT_ERROR, EXIT_PARTIAL, print_json, print_table, report_error, report_note
from claprt.errors import ClaprtError, OptionError, TextError
from claprt.files import check_outputs, check_target, read_regular
from claprt.gpu import NO_DRIVER
from claprt.head import ClassProbability, load_head
from claprt.model import DEFAULT_TEMPLATE, Clap, Prediction, load
from claprt.printable import printable
from claprt.progress import Progress
from claprt.vectors import Embeddings

_LINES_MAX_BYTES = 64 << 20


def run_classify(args: argparse.Namespace) -> int:
    """Print a table or a JSON object with the best labels of each file."""
    if args.head:
        return _classify_with_head(args)
    _check_files(args.files)
    labels = _read_lines(args.labels_file) if args.labels_file else _split_labels(args.labels)
    clap = _load(args)
    known = clap.embed_labels(labels, args.template or DEFAULT_TEMPLATE)
    done, vectors, errors = _embed_files(clap, args.files, args.recipe)
    ranked = clap.rank(vectors, known)
    if args.json:
        print_json({**_about(clap, args.recipe), "labels": labels, **_results(done, ranked, errors)})
    elif done:
        rows = [
            [name, best.label, _percent(best.probability), f"{best.cosine:.3f}", _then(others[: args.top - 1])]
            for name, (best, *others) in zip(done, ranked, strict=True)
        ]
        then = "then" if min(args.top, len(labels)) > 1 else ""
        print_table(["file", "best label", "probability", "cosine", then], rows, right=(2, 3))
    return _report(errors, len(args.files))


def _classify_with_head(args: argparse.Namespace) -> int:
    """The same with a head's classes, which have probabilities but no cosines."""
    if args.template:
        raise OptionError(f"--template is for labels: {args.template[0]!r}; a head has no texts, leave it out")
    _check_files(args.files)
    head = load_head(args.head)
    clap = _load(args)
    head.check_space(clap.space_id)
    done, vectors, errors = _embed_files(clap, args.files, args.recipe)
    ranked = head.classify(vectors)
    if args.json:
        about = {"head": str(args.head), "trained": head.trained, "labels": list(head.classes)}
        print_json({**_about(clap, args.recipe), **about, **_results(done, ranked, errors)})
    elif done:
        rows = [
            [name, best.label, _percent(best.probability), _then(others[: args.top - 1])]
            for name, (best, *others) in zip(done, ranked, strict=True)
        ]
        print_table(["file", "best class", "probability", "then" if args.top > 1 else ""], rows, right=(2,))
    return _report(errors, len(args.files))


def _results(
    done: Sequence[str],
    ranked: Sequence[Sequence[Prediction | ClassProbability]],
    errors: Sequence[dict[str, str]],
) -> dict[str, object]:
    return {
        "results": [
            {"file": name, "predictions": [one._asdict() for one in predictions]}
            for name, predictions in zip(done, ranked, strict=True)
        ],
        "errors": errors,
    }


def _then(others: Sequence[Prediction | ClassProbability]) -> str:
    return ", ".join(f"{other.label} {_percent(other.probability)}" for other in others)


def run_embed(args: argparse.Namespace) -> int:
    """Write vectors of files or of lines of text."""
    if bool(args.files) == bool(args.texts_file):
        raise OptionError("embed needs either FILEs or --texts-file, and not both; see claprt embed --help")
    if args.texts_file and args.recipe:
        raise OptionError(f"--recipe is for sounds: {args.recipe}; leave it out with --texts-file")
    _check_files(args.files)
    check_target(args.output, "the vectors")
    texts_file = [args.texts_file] if args.texts_file else []
    check_outputs([("-o", args.output)], chain(args.files, texts_file, bundle_files(args.bundle)))
    texts = _read_lines(args.texts_file) if args.texts_file else None
    clap = _load(args)
    errors: list[dict[str, str]] = []
    if texts is not None:
        names, vectors = texts, clap.embed_text(texts)
    else:
        names, vectors, errors = _embed_files(clap, args.files, args.recipe)
    if names:
        Embeddings(names, vectors, clap.space_id).save(args.output)
    if args.json:
        written = str(args.output) if names else None
        print_json(
            {
                **_about(clap, args.recipe, sounds=texts is None),
                "output": written,
                "count": len(names),
                "dim": clap.embedding_dim,
            }
            | {"errors": errors}
        )
    elif names:
        print(f"{printable(str(args.output))}: {len(names)} vectors of {clap.embedding_dim}, space {clap.space_id}")
    return _report(errors, len(args.files))


def _check_files(files: Sequence[str]) -> None:
    if "-" in files and not Path("-").exists():
        raise OptionError("standard input is not read: '-'; pass files, such as one that it was saved to")


def _load(args: argparse.Namespace) -> Clap:
    """The bundle. Where there is a GPU, a line on stderr says what "auto" chose, and why not the others."""
    clap = load(args.bundle, args.backend, args.precision, args.threads, args.device)
    there = any(not reason.startswith(NO_DRIVER) for _, reason in clap.choice.passed_over)
    if args.backend == "auto" and (there or clap.backend != "ort-cpu"):
        report_note(f"backend {clap.choice}")
    return clap


def _embed_files(
    clap: Clap, files: Sequence[str], recipe: str | None
) -> tuple[list[str], NDArray[np.float32], list[dict[str, str]]]:
    """Vectors of the files that can be used, their names, and the errors of the others."""
    errors: list[dict[str, str]] = []
    with Progress("sounds", total=len(files), unit="file") as progress:
        current, clips = 0, 0

        def on_error(index: int, error: ClaprtError) -> None:
            errors.append({"file": files[index], "error": " ".join(str(error).split())})

        def on_progress(index: int) -> None:
            nonlocal current, clips
            progress.advance(index - current)
            clips = clips + 1 if index == current else 1
            current = index
            if clips > 1:
                progress.note(f"clip {clips} of {Path(files[index]).name}")

        indices, vectors = clap.embed_many(files, recipe=recipe, on_error=on_error, on_progress=on_progress)
        progress.advance(len(files) - current)
    return [files[index] for index in indices], vectors, errors


def _report(errors: Sequence[dict[str, str]], total: int) -> int:
    """The unusable inputs on stderr, one line each, and the exit code."""
    if not errors:
        return 0
    if total > 1:
        report_error(f"{len(errors)} of {total} files could not be used:")
    for item in errors:
        report_error(item["error"])
    return EXIT_PARTIAL if len(errors) < total else EXIT_ERROR


def _about(clap: Clap, recipe: str | None, sounds: bool = True) -> dict[str, object]:
    """Texts have no recipe."""
    return {
        "model": clap.manifest.model.source,
        "space_id": clap.space_id,
        "backend": clap.backend,
        "precision": clap.precision,
        "recipe": (recipe or clap.manifest.audio.default_recipe) if sounds else None,
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _split_labels(text: str) -> list[str]:
    labels = [label.strip() for label in text.split(",")]
    if labels and not labels[-1]:
        labels.pop()  # a trailing comma
    if not labels:
        raise TextError(f"there are no labels: --labels is {text!r}; give at least one, separated by commas")
    return labels


def _read_lines(path: Path) -> list[str]:
    """The non-blank lines of a UTF-8 file, stripped."""
    try:
        data = read_regular(path, _LINES_MAX_BYTES)
    except OSError as error:
        raise TextError(
            f"the texts cannot be read: {path}: {error.strerror}; pass a UTF-8 file with one text a line"
        ) from error
    if b"\0" in data:
        raise TextError(f"the texts are not UTF-8: {path}: byte {data.index(0)} is 0x00; convert the file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"the texts are not UTF-8: {path}: byte {error.start} is 0x{data[error.start]:02x}; convert the file"
        ) from error
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    if not lines:
        raise TextError(f"there are no texts: {path} has only blank lines; write one text a line")
    return lines
