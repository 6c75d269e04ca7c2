"""Text -> token ids and mask, with the `tokenizers` library alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.errors import BundleError, ClaprtWarning, TextError
from claprt.manifest import TextInfo


class Tokenizer:
    """The tokenizer of a bundle. Ids and masks equal transformers' with `padding=True, truncation=True`."""

    def __init__(self, file: Path, info: TextInfo) -> None:
        """Read `file` (a tokenizer.json).

        Raises:
            BundleError: not a tokenizer, or not the one that the text tower was exported with.
        """
        from tokenizers import Tokenizer as Backend

        hint = "build the bundle again"
        try:
            # Not from_file: its error for a path that is not UTF-8 names neither file nor reason.
            self._backend: Any = Backend.from_str(file.read_text(encoding="utf-8"))
            self._backend.no_padding()
            self._backend.enable_truncation(info.max_tokens)
            ids = tuple(self._backend.encode(info.probe.text).ids)
        except BaseException as error:  # tokenizers raises bare Exception; a panic of its Rust code is not even that
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BundleError(f"the tokenizer cannot be read: {file}: {reason}; {hint}") from error
        self._info = info
        largest = max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= info.vocab_size:
            raise BundleError(
                f"the tokenizer does not fit the text tower: {file}: its largest id is {largest}, the tower has "
                f"{info.vocab_size} embeddings; {hint}"
            )
        if ids != info.probe.ids:
            raise BundleError(
                f"the tokenizer does not give the ids of the export: {file}: {info.probe.text!r} gives {ids}, the "
                f"manifest says {info.probe.ids}; {hint}"
            )

    def __call__(
        self, texts: Sequence[str], numbers: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokenize texts.

        Args:
            texts: at least one; none empty. A text longer than the tower's limit keeps its first tokens and its </s>,
                and a `ClaprtWarning` says so.
            numbers: what warnings call the texts; None counts them from 0.

        Returns:
            `input_ids` and `attention_mask`, both (texts, longest) int64, padded on the right.

        Raises:
            TextError: a text is not a string, is empty, or is not valid Unicode.
        """
        check_texts(texts)
        rows = []
        for index, encoding in enumerate(self._backend.encode_batch(list(texts))):
            if encoding.overflowing:
                number = index if numbers is None else numbers[index]
                warnings.warn(
                    f"a text was truncated: text {number} ({texts[index][:40]!r}...) has more than "
                    f"{self._info.max_tokens} tokens, the most that the text tower takes: the rest has no effect",
                    ClaprtWarning,
                    stacklevel=3,  # who called `Clap.embed_text`
                )
            rows.append(encoding.ids)
        longest = max(map(len, rows))
        input_ids = np.full((len(rows), longest), self._info.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        return input_ids, attention_mask


def check_texts(texts: Sequence[str]) -> None:
    """Check that `texts` is a non-empty sequence of usable texts.

    Raises:
        TextError: with the index and the value of the first one that is not.
    """
    if isinstance(texts, (str, bytes)):
        raise TextError(f"expected a list of texts, got one {type(texts).__name__}: {texts[:40]!r}; pass [text]")
    if len(texts) == 0:
        raise TextError("there are no texts: the list is empty; pass at least one")
    for index, text in enumerate(texts):
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
