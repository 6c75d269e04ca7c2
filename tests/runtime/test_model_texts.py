"""The public face: texts, similarity and classification are those of transformers; what cannot be is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from claprt import Clap, Embeddings
from claprt.audio_io import open_audio
from claprt.errors import ClaprtWarning, OptionError, SpaceMismatchError, TextError
from claprt.model import DEFAULT_TEMPLATE
from claprt.resample import resample_blocks
from tests.runtime.model_helpers import RATE, TEXTS, Wave, assert_unit, noise

LONG_TEXT = " ".join(f"word{number}" for number in range(10_000))


@pytest.fixture(scope="module")
def checkpoint(either: Clap) -> Any:
    """The real transformers model of the same bundle."""
    from claprt_export.checkpoint import load_checkpoint

    return load_checkpoint("demo-fused" if either.manifest.audio.fusion else "demo")


@pytest.fixture(scope="module")
def recordings(shared_audio: Path) -> list[Wave]:
    """The beginnings of real recordings, of different lengths up to 10 s, at 48 kHz."""
    waves = []
    for path, seconds in zip(sorted(shared_audio.glob("*.ogg")), (10.0, 7.3, 3.1, 9.999, 0.8), strict=False):
        with open_audio(path) as source:
            whole = np.concatenate(list(resample_blocks(source.blocks(), source.sampling_rate, RATE)))
        waves.append(whole[: round(seconds * RATE)])
    assert len(waves) >= 3
    return waves


# Texts


def test_text_vectors_are_unit_rows_in_order(either: Clap) -> None:
    vectors = either.embed_text(TEXTS)
    assert_unit(vectors, len(TEXTS), either)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(either.embed_text([text])[0], vector, atol=1e-6)
    np.testing.assert_allclose(either.embed_text(tuple(TEXTS[::-1])), vectors[::-1], atol=1e-6)


def test_no_texts_give_no_vectors(clap: Clap) -> None:
    vectors = clap.embed_text([])
    assert vectors.shape == (0, clap.embedding_dim)
    assert vectors.dtype == np.float32


def test_a_text_does_not_depend_on_its_neighbours(clap: Clap) -> None:
    """Neither on their length (padding) nor on their number (several runs)."""
    alone = clap.embed_text(["a dog barking"])[0]
    for neighbours in (["x"], ["long " * 60], [f"text {n}" for n in range(70)]):
        np.testing.assert_allclose(clap.embed_text(["a dog barking", *neighbours])[0], alone, atol=1e-6)
        np.testing.assert_allclose(clap.embed_text([*neighbours, "a dog barking"])[-1], alone, atol=1e-6)


def test_many_texts_come_back_in_their_order(clap: Clap) -> None:
    """They are sorted by length for the runs: each must find its way back."""
    texts = [f"{'very ' * (n * 7 % 5)}loud sound number {n}" for n in range(100)]
    one_by_one = np.concatenate([clap.embed_text([text]) for text in texts])
    np.testing.assert_allclose(clap.embed_text(texts), one_by_one, atol=1e-6)


@pytest.mark.parametrize(
    "texts",
    [
        [""],
        ["fine", " \t\n"],
        [1],
        [None],
        [b"dog"],
        ["dog \udce9"],
        "dog",
        "",
        b"dog",
        b"",
        [["dog"]],
        None,
        5,
        {"dog": 1},
    ],
    ids=repr,
)
def test_unusable_texts(clap: Clap, texts: Any) -> None:
    with pytest.raises(TextError) as caught:
        clap.embed_text(texts)
    assert "\n" not in str(caught.value)


class Labelled:
    """A column of a table: `column[key]` is a row by its label, iterating gives the rows in their order."""

    def __init__(self, rows: dict[int, str]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int) -> str:
        return self._rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows.values())


@pytest.mark.parametrize("labels", [(3, 1, 0, 2), (7, 5, 6, 8)])
def test_texts_come_in_the_order_of_iteration(clap: Clap, labels: tuple[int, ...]) -> None:
    """As in a sorted or filtered column of pandas, whose rows keep their labels; from generators and dictionaries."""
    expected = clap.embed_text(TEXTS[:4])
    rows = dict(zip(labels, TEXTS[:4], strict=True))
    given: list[Any] = [Labelled(rows), (text for text in TEXTS[:4]), rows.values(), dict.fromkeys(TEXTS[:4]).keys()]
    for texts in given:
        np.testing.assert_array_equal(clap.embed_text(texts), expected)
    assert clap.embed_labels(Labelled(rows)).names == list(TEXTS[:4])


def test_texts_equal_transformers(either: Clap, checkpoint: Any) -> None:
    from claprt_export.parity import reference_texts

    np.testing.assert_allclose(either.embed_text(TEXTS), reference_texts(checkpoint, TEXTS), atol=1e-5)


def test_ten_thousand_words_are_truncated_as_transformers_does_and_it_is_said(either: Clap, checkpoint: Any) -> None:
    from claprt_export.parity import reference_texts

    limit = either.manifest.text.max_tokens
    with pytest.warns(ClaprtWarning, match=rf"text 1 \('word0 .*more than {limit} tokens") as caught:
        vectors = either.embed_text(["short", LONG_TEXT, "short again"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(vectors[1], reference_texts(checkpoint, [LONG_TEXT])[0], atol=1e-5)


# Similarity


def test_similarity_equals_transformers(either: Clap, checkpoint: Any, recordings: list[Wave]) -> None:
    """`logits_per_audio` and its softmax, from waveforms and texts to the end, with nothing shared on the way."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    features = [
        checkpoint.feature_extractor(wave, sampling_rate=RATE, return_tensors="np")["input_features"][0]
        for wave in recordings
    ]
    tokens = checkpoint.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = checkpoint.model(
            input_features=torch.from_numpy(np.stack(features).astype(np.float32)),
            is_longer=torch.zeros((len(recordings), 1), dtype=torch.bool),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        )
    expected = output.logits_per_audio
    similarity = either.similarity(either.embed_audio(recordings), either.embed_text(TEXTS))
    assert similarity.logits.dtype == similarity.probabilities.dtype == np.float32
    assert float(expected.std()) > 0.05  # the pairs differ, else this would prove nothing
    np.testing.assert_allclose(similarity.logits, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(similarity.probabilities, expected.softmax(dim=1).numpy(), atol=1e-4)


def test_similarity_takes_embeddings_too(clap: Clap) -> None:
    audio, texts = clap.embed_audio([noise(0.2)]), clap.embed_text(TEXTS)
    named = clap.similarity(Embeddings(["a"], audio, clap.space_id), Embeddings(TEXTS, texts, clap.space_id))
    plain = clap.similarity(audio, texts)
    np.testing.assert_array_equal(named.logits, plain.logits)
    np.testing.assert_allclose(plain.probabilities.sum(axis=1), 1.0, atol=1e-6)


def test_similarity_of_nothing(clap: Clap) -> None:
    some, none = clap.embed_text(TEXTS), np.empty((0, clap.embedding_dim), np.float32)
    for audio, texts in ((none, some), (some, none), (none, none)):
        result = clap.similarity(audio, texts)
        assert result.logits.shape == result.probabilities.shape == (len(audio), len(texts))


def test_huge_scale_does_not_overflow(clap: Clap) -> None:
    """Softmax of large logits; vectors need not have unit length here."""
    vectors = clap.embed_text(TEXTS) * np.float32(100.0)
    result = clap.similarity(vectors, vectors)
    assert np.isfinite(result.probabilities).all()


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 1, 3), "one too many"])
@pytest.mark.parametrize("side", ["audio", "texts"])
def test_vectors_of_another_shape(clap: Clap, shape: Any, side: str) -> None:
    wrong = np.zeros((1, clap.embedding_dim + 1) if isinstance(shape, str) else shape, np.float32)
    right = np.zeros((1, clap.embedding_dim), np.float32)
    with pytest.raises(SpaceMismatchError, match=side):
        clap.similarity(*((wrong, right) if side == "audio" else (right, wrong)))


