"""Heads: what is saved comes back, probabilities are scikit-learn's, another space and forged files are refused."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import claprt
from claprt import BundleError, Embeddings, Head, OptionError, SpaceMismatchError, load_head
from tests.runtime.cli_helpers import Cli


def head(space_id: str = "space", dim: int = 4, classes: tuple[str, ...] = ("dog", "naïve 🎺", "rain")) -> Head:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((len(classes), dim)).astype(np.float32)
    return Head(classes, weights, rng.standard_normal(len(classes)).astype(np.float32), space_id, "12 sounds")


def vectors(count: int, dim: int = 4, seed: int = 1) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    result: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return result


def test_probabilities_are_scikit_learns() -> None:
    x, y = vectors(60, dim=6), np.random.default_rng(0).integers(0, 4, 60)
    model = LogisticRegression(C=30.0).fit(x, y)
    ours = Head(["a", "b", "c", "d"], model.coef_.astype(np.float32), model.intercept_.astype(np.float32), "space")
    unseen = vectors(20, dim=6, seed=2)
    expected = model.predict_proba(unseen.astype(float))
    np.testing.assert_allclose(ours.probabilities(unseen), expected, atol=1e-6)
    for row, predictions in zip(expected, ours.classify(unseen), strict=True):
        assert [item.label for item in predictions] == ["abcd"[i] for i in np.argsort(-row)]
        assert [item.probability for item in predictions] == pytest.approx(sorted(row, reverse=True), abs=1e-6)


def test_weights_of_any_size_overflow_nothing() -> None:
    large = Head(["a", "b"], np.array([[1e30], [-1e30]], np.float32), np.zeros(2, np.float32), "space")
    assert large.probabilities(np.array([[1.0], [-1.0], [0.0]], np.float32)).tolist() == [[1, 0], [0, 1], [0.5, 0.5]]
    assert large.classify(np.empty((0, 1), np.float32)) == []


def test_a_saved_head_comes_back(tmp_path: Path) -> None:
    saved = head()
    saved.save(tmp_path / "head")
    assert [path.name for path in tmp_path.iterdir()] == ["head"]
    loaded = load_head(tmp_path / "head")
    assert (list(loaded.classes), loaded.space_id, loaded.trained, loaded.dim) == (
        list(saved.classes),
        "space",
        "12 sounds",
        4,
    )
    np.testing.assert_array_equal(loaded.weights, saved.weights)
    np.testing.assert_array_equal(loaded.bias, saved.bias)
    assert loaded.weights.dtype == loaded.bias.dtype == np.float32


def test_the_space_is_checked() -> None:
    with pytest.raises(SpaceMismatchError, match="another space: space, these are of other"):
        head().classify(Embeddings(["x"], vectors(1), "other"))
    with pytest.raises(SpaceMismatchError, match=r"takes vectors \(n, 4\); the shape is \(1, 5\)"):
        head().probabilities(vectors(1, dim=5))
    with pytest.raises(SpaceMismatchError, match=r"\(4,\)"):
        head().probabilities(vectors(1)[0])
    assert len(head().classify(Embeddings(["x"], vectors(1), "space"))[0]) == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": np.zeros((2, 4), np.float32)}, "do not belong together"),
        ({"weights": np.zeros(3, np.float32)}, "do not belong together"),
        ({"bias": np.zeros(2, np.float32)}, "do not belong together"),
        ({"classes": ["a", "b", "a"]}, "two or more different names"),
        ({"classes": ["a", "b", ""]}, "two or more different names"),
        ({"weights": np.full((3, 4), np.nan, np.float32)}, "not a finite number"),
        ({"bias": np.full(3, np.inf, np.float32)}, "not a finite number"),
    ],
)
def test_fields_that_make_no_head(changes: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {"classes": ["a", "b", "c"], "weights": np.zeros((3, 4), np.float32)}
    with pytest.raises(OptionError, match=reason):
        Head(**(fields | {"bias": np.zeros(3, np.float32), "space_id": "x"} | changes))


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the head cannot be written"):
        head().save(tmp_path / "missing" / "head")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OptionError, match="not a regular file"):
        head().save(tmp_path / "pipe")


GOOD: dict[str, Any] = {
    "format": np.array("claprt-head"),
    "schema_version": np.array(1),
    "classes": np.array(["a", "b"]),
    "weights": np.zeros((2, 4), np.float32),
    "bias": np.zeros(2, np.float32),
    "space_id": np.array("x"),
    "trained": np.array(""),
}


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_the_format(tmp_path: Path) -> None:
    """Other programs write such files: these arrays and no more."""
    (tmp_path / "head").write_bytes(npz(**GOOD))
    assert load_head(tmp_path / "head").classes == ["a", "b"]
    head().save(tmp_path / "ours")
    with np.load(tmp_path / "ours", allow_pickle=False) as archive:
        assert {name: archive[name].dtype.kind for name in archive} == {
            name: array.dtype.kind for name, array in GOOD.items()
        }


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in GOOD),
        {"format": np.array("claprt-bundle")},
        {"format": np.array(["claprt-head"])},
        {"schema_version": np.array(2)},
        {"schema_version": np.array(1.0)},
        {"schema_version": np.array([1])},
        {"classes": np.array([1, 2])},
        {"classes": np.array("ab")},
        {"classes": np.array(["a", "a"])},
        {"classes": np.array(["a"]), "weights": np.zeros((1, 4), np.float32), "bias": np.zeros(1, np.float32)},
        {"weights": np.zeros((2, 4))},
        {"weights": np.zeros((3, 4), np.float32)},
        {"weights": np.zeros((2, 4, 1), np.float32)},
        {"weights": np.full((2, 4), np.nan, np.float32)},
        {"bias": np.zeros(3, np.float32)},
        {"bias": np.array(["a", "b"])},
        {"space_id": np.array(1)},
        {"trained": np.array([""])},
    ],
    ids=lambda changes: ",".join(f"{k} {v if v is None else (v.dtype, v.shape)}" for k, v in changes.items()),
)
def test_forged_archives(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "head"
    path.write_bytes(npz(**{name: array for name, array in (GOOD | changes).items() if array is not None}))
    with pytest.raises(BundleError, match=r"not a head|of another version") as caught:
        load_head(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    """What a pickle runs when it is opened: here it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("holder", ["pickle", *GOOD])
