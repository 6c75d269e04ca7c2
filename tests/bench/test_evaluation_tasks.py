"""Zero-shot, retrieval and probe on vectors that are made here: against scikit-learn and plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from claprt_bench.errors import DatasetError
from claprt_bench.evaluation.dataset import Dataset, Item
from claprt_bench.evaluation.probe import CS, Probe
from claprt_bench.evaluation.retrieval import Retrieval
from claprt_bench.evaluation.zero_shot import ZeroShot

HERE = Path("set.csv")


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)


def items_of(labels: list[tuple[str, ...]], folds: list[str] | None = None, splits: list[str] | None = None) -> Dataset:
    return Dataset(
        "set",
        tuple(
            Item(f"{i}.wav", f"/{i}.wav", own, fold=folds[i] if folds else None, split=splits[i] if splits else None)
            for i, own in enumerate(labels)
        ),
    )


# Zero-shot


def test_zero_shot_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    names = [f"class_{i}" for i in range(8)]
    truth = np.append(np.arange(8), rng.integers(0, 7, 112))  # the last class has one sound
    scores = rng.standard_normal((120, 8)) + 1.2 * np.eye(8)[truth]
    dataset = items_of([(names[i],) for i in truth])
    found = ZeroShot.of(dataset, HERE, (), None).of_scores(scores, dataset.items)
    predicted = scores.argmax(axis=1)
    values = {name: statistic.value for name, statistic in found.statistics.items()}
    assert values == {
        "top1": pytest.approx(accuracy_score(truth, predicted)),
        "top5": pytest.approx(top_k_accuracy_score(truth, scores, k=5)),
        "map": pytest.approx(average_precision_score(np.eye(8)[truth], scores, average="macro")),
    }
    assert found.confusion is not None
    assert found.confusion["labels"] == names
    assert found.confusion["counts"] == confusion_matrix(truth, predicted).tolist()
    assert found.per_class is not None
    recalls = recall_score(truth, predicted, average=None)
    precisions = precision_score(truth, predicted, average=None, zero_division=np.nan)
    for i, row in enumerate(found.per_class):
        assert (row["label"], row["items"]) == (names[i], (truth == i).sum())
        assert row["recall"] == pytest.approx(recalls[i])
        assert row["precision"] == (None if np.isnan(precisions[i]) else pytest.approx(precisions[i]))
        assert row["average_precision"] == pytest.approx(average_precision_score(truth == i, scores[:, i]))
    np.testing.assert_array_equal(found.right["top1"], truth == predicted)


def test_zero_shot_of_sounds_with_several_labels() -> None:
    """A hit in any label counts; a sound is taken for as many classes as it has; no confusion matrix."""
    dataset = items_of([("a",), ("a", "b"), ("b", "c"), ("c",)])
    scores = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.5], [0.9, 0.5, 0.6], [0.7, 0.6, 0.1]])
    found = ZeroShot.of(dataset, HERE, (), None).of_scores(scores, dataset.items)
    assert found.right["top1"].tolist() == [True, True, False, False]
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
    assert found.statistics["map"].value == pytest.approx(average_precision_score(truth, scores, average="macro"))
    assert "top5" not in found.statistics
    assert (found.confusion, found.confusions) == (None, None)
    assert found.per_class is not None
    # a: sounds 0 and 1; taken for it: 0, 2, 3. b: 1 and 2; taken for it: 1. c: 2 and 3; taken for it: 1, 2.
    assert [(row["recall"], row["precision"]) for row in found.per_class] == [(0.5, 1 / 3), (0.5, 1.0), (0.5, 0.5)]


def test_classes_that_nothing_is_or_was_taken_for() -> None:
    """0 of 0 is no figure."""
    dataset = items_of([("a",), ("b",)])
    task = ZeroShot(("a", "b", "never"), ("a", "b", "never"), ("{}",))
    found = task.of_scores(np.array([[0.9, 0.1, 0.2], [0.8, 0.1, 0.2]]), dataset.items)
    assert found.per_class is not None
    assert [(row["recall"], row["precision"]) for row in found.per_class] == [(1.0, 0.5), (0.0, None), (None, None)]
    assert found.per_class[2]["average_precision"] is None
    assert found.confusions == [{"label": "b", "predicted": "a", "items": 1}]


def test_prompts(tmp_path: Path) -> None:
    """Underscores become spaces; a file of labels says other texts and adds classes; what reads the same is refused."""
    dataset = items_of([("crying_baby",), ("10",), ("9",)])
    task = ZeroShot.of(dataset, HERE, (), None)
    assert task.classes == ("9", "10", "crying_baby")
    assert task.texts == ("9", "10", "crying baby")
    assert task.templates == ("This is a sound of {}.",)
    labels = tmp_path / "labels.txt"
    labels.write_text("\ufeff9\tnine\r\n10\tten\n\ncrying_baby\nnone_of_them\n", "utf-8")
    task = ZeroShot.of(dataset, HERE, ("{}", "the {}"), labels)
    assert task.classes == ("9", "10", "crying_baby", "none_of_them")
    assert task.texts == ("nine", "ten", "crying baby", "none of them")
    assert task.templates == ("{}", "the {}")
    with pytest.raises(DatasetError, match="'a b' and 'a_b' are 'a b' in a prompt"):
        ZeroShot.of(items_of([("a_b",), ("a b",)]), HERE, (), None)
    with pytest.raises(DatasetError, match="only class is 'a'"):
        ZeroShot.of(items_of([("a",), ("a",)]), HERE, (), None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"9\n10\n", "lacks classes of the dataset: .*: crying_baby"),
        (b"9\n9\n", "given twice"),
        (b"\n \n", "only blank lines"),
        (b"caf\xe9\n", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_bad_files_of_labels(tmp_path: Path, content: bytes | None, reason: str) -> None:
    labels = tmp_path / "labels.txt"
    if content is not None:
        labels.write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        ZeroShot.of(items_of([("crying_baby",), ("10",), ("9",)]), HERE, (), labels)


# Retrieval


def brute_force(scores: NDArray[np.float64], owner: list[int]) -> dict[str, float]:
    """The metrics by sorting and counting, query by query; scores (sounds, captions)."""
    found: dict[str, list[float]] = {}

    def add(name: str, right: list[bool]) -> None:
        for cut in (1, 5, 10):
            found.setdefault(f"{name}_r{cut}", []).append(any(right[:cut]))
        relevant, total, hits = sum(right), 0.0, 0
        for rank, is_right in enumerate(right[:10], start=1):
            hits += is_right
            total += hits / rank if is_right else 0.0
        found.setdefault(f"{name}_map10", []).append(total / min(relevant, 10))

    for sound, row in enumerate(scores):
        add("audio_to_text", [owner[caption] == sound for caption in np.argsort(-row)])
    for caption, column in enumerate(scores.T):
        add("text_to_audio", [sound == owner[caption] for sound in np.argsort(-column)])
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("counts", [[1] * 30, [5] * 30, [1, 2, 3, 12, 5, 1] * 5])
def test_retrieval_is_what_sorting_gives(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One caption, five, or different numbers of them, more than ten too; in several blocks."""
    from claprt_bench.evaluation import retrieval

    monkeypatch.setattr(retrieval, "_BLOCK", 200)
    rng = np.random.default_rng(0)
    owner = [sound for sound, count in enumerate(counts) for _ in range(count)]
    sounds = unit(rng.standard_normal((30, 16)))
    texts = unit(sounds[owner] + 0.45 * rng.standard_normal((len(owner), 16)))
    captions = [[i for i, of in enumerate(owner) if of == sound] for sound in range(30)]
    found = Retrieval().of_vectors(sounds, texts, captions)
    expected = brute_force(sounds.astype(np.float64) @ texts.astype(np.float64).T, owner)
    assert {name: one.value for name, one in found.statistics.items()} == pytest.approx(expected)
    assert expected["text_to_audio_r1"] not in (0.0, 1.0)
    assert found.right["text_to_audio_r1"].mean() == pytest.approx(expected["text_to_audio_r1"])
    assert found.right["audio_to_text_r1"].mean() == pytest.approx(expected["audio_to_text_r1"])