@pytest.mark.parametrize("side", ["audio", "texts"])
@pytest.mark.parametrize("value", ["dog", None, [["a"]], [[1.0], [1.0, 2.0]], np.nan, -np.inf], ids=repr)
def test_what_are_no_vectors(clap: Clap, value: Any, side: str) -> None:
    """NaN would come out as a probability."""
    good = clap.embed_text(TEXTS[:2])
    bad = value
    if isinstance(value, float):
        bad = good.copy()
        bad[1, 3] = value
    both = {"audio": good, "texts": good} | {side: bad}
    with pytest.raises((OptionError, SpaceMismatchError), match=rf"{side} (are|hold|must be)") as caught:
        clap.similarity(**both)
    assert "\n" not in str(caught.value)


def test_labels_to_rank_have_names(clap: Clap) -> None:
    with pytest.raises(OptionError, match="labels are list, not Embeddings; pass what embed_labels returned"):
        clap.rank(clap.embed_text(TEXTS[:1]), ["dog"])  # type: ignore[arg-type]


def test_vectors_of_another_space(clap: Clap, fused: Clap) -> None:
    """Same length, other model: the numbers would mean nothing."""
    assert clap.space_id != fused.space_id
    texts = fused.embed_labels(["dog"])
    with pytest.raises(SpaceMismatchError) as caught:
        clap.similarity(clap.embed_audio(noise(0.1)), texts)
    assert clap.space_id in str(caught.value)
    assert fused.space_id in str(caught.value)
    with pytest.raises(SpaceMismatchError):
        clap.classify(noise(0.1), texts)
    with pytest.raises(SpaceMismatchError):
        clap.rank(Embeddings(["a"], fused.embed_audio(noise(0.1)), fused.space_id), clap.embed_labels(["dog"]))


