"""Text -> token ids and mask."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from claprt.bpe import WHITE_SPACE, ByteLevelBpe
from claprt.errors import BundleError, ClaprtWarning, TextError
from claprt.manifest import TextInfo

# A run of white space that long could exhaust the stack of tiktoken's regular expressions, from about a million on.
_WHITE_SPACE_LIMIT = 100_000


class Tokenizer:
    """The tokenizer of a bundle. Ids and masks equal transformers' with `padding=True, truncation=True`."""

    def __init__(self, file: Path, info: TextInfo) -> None:
        """Read `file` (a tokenizer.json).

        Raises:
            BundleError: not a tokenizer, or not the one that the text tower was exported with.
        """
        hint = "build the bundle again"
        try:
            self._bpe = ByteLevelBpe(json.loads(file.read_bytes()))
        except (ValueError, RecursionError) as error:
            raise BundleError(f"the tokenizer cannot be read: {file}: {str(error).splitlines()[0]}; {hint}") from error
        self._info = info
        if self._bpe.specials >= info.max_tokens:
            raise BundleError(
                f"the tokenizer does not fit the text tower: {file}: it puts {self._bpe.specials} tokens around each "
                f"text, the tower takes {info.max_tokens} in all; {hint}"
            )
        if self._bpe.largest_id >= info.vocab_size:
            raise BundleError(
                f"the tokenizer does not fit the text tower: {file}: its largest id is {self._bpe.largest_id}, the "
                f"tower has {info.vocab_size} embeddings; {hint}"
            )
        ids = tuple(self._bpe.encode(info.probe.text, info.max_tokens)[0])
        if ids != info.probe.ids:
            raise BundleError(
                f"the tokenizer does not give the ids of the export: {file}: {info.probe.text!r} gives {ids}, the "
                f"manifest says {info.probe.ids}; {hint}"
            )

    def __call__(
        self, texts: Sequence[str], numbers: Sequence[int] | None = None, multiple: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokenize texts.

        Args:
            texts: at least one; none empty. A text longer than the tower's limit keeps its first tokens and its </s>,
                and a `ClaprtWarning` says so.
            numbers: what warnings call the texts; None counts them from 0.
            multiple: pad to a multiple of this, at most to the tower's limit, so that few lengths come up.

        Returns:
            `input_ids` and `attention_mask`, both (texts, tokens) int64, padded on the right.

        Raises:
            TextError: a text is not a string, is empty, is not valid Unicode, or has over 100,000 characters of white
                space in a row.
        """
        texts = check_texts(texts)
        rows = []
        for index, text in enumerate(texts):
            ids, cut = self._bpe.encode(text, self._info.max_tokens)
            if cut:
                number = index if numbers is None else numbers[index]
                warnings.warn(
                    f"a text was truncated: text {number} ({text[:40]!r}...) has more than "
                    f"{self._info.max_tokens} tokens, the most that the text tower takes: the rest has no effect",
                    ClaprtWarning,
                    stacklevel=3,  # who called `Clap.embed_text`
                )
            rows.append(ids)
        longest = min(-(-max(map(len, rows)) // multiple) * multiple, self._info.max_tokens)
        input_ids = np.full((len(rows), longest), self._info.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        return input_ids, attention_mask


def check_texts(texts: Iterable[str], *, least: int = 1) -> list[str]:
    """A list of texts, each of them usable, `least` of them at least.

    Raises:
        TextError: with the index and the value of the first one that is not.
    """
    if isinstance(texts, (str, bytes)):
        raise TextError(f"expected a list of texts, got one {type(texts).__name__}: {texts[:40]!r}; pass [text]")
    if isinstance(texts, Mapping):
        raise TextError(f"expected a list of texts, got a {type(texts).__name__}; pass list(…) of its keys or values")
    try:
        listed = list(texts)
    except TypeError as error:
        raise TextError(f"expected a list of texts, got {type(texts).__name__}; pass a list of strings") from error
    if len(listed) < least:
        raise TextError("there are no texts: the list is empty; pass at least one")
    for index, text in enumerate(listed):
        _check_text(index, text)
    return listed


def _check_text(index: int, text: object) -> None:
    if not isinstance(text, str):
        raise TextError(f"a text is not a string: text {index} is {type(text).__name__}: {text!r:.60}")
    if not text.strip():
        raise TextError(f"a text is empty: text {index} is {text!r}; every text needs at least one character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"a text is not valid Unicode: text {index} has a lone surrogate at character {error.start}: "
            f"{text[:40]!r}; decode the bytes it came from with the right encoding"
        ) from error
    if len(text) > _WHITE_SPACE_LIMIT:
        run = max((len(match.group()) for match in re.finditer(f"[{WHITE_SPACE}]+", text)), default=0)
        if run > _WHITE_SPACE_LIMIT:
            raise TextError(f"a text is mostly white space: text {index} has {run} such characters in a row; strip it")
