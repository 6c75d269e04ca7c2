"""One task, one dataset, some variants of a bundle: a document of the kind "evaluation"."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.bundle import open_bundle
from claprt.engines.ort import default_threads
from claprt.errors import AudioError, OptionError
from claprt.extras import BENCH
from claprt.files import check_outputs
from claprt.gpu import find_gpu
from claprt.head import Head
from claprt.manifest import Manifest
from claprt.model import Clap, load
from claprt.progress import Progress
from claprt.recipes import check_recipe
from claprt_bench import machine
from claprt_bench.document import EVALUATION, new_document
from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.bootstrap import Bootstrap, Share, mcnemar
from claprt_bench.evaluation.dataset import Dataset, Item, Skipped
from claprt_bench.evaluation.files import dataset_hash, enough, look_at, without_path
from claprt_bench.evaluation.probe import CS, Probe
from claprt_bench.evaluation.reading import listing_in, read_dataset
from claprt_bench.evaluation.retrieval import Retrieval
from claprt_bench.evaluation.scores import Scores
from claprt_bench.evaluation.settings import Settings
from claprt_bench.evaluation.zero_shot import ZeroShot

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "scikit-learn", "scipy")
_INTERVALS = "percentile bootstrap over sounds; Clopper-Pearson for a figure of exactly 0 or 1"


@dataclass(frozen=True, eq=False)
class _Variant:
    """One variant's scores and what the bootstrap made of them."""

    precision: str
    scores: Scores
    samples: Mapping[str, NDArray[np.float64]]


def evaluate(bundle: Path, path: Path, settings: Settings) -> tuple[dict[str, Any], Head | None]:
    """Evaluate variants of a bundle on a dataset.

    Args:
        bundle: its directory.
        path: of the dataset; see `claprt_bench.evaluation.dataset`.
        settings: what and how.

    Returns:
        The document; and the head that was asked for.

    Raises:
        OptionError, DatasetError: what was asked for does not fit the bundle or the dataset.
        BundleError, BackendError: as `claprt.load`.
        MissingExtraError: claprt[bench] is not installed.
    """
    settings.check()
    BENCH.require("claprt eval", "scikit-learn", "scipy")
    manifest = open_bundle(bundle).manifest
    check_recipe(settings.recipe or manifest.audio.default_recipe, manifest.audio.fusion)
    names = _precisions(bundle, manifest, settings)
    listed = read_dataset(path, "captions" if settings.task == "retrieval" else "labels", settings.options)
    check_outputs(settings.outputs, chain([listing_in(path)], (item.path for item in listed.items)))
    task = _task(listed, path, settings)
    found, gone = look_at(listed.items)
    skipped = [*listed.skipped, *gone]
    enough(len(found), skipped, path)
    items = {index: listed.items[index] for index in found}
    variants: list[_Variant] = []
    rows: list[dict[str, Any]] = []
    head = None
    for name in names:
        clap = _load(bundle, name, settings)
        begun = time.perf_counter()
        score = None if isinstance(task, Probe) else task.prepare(clap, listed.items)
        embedded, vectors, failed = _embed(clap, items, settings.recipe, name)
        seconds = time.perf_counter() - begun
        if variants and failed:
            raise DatasetError(f"a sound can no longer be read: {failed[0].path}: {failed[0].why}; run it again")
        skipped += failed
        enough(len(embedded), skipped, path)
        items = {index: items[index] for index in embedded}
        used = list(items.values())
        if score is not None:
            scores = score(vectors, used)
        else:
            if failed:  # what is held out is of the sounds that are left
                task = _task(replace(listed, items=tuple(used)), path, settings)
            assert isinstance(task, Probe)
            scores = _probe(task, vectors, name)
            if settings.train_head and head is None:
                about = f"logistic regression on {len(used)} sounds of {listed.name}, {clap.variant}"
                head = task.head(vectors, clap.space_id, about)
        variants.append(_Variant(name, scores, _resample(scores, settings.bootstrap, name)))
        rows.append(_row(clap, name, seconds, variants[-1], settings))
    gpu = None
    if any(row["backend"] != "ort-cpu" for row in rows):
        gpu = {key: value for key, value in asdict(find_gpu(settings.device)).items() if key != "index"}
    document = {
        **new_document(EVALUATION),
        "task": settings.task,
        "machine": {**machine.describe(_installed()), "gpu": gpu},
        "bundle": _about(manifest),
        "dataset": {
            "name": listed.name,
            "sha256": dataset_hash(items, found),
            "items": len(items),
            "classes": None if settings.task == "retrieval" else len(_classes(task)),
            "captions": sum(len(item.captions) for item in items.values()) if settings.task == "retrieval" else None,
            "seconds": round(sum(found[index].seconds for index in items), 3),
            "split": settings.options.split,
            "skipped": [asdict(one) for one in skipped],
        },
        "method": _method(task, manifest, settings),
        "variants": rows,
        "comparisons": list(_comparisons(variants, settings.bootstrap)),
        "warnings": [*listed.warnings, *dict.fromkeys(note for one in variants for note in one.scores.notes)],
    }
    return document, head