# Classification


def test_classify_is_similarity_sorted(either: Clap) -> None:
    labels = ["dog", "rain", "church bell", "siren"]
    waves = [noise(0.5, 1), noise(0.5, 2)]
    results = either.classify(waves, labels)
    expected = either.similarity(
        either.embed_audio(waves), either.embed_text([DEFAULT_TEMPLATE.replace("{}", label) for label in labels])
    )
    for row, predictions in enumerate(results):
        assert sorted(prediction.label for prediction in predictions) == sorted(labels)
        probabilities = [prediction.probability for prediction in predictions]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-6)
        for prediction in predictions:
            column = labels.index(prediction.label)
            assert prediction.probability == pytest.approx(expected.probabilities[row, column], abs=1e-5)
            cosine_found = expected.logits[row, column] / either.manifest.model.logit_scale
            assert prediction.cosine == pytest.approx(cosine_found, abs=1e-6)
            assert type(prediction.probability) is type(prediction.cosine) is float


def test_classify_one_sound_or_several(clap: Clap) -> None:
    one = clap.classify(noise(0.5), ["dog", "rain"])
    assert clap.classify([noise(0.5)], ["dog", "rain"]) == [one]
    assert clap.classify((noise(0.5),), ["dog", "rain"]) == [one]
    assert clap.classify([], ["dog", "rain"]) == []
    assert clap.classify(noise(0.5), ["dog"])[0].probability == 1.0


def test_classify_with_labels_embedded_before(clap: Clap) -> None:
    labels = ["dog", "rain"]
    assert clap.classify(noise(0.5), clap.embed_labels(labels)) == clap.classify(noise(0.5), labels)


def test_several_templates_are_averaged(clap: Clap) -> None:
    """By hand: the mean of each label's unit vectors over the templates, scaled to unit length."""
    labels, templates = ["dog", "rain", "bell"], ["{}", "This is a sound of {}.", "{} in the distance"]
    rows = []
    for label in labels:
        mean = np.mean([clap.embed_text([t.replace("{}", label)])[0].astype(np.float64) for t in templates], axis=0)
        rows.append(mean / np.linalg.norm(mean))
    found = clap.embed_labels(labels, templates)
    assert list(found.names) == labels
    assert found.space_id == clap.space_id
    np.testing.assert_allclose(found.vectors, np.array(rows), atol=1e-6)
    assert_unit(found.vectors, 3, clap)


def test_a_template_is_text_and_is_never_evaluated(clap: Clap) -> None:
    """Only `{}` is replaced: format strings could read attributes."""
    for template in ("{0.__class__} {}", "{label!r} {}", "{{}", "{}}", "%s {} %(x)s", "{}{0}", "${x}{}"):
        found = clap.embed_labels(["dog"], template).vectors
        np.testing.assert_allclose(found, clap.embed_text([template.replace("{}", "dog")]), atol=1e-6)
    for label in ("{}", "{0.__class__}", "{} {}", "%s"):
        found = clap.embed_labels([label], "a {} b").vectors
        np.testing.assert_allclose(found, clap.embed_text([f"a {label} b"]), atol=1e-6)


@pytest.mark.parametrize(
    "template",
    ["", "dog", "{} and {}", "{0}", "{0.__class__}", [], ["{}", "none"], [1], b"{}", ["{}", None], None, 5],
    ids=repr,
)
def test_bad_templates(clap: Clap, template: Any) -> None:
    with pytest.raises(OptionError, match="template"):
        clap.embed_labels(["dog"], template)


@pytest.mark.parametrize("labels", [[], "dog", [""], ["dog", " "], [1], ["\udce9"]], ids=repr)
def test_bad_labels(clap: Clap, labels: Any) -> None:
    with pytest.raises(TextError):
        clap.classify(noise(0.1), labels)


def test_a_label_given_twice(clap: Clap) -> None:
    with pytest.raises(OptionError, match="given twice: 'rain'"):
        clap.classify(noise(0.1), ["dog", "rain", "bell", "rain"])


def test_arguments_are_left_alone(clap: Clap) -> None:
    labels, templates = ["b", "a"], ["{}", "x {}"]
    before = copy.deepcopy((labels, templates))
    clap.classify([noise(0.1)], labels, templates)
    assert (labels, templates) == before
