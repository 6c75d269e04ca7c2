"""Ids and masks equal transformers' with `padding=True, truncation=True`, on texts chosen to disagree."""

from __future__ import annotations

import dataclasses
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from claprt.bpe import ByteLevelBpe
from claprt.bundle import open_bundle
from claprt.errors import BundleError, ClaprtWarning, TextError
from claprt.manifest import TextInfo, TokenizerProbe
from claprt.tokenizer import Tokenizer

WRITTEN = [
    "a",
    "dog",
    " leading and trailing ",
    "two  spaces",
    "tab\tnew\nline\r\ncarriage",
    "MiXeD CaSe",
    "don't we'll I'd they've it's 'quoted'",
    "1 22 333 4444 3.14159 1e-10 0x7f 2×4 ½ Ⅻ ١٢٣",
    "¿Qué? ¡Sí! naïve café Ångström straße ĳ",
    "cafe\u0301 versus café",
    "ﬁ ligature, ｆｕｌｌ width, x² H₂O",
    "你好，世界 犬が吠える 개가 짖는다",
    "Привет Γειά שלום مرحبا नमस्ते สวัสดี",
    "\u202eright to left override\u202c",
    "🎺 🎻 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️",
    "zero\u200bwidth\u200djoiner\ufeffbom",
    "no\u00a0break\u2003em\u3000ideographic",
    "\u0001\u0002\u007f control \u009f",
    "nul\0inside",
    "\ufffd \uffff \U0010ffff",
    "<s>",
    "</s>",
    "<pad>",
    "<mask>",
    "<unk>",
    "a <s> b </s> c <pad> d <mask> e <unk> f",
    "<mask><mask>",
    " <mask> and <mask> ",
    "< s > <S> <S/> <|endoftext|> [CLS] [MASK]",
    "Ġ Ċ ## ▁ @@",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "a" * 400,
    "ab " * 200,
    "x" * 3000,
    "word " * 600,
    "🎺" * 200,
    "engine, " * 300,
]


def random_texts(count: int) -> list[str]:
    """Texts of characters from all of Unicode, ASCII most of the time; surrogates are not characters."""
    rng = random.Random(11)
    result = []
    for _ in range(count):
        characters = []
        for _ in range(rng.randint(1, 60)):
            top = rng.choice([0x7F, 0x7F, 0x7F, 0x24F, 0x2FFF, 0xFFFF, 0x10FFFF])
            code = rng.randint(32, top)
            characters.append(chr(code) if not 0xD800 <= code <= 0xDFFF else " ")
        text = "".join(characters)
        result.append(text if text.strip() else "x")
    return result


TEXTS = WRITTEN + random_texts(300)


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' tokenizer of the same checkpoint."""
    from claprt_export.checkpoint import load_checkpoint

    return load_checkpoint("demo")


@pytest.fixture(scope="module")
def info(demo_bundle: Path) -> TextInfo:
    return open_bundle(demo_bundle).manifest.text


@pytest.fixture(scope="module")
def file(demo_bundle: Path, info: TextInfo) -> Path:
    return demo_bundle / info.tokenizer.file


@pytest.fixture(scope="module")
def tokenizer(file: Path, info: TextInfo) -> Tokenizer:
    return Tokenizer(file, info)


def expected(reference: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    tokens = reference.tokenizer(
        texts, padding=True, truncation=True, max_length=reference.max_tokens, return_tensors="np"
    )
    return tokens["input_ids"], tokens["attention_mask"]


@pytest.mark.parametrize("size", [1, 7, len(TEXTS)], ids=lambda size: f"{size} at once")
def test_ids_and_masks_equal_transformers(tokenizer: Tokenizer, reference: Any, size: int) -> None:
    """Alone, in small batches with their padding, and all together."""
    assert len(TEXTS) > 300
    for start in range(0, len(TEXTS), size):
        texts = TEXTS[start : start + size]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ClaprtWarning)
            ids, mask = tokenizer(texts)
        assert ids.dtype == mask.dtype == np.int64
        expected_ids, expected_mask = expected(reference, texts)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(mask, expected_mask)