def test_pickles_are_refused_and_not_run(tmp_path: Path, holder: str) -> None:
    bomb, path = Bomb(tmp_path / "executed"), tmp_path / "head"
    objects = np.array([bomb], dtype=object)
    path.write_bytes(pickle.dumps(bomb) if holder == "pickle" else npz(**(GOOD | {holder: objects})))
    with pytest.raises(BundleError, match="not a head"):
        load_head(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [None, b"", b"hello\n", npz(**GOOD)[:-40], npz(**GOOD).replace(b"NUMPY", b"numpy")])
def test_files_that_are_no_head(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "head"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match="not a head") as caught:
        load_head(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="not a head"):
        load_head(tmp_path)


# claprt classify --head


def test_classify_with_a_head(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """A table of classes and probabilities, and JSON: both are what the library gives."""
    clap = claprt.load(demo_bundle)
    ours = head(clap.space_id, clap.embedding_dim)
    ours.save(tmp_path / "head.npz")
    files = [sounds / "one.wav", sounds / "two.wav"]
    expected = ours.classify(clap.embed_audio(files))
    result = cli("classify", demo_bundle, *files, "--head", tmp_path / "head.npz", "--top", "2")
    assert (result.code, result.err) == (0, "")
    header, _, *rows = result.out.splitlines()
    assert header.split() == ["file", "best", "class", "probability", "then"]
    for row, file, (best, second, _) in zip(rows, files, expected, strict=True):
        assert " ".join(row.split()) == (
            f"{file} {best.label} {100 * best.probability:.1f} % {second.label} {100 * second.probability:.1f} %"
        )
    result = cli("classify", demo_bundle, *files, sounds / "text.wav", "--head", tmp_path / "head.npz", "--json")
    assert result.code == 1
    assert result.json["labels"] == list(ours.classes)
    assert result.json["trained"] == "12 sounds"
    for entry, predictions in zip(result.json["results"], expected, strict=True):
        assert entry["predictions"] == [pytest.approx(item._asdict(), abs=1e-6) for item in predictions]
    assert [error["file"] for error in result.json["errors"]] == [str(sounds / "text.wav")]


def test_heads_that_classify_refuses(cli: Cli, demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    head("another").save(tmp_path / "head.npz")
    given = ["classify", demo_bundle, sounds / "two.wav", "--head"]
    assert "another space" in cli(*given, tmp_path / "head.npz").error
    assert "not a head" in cli(*given, sounds / "two.wav").error
    assert "--template is for labels" in cli(*given, tmp_path / "head.npz", "--template", "{}").error
    both = cli(*given, tmp_path / "head.npz", "--labels", "a,b")
    assert (both.code, both.out) == (2, "")
    assert "not allowed with" in both.err


def test_a_head_of_lists(tmp_path: Path) -> None:
    """Numbers become float32, so that what is saved can be loaded."""
    made = Head(["a", "b"], [[1.0, 0.0], [0.0, 1.0]], [0, 0], "space")  # type: ignore[arg-type]
    assert made.classify([[1.0, 0.0]])[0][0].label == "a"  # type: ignore[arg-type]
    made.save(tmp_path / "head")
    np.testing.assert_array_equal(load_head(tmp_path / "head").weights, np.eye(2, dtype=np.float32))


@pytest.mark.parametrize("given", ["x", None, [["x"]], [[1.0, 2.0], [1.0]], np.full((1, 4), np.nan)])
def test_what_is_no_vectors(given: Any) -> None:
    with pytest.raises(OptionError, match=r"no array|not real numbers|not a finite number"):
        head().classify(given)


@pytest.mark.parametrize("path", ["fifo", "/dev/zero"])
def test_pipes_and_devices_are_not_read(cli: Cli, demo_bundle: Path, tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BundleError, match="not a regular file"):
        load_head(tmp_path / path)
    assert "not a regular file" in cli("classify", demo_bundle, "x.wav", "--head", tmp_path / path).error