def _task(dataset: Dataset, path: Path, settings: Settings) -> ZeroShot | Retrieval | Probe:
    if settings.task == "zero-shot":
        return ZeroShot.of(dataset, path, settings.templates, settings.labels_file)
    if settings.task == "probe":
        return Probe.of(dataset, path, settings.folds, settings.bootstrap.seed)
    return Retrieval()


def _classes(task: ZeroShot | Retrieval | Probe) -> tuple[str, ...]:
    return () if isinstance(task, Retrieval) else task.classes


def _precisions(bundle: Path, manifest: Manifest, settings: Settings) -> tuple[str, ...]:
    """The precisions to run, each of which can be loaded."""
    names = tuple(dict.fromkeys(settings.precisions))
    if "all" in names:
        names = manifest.precisions
    if not names:
        raise OptionError("no precision is named; pass some, such as fp32,int8, or all")
    for name in names:
        _load(bundle, name, settings)
    return names


def _load(bundle: Path, precision: str, settings: Settings) -> Clap:
    return load(bundle, settings.backend, precision, settings.threads, settings.device)


def _embed(
    clap: Clap, items: Mapping[int, Item], recipe: str | None, name: str
) -> tuple[list[int], NDArray[np.float32], list[Skipped]]:
    """Vectors of the sounds that can be used, by the items' indices, and the others."""
    indices, sounds = list(items), list(items.values())
    failed: list[Skipped] = []
    with Progress(f"sounds, {name}", total=len(sounds), unit="file") as progress:
        current = 0

        def on_progress(index: int) -> None:
            nonlocal current
            progress.advance(index - current)
            current = index

        def on_error(index: int, error: AudioError) -> None:
            failed.append(Skipped(sounds[index].name, without_path(error, sounds[index])))

        done, vectors = clap.embed_many(
            [item.path for item in sounds], recipe=recipe, on_error=on_error, on_progress=on_progress
        )
        progress.advance(len(sounds) - current)
    return [indices[place] for place in done], vectors, failed


def _probe(task: Probe, vectors: NDArray[np.float32], name: str) -> Scores:
    with Progress(f"probe, {name}", total=len(task.folds), unit="fold") as progress:
        done: Callable[[], None] = progress.advance
        return task.score(vectors, done)


def _resample(scores: Scores, bootstrap: Bootstrap, name: str) -> dict[str, NDArray[np.float64]]:
    with Progress(f"intervals, {name}", total=bootstrap.resamples * len(scores.statistics), unit="sample") as progress:
        return {key: bootstrap.distribution(one, progress.advance) for key, one in scores.statistics.items()}


def _row(clap: Clap, name: str, seconds: float, variant: _Variant, settings: Settings) -> dict[str, Any]:
    scores = variant.scores
    return {
        "precision": name,
        "variant": clap.variant,
        "backend": clap.backend,
        "threads": settings.threads or default_threads(),
        "seconds": round(seconds, 3),
        "metrics": {
            key: settings.bootstrap.interval(one, variant.samples[key]) for key, one in scores.statistics.items()
        },
        "per_class": scores.per_class,
        "confusion": scores.confusion,
        "confusions": scores.confusions,
        "per_fold": scores.per_fold,
    }


def _comparisons(variants: Sequence[_Variant], bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    """Each pair of variants, in their order, by each metric that takes right and wrong."""
    for a, b in combinations(variants, 2):
        for metric in a.scores.right:
            only_a, only_b, p_value = mcnemar(a.scores.right[metric], b.scores.right[metric])
            first, second = a.scores.statistics[metric], b.scores.statistics[metric]
            assert isinstance(first, Share)
            assert isinstance(second, Share)
            yield {
                "a": a.precision,
                "b": b.precision,
                "metric": metric,
                "only_a": only_a,
                "only_b": only_b,
                "p_value": p_value,
                "difference": bootstrap.difference(first, second, a.samples[metric], b.samples[metric]),
            }


def _method(task: ZeroShot | Retrieval | Probe, manifest: Manifest, settings: Settings) -> dict[str, Any]:
    bootstrap = settings.bootstrap
    method: dict[str, Any] = {
        "templates": list(task.templates) if isinstance(task, ZeroShot) else [],
        "recipe": settings.recipe or manifest.audio.default_recipe,
        "confidence": bootstrap.confidence,
        "resamples": bootstrap.resamples,
        "seed": bootstrap.seed,
        "intervals": _INTERVALS,
        "folds": [fold.name for fold in task.folds] if isinstance(task, Probe) else None,
    }
    if isinstance(task, ZeroShot) and settings.labels_file is not None:
        method["labels"] = dict(zip(task.classes, task.texts, strict=True))
    if isinstance(task, Probe):
        grid = ", ".join(f"{c:g}" for c in CS)
        method["held_out"] = task.how
        method["classifier"] = f"logistic regression, L2, C of {grid} by cross-validation in the training part"
    return method


def _about(manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    return {
        "source": model.source,
        "weights_sha256": model.weights_sha256,
        "space_id": model.space_id,
        "embedding_dim": model.embedding_dim,
        "clip_seconds": manifest.audio.clip_seconds,
    }


def _installed() -> tuple[str, ...]:
    def there(name: str) -> bool:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    return tuple(name for name in _PACKAGES if there(name))