def test_limit_is_exact(tokenizer: Tokenizer, info: TextInfo) -> None:
    """A text of just as many tokens as the tower takes is whole: no warning."""
    text = "a" + " a" * (info.max_tokens - 3)
    ids, _ = tokenizer([text])
    assert ids.shape == (1, info.max_tokens)
    with pytest.warns(ClaprtWarning, match="truncated"):
        cut, _ = tokenizer([text + " a"])
    np.testing.assert_array_equal(cut, ids)


def test_warning_names_the_text_that_was_cut(tokenizer: Tokenizer) -> None:
    with pytest.warns(ClaprtWarning, match=r"text 1 \('dog dog ") as caught:
        tokenizer(["short", "dog " * 1000, "short"])
    assert len(caught) == 1
    with pytest.warns(ClaprtWarning, match="text 42 "):
        tokenizer(["dog " * 1000], [42])


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ([], "no texts"),
        ("dog", "expected a list of texts, got one str"),
        (b"dog", "expected a list of texts, got one bytes"),
        (["dog", ""], "text 1 is ''"),
        (["\t\u2003\n"], "text 0 is"),
        ([None], "text 0 is NoneType"),
        ([b"dog"], "text 0 is bytes"),
        (["a", 1.5], "text 1 is float"),
        (["fine", "dog \udce9"], "text 1 has a lone surrogate at character 4"),
    ],
)
def test_unusable_texts(tokenizer: Tokenizer, texts: Any, reason: str) -> None:
    with pytest.raises(TextError, match=reason) as caught:
        tokenizer(texts)
    assert "\n" not in str(caught.value)


# Files that are not the tokenizer of this model.


def test_probe_catches_another_tokenizer(file: Path, info: TextInfo) -> None:
    probe = TokenizerProbe(info.probe.text, (*info.probe.ids[:-1], 0))
    with pytest.raises(BundleError, match="does not give the ids of the export"):
        Tokenizer(file, dataclasses.replace(info, probe=probe))


def test_vocabulary_must_fit_the_tower(file: Path, info: TextInfo) -> None:
    with pytest.raises(BundleError, match="the tower has 100 embeddings"):
        Tokenizer(file, dataclasses.replace(info, vocab_size=100))


def test_limit_below_the_special_tokens(file: Path, info: TextInfo, tmp_path: Path) -> None:
    """A tokenizer that adds more special tokens than the tower has positions."""
    document = json.loads(file.read_text(encoding="utf-8"))
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start] * (info.max_tokens + 1),
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(BundleError):
        Tokenizer(tmp_path / "t.json", info)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"version": "1.0", "model": {"type": "X"}}']
)
def test_files_that_are_no_tokenizer(info: TextInfo, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="the tokenizer cannot be read") as caught:
        Tokenizer(path, info)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Against the `tokenizers` library, in forms that the demo's file does not have.


