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


def test_a_panic_inside_the_library_is_an_error_like_any_other(file: Path, info: TextInfo, tmp_path: Path) -> None:
    """Its Rust code panics on a broken table, with an exception that `except Exception` does not catch."""
    document = json.loads(file.read_text(encoding="utf-8"))
    document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="the tokenizer cannot be read"):
        Tokenizer(tmp_path / "t.json", info)