def test_vectors_that_are_all_alike_find_nothing() -> None:
    """Equal scores count against the query, so that a broken model is no perfect one."""
    alike = unit(np.ones((12, 4)))
    found = Retrieval().of_vectors(alike, alike, [[i] for i in range(12)])
    assert {one.value for one in found.statistics.values()} == {0.0}


def test_a_caption_that_two_sounds_share() -> None:
    """Each of them is one right answer of two for it."""
    sounds = unit(np.eye(3) + 0.01)
    found = Retrieval().of_vectors(sounds, unit(np.eye(3)[:2] + 0.01), [[0], [0], [1]])
    # sound 0: its caption ties with the same caption of sound 1. sound 1: so it does, and it is far from both.
    assert found.statistics["audio_to_text_r1"].value == pytest.approx(0.0)
    assert found.statistics["text_to_audio_r1"].value == pytest.approx(1 / 3)


# Probe


def clusters(seed: int, classes: int, each: int, spread: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    truth = np.tile(np.arange(classes), each)
    centres = rng.standard_normal((classes, 12))
    return unit(centres[truth] + spread * rng.standard_normal((len(truth), 12))), truth


def nothing() -> None:
    pass


def test_probe_leaves_one_fold_out() -> None:
    """Each fold's accuracy is that of a classifier with the chosen C that never saw it."""
    vectors, truth = clusters(0, classes=4, each=15, spread=1.6)
    folds = [str(1 + i // 12) for i in range(60)]
    dataset = items_of([(f"c{i}",) for i in truth], folds)
    task = Probe.of(dataset, HERE, None, 0)
    assert [fold.name for fold in task.folds] == ["1", "2", "3", "4", "5"]
    found = task.score(vectors, nothing)
    assert found.per_fold is not None
    predicted = np.empty(60, dtype=np.int64)
    for row in found.per_fold:
        held = np.array(folds) == row["fold"]
        assert row["c"] in CS
        model = LogisticRegression(C=row["c"], max_iter=2000).fit(vectors[~held].astype(float), truth[~held])
        predicted[held] = model.predict(vectors[held])
        assert row["accuracy"] == pytest.approx(accuracy_score(truth[held], predicted[held]))
        assert row["items"] == 12
    assert 0.5 < found.statistics["accuracy"].value < 1
    assert found.statistics["accuracy"].value == pytest.approx(accuracy_score(truth, predicted))
    assert found.statistics["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found.confusion is not None
    assert found.confusion["counts"] == confusion_matrix(truth, predicted).tolist()


def test_what_is_held_out_takes_no_part_in_training() -> None:
    """Labels of the test split may be anything: with them swapped, what was right is wrong, and the reverse."""
    vectors, truth = clusters(1, classes=2, each=30, spread=2.5)
    splits = ["train"] * 40 + ["test"] * 20
    swapped = np.append(truth[:40], 1 - truth[40:])
    accuracies = []
    for labels in (truth, swapped):
        task = Probe.of(items_of([(f"c{i}",) for i in labels], splits=splits), HERE, None, 0)
        assert [(fold.name, len(fold.train), len(fold.test)) for fold in task.folds] == [("test", 40, 20)]
        accuracies.append(task.score(vectors, nothing).statistics["accuracy"])
    assert accuracies[0].count == 20
    assert accuracies[0].value + accuracies[1].value == pytest.approx(1.0)


def test_stratified_folds() -> None:
    """Without folds of its own: every sound is held out once, each class in equal parts, by the seed."""
    dataset = items_of([(f"c{i % 3}",) for i in range(30)])
    one, again, other = (Probe.of(dataset, HERE, None, seed) for seed in (0, 0, 1))
    held = np.concatenate([fold.test for fold in one.folds])
    assert sorted(held) == list(range(30))
    for fold in one.folds:
        assert sorted(np.concatenate([fold.train, fold.test])) == list(range(30))
        assert np.bincount(one.truth[fold.test]).tolist() == [2, 2, 2]
    assert [fold.test.tolist() for fold in one.folds] == [fold.test.tolist() for fold in again.folds]
    assert [fold.test.tolist() for fold in one.folds] != [fold.test.tolist() for fold in other.folds]
    assert len(Probe.of(dataset, HERE, 10, 0).folds) == 10


def test_validation_is_held_out_where_there_is_no_test_split() -> None:
    dataset = items_of([(f"c{i % 2}",) for i in range(20)], splits=["train"] * 14 + ["val"] * 6)
    (fold,) = Probe.of(dataset, HERE, None, 0).folds
    assert fold.test.tolist() == list(range(14, 20))


def test_a_class_of_few_sounds_is_trained_without_choosing_c() -> None:
    vectors, truth = clusters(0, classes=3, each=2, spread=0.1)
    found = Probe.of(items_of([(f"c{i}",) for i in truth]), HERE, 2, 0).score(vectors, nothing)
    assert any("too few sounds" in note for note in found.notes)
    assert found.statistics["accuracy"].value == 1.0


@pytest.mark.parametrize(
    ("dataset", "folds", "reason"),
    [
        (items_of([("a", "b"), ("a",)]), None, "one class each"),
        (items_of([("a",)] * 4), None, "only class is 'a'"),
        (items_of([("a",), ("b",)] * 4), None, "a class has 4; pass a smaller --folds"),
        (items_of([("a",), ("b",)] * 4), 6, "too few sounds for 6 folds"),
        (items_of([("a",), ("a",), ("b",)], folds=["1", "1", "2"]), None, "fewer than two classes to train on"),
        (Dataset("x", (Item("a", "a", ("a",), fold="1"), Item("b", "b", ("b",)))), None, "has no fold: .*: b"),
    ],
)
def test_datasets_that_a_probe_cannot_take(dataset: Dataset, folds: int | None, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        Probe.of(dataset, HERE, folds, 0)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_head_is_the_classifier(classes: int) -> None:
    """Probabilities of the head that is saved are scikit-learn's, of two classes too."""
    vectors, truth = clusters(3, classes, each=20, spread=1.0)
    task = Probe.of(items_of([(f"c{i}",) for i in truth]), HERE, None, 0)
    head = task.head(vectors, "space", "some sounds")
    c = float(head.trained.rpartition("C = ")[2])
    model = LogisticRegression(C=c, max_iter=2000).fit(vectors.astype(float), truth)
    assert list(head.classes) == [f"c{i}" for i in range(classes)]
    np.testing.assert_allclose(head.probabilities(vectors), model.predict_proba(vectors.astype(float)), atol=1e-5)