@pytest.fixture(scope="module")
def document(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def same_as_tokenizers(document: Any, texts: list[str]) -> None:
    import tokenizers

    theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
    ours = ByteLevelBpe(document)
    for text in texts:
        assert ours.encode(text, 10**9) == (theirs.encode(text).ids, False), text


def test_every_character_of_unicode(document: Any) -> None:
    """The two libraries bring two regular expression engines: which characters are letters, digits, space?"""
    planes = [*range(4), 14]  # the others have no characters, or private ones
    characters = [chr(code) for plane in planes for code in range(plane << 16, (plane + 1) << 16)]
    characters = [character for character in characters if not "\ud800" <= character <= "\udfff"]
    texts = ["".join(f"a{c}b {c}{c} 1{c}" for c in characters[i : i + 64]) for i in range(0, len(characters), 64)]
    same_as_tokenizers(document, texts)


def changed(document: Any, form: str) -> Any:
    """The demo's tokenizer in another of the forms that RoBERTa's files come in."""
    result = json.loads(json.dumps(document))
    model, added = result["model"], result["added_tokens"]
    if form == "merges as strings":
        model["merges"] = [" ".join(merge) for merge in model["merges"]]
    elif form == "mask swallows":  # the hub's roberta-base
        added[4].update(lstrip=True)
        for token in added[:4]:
            token["normalized"] = True
    elif form == "all swallow":
        for number, token in enumerate(added):
            token.update(lstrip=number % 2 == 0, rstrip=number % 3 == 0, normalized=number > 2)
    elif form == "longest first":
        added.append({**added[0], "content": "<s><mask>", "id": 1024})
        added.append({**added[0], "content": "dog", "id": 1025, "normalized": True})
    elif form == "a space first":
        result["pre_tokenizer"]["add_prefix_space"] = True
    elif form == "template":
        pieces = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        special = {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
        result["post_processor"] = {"type": "TemplateProcessing", "single": pieces, "pair": []}
        result["post_processor"]["special_tokens"] = special
    else:
        raise AssertionError(form)
    return result


@pytest.mark.parametrize(
    "form", ["merges as strings", "mask swallows", "all swallow", "longest first", "a space first", "template"]
)
def test_other_forms_of_the_file(document: Any, form: str) -> None:
    spaces = "\t \x0b\x85\xa0\u1680\u2003\u2028\u3000\x1c\u200b"
    swallowed = [f"a{spaces[i:j]}<mask>{spaces[i:j]}<s>{spaces[i:j]}b" for i in range(11) for j in range(i, 11)]
    same_as_tokenizers(changed(document, form), TEXTS + swallowed + ["a dog<s><mask>hotdog <s> <mask>dog", " dog "])


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        (("normalizer",), {"type": "Lowercase"}, "normalizer is"),
        (("pre_tokenizer",), {"type": "Whitespace"}, "pre_tokenizer.type is 'Whitespace'"),
        (("pre_tokenizer", "use_regex"), False, "pre_tokenizer.use_regex is False"),
        (("model", "type"), "WordPiece", "model.type is 'WordPiece'"),
        (("model", "ignore_merges"), True, "model.ignore_merges is True"),
        (("model", "dropout"), 0.1, "model.dropout is 0.1"),
        (("post_processor",), None, "post_processor.type is None"),
        (("added_tokens", 0, "single_word"), True, "single_word True"),
        (("model", "merges"), [["i", "n"], ["i", "n"]], "makes 1 of its tokens twice"),
        (("model", "vocab"), {"a": 0}, "it has no 'Ā'"),
        (("model", "merges"), [["i"]], "not enough values"),
        (("model", "vocab", "dog"), -1, "natural number"),
        (("model", "vocab", "dog"), 1.5, "natural number"),
    ],
)
def test_other_kinds_of_tokenizers(
    document: Any, info: TextInfo, tmp_path: Path, part: tuple[Any, ...], value: Any, reason: str
) -> None:
    """What `claprt.bpe` does not do is refused by name, not done differently."""
    document = json.loads(json.dumps(document))
    place = document
    for key in part[:-1]:
        place = place[key]
    place[part[-1]] = value
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=reason) as caught:
        Tokenizer(tmp_path / "t.json", info)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a" * 1_000_000, "^" * 1_000_000, "a " * 500_000, "é" * 500_000, " " * 99_999 + "a"])
def test_long_texts(document: Any, text: str) -> None:
    same_as_tokenizers(document, [text])


@pytest.mark.parametrize("space", [" ", "\n", "\u3000"])
def test_very_long_white_space(tokenizer: Tokenizer, space: str) -> None:
    """A million of these in a row is more than tiktoken's regular expressions take."""
    with pytest.raises(TextError, match="text 1 has 1000000 such characters in a row"):
        tokenizer(["a", "a" + space * 1_000_000 + "b"])
