"""Byte-level byte-pair encoding, RoBERTa's: text -> token ids, from a tokenizer.json, on `tiktoken`.

The `tokenizers` library reads such files as well, but requires huggingface_hub and what that requires: 45 MB that a
runtime never uses.

The two engines define a merge differently. The file lists pairs, (a, b) -> ab, in the order of their importance;
tiktoken joins any two neighbours whose bytes together are a token, the one of lowest rank first. Ranked by their
place in the list, both give the same tokens if every token that the list makes is what its own bytes become: then a
pair (x, y) that is not in the list but spells a token never stands side by side, as it would not become that token on
its own either. The export checks that (`claprt_export.checkpoint`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# GPT-2's split of a text into pieces that are encoded each on its own.
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Unicode's White_Space, which is neither Python's `str.isspace` nor its `re`'s \s.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text itself, `<mask>` for one, with the white space that it swallows beside it."""

    content: str
    id: int
    late: bool
    swallows_left: bool
    swallows_right: bool


class ByteLevelBpe:
    """A tokenizer.json's tokenizer: pieces, merges, the tokens written into a text, and those around it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read a parsed tokenizer.json.

        Raises:
            ValueError: it is another kind of tokenizer, contradicts itself, or is no tokenizer.json; the message says
                where.
        """
        try:
            self._read(document)
        except KeyError as error:
            raise ValueError(f"it has no {error}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"it is not a tokenizer.json ({error})") from error

    def _read(self, document: Mapping[str, Any]) -> None:
        import tiktoken

        self._space_first = _check(document)
        model = document["model"]
        ranks, self._ids = _ranks(model["vocab"], [_pair(merge) for merge in model["merges"]])
        # Two searches, as `tokenizers` does it: a "normalized" token is looked for in what the others left.
        added = [_added(token, model["vocab"]) for token in document["added_tokens"]]
        groups = [[token for token in added if token.late is late] for late in (False, True)]
        self._searches = [_Search(group) for group in groups if group]
        self._before, self._after = _around(document["post_processor"])
        ids = [*model["vocab"].values(), *(token.id for token in added), *self._before, *self._after]
        if not all(type(id_) is int and id_ >= 0 for id_ in ids):
            raise ValueError("not every id is a natural number")
        self.largest_id: int = max(ids)
        self._pieces = tiktoken.Encoding("claprt", pat_str=_PIECES, mergeable_ranks=ranks, special_tokens={})

    @property
    def specials(self) -> int:
        """How many tokens stand around every text."""
        return len(self._before) + len(self._after)

    def encode(self, text: str, limit: int) -> tuple[list[int], bool]:
        """The ids of a text, the tokens around it included, at most `limit`; and whether any were left out."""
        ids: list[int] = []
        for part in self._parts(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                part = f" {part}" if self._space_first and not part.startswith(" ") else part
                ids.extend(self._ids[rank] for rank in self._pieces.encode_ordinary(part))
        room = limit - self.specials
        return [*self._before, *ids[:room], *self._after], len(ids) > room

    def _parts(self, text: str) -> Iterator[str | int]:
        """The text between the added tokens, never empty, and the ids of those, in order."""
        parts: list[str | int] = [text]
        for search in self._searches:
            parts = [found for part in parts for found in ([part] if isinstance(part, int) else search.split(part))]
        return (part for part in parts if part != "")


class _Search:
    """Finds added tokens, the leftmost first, of several there the longest."""

    def __init__(self, tokens: list[AddedToken]) -> None:
        tokens = sorted(tokens, key=lambda token: -len(token.content))
        self._tokens = {token.content: token for token in tokens}
        self._pattern = re.compile("|".join(re.escape(token.content) for token in tokens))

    def split(self, text: str) -> list[str | int]:
        parts: list[str | int] = []
        start = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match.group()]
            before = text[start : match.start()]
            parts += [before.rstrip(WHITE_SPACE) if token.swallows_left else before, token.id]
            start = match.end()
            if token.swallows_right:
                start = len(text) - len(text[start:].lstrip(WHITE_SPACE))
        return [*parts, text[start:]]


def _check(document: Mapping[str, Any]) -> bool:
    """Refuse what is not RoBERTa's kind. Returns whether a space is put before every text."""
    model, splitter = document["model"], document["pre_tokenizer"]
    found = {
        "model.type": (model["type"], "BPE"),
        "model.dropout": (model.get("dropout") or None, None),
        "model.continuing_subword_prefix": (model.get("continuing_subword_prefix") or None, None),
        "model.end_of_word_suffix": (model.get("end_of_word_suffix") or None, None),
        "model.ignore_merges": (bool(model.get("ignore_merges")), False),
        "normalizer": (document.get("normalizer"), None),
        "pre_tokenizer.type": (splitter and splitter["type"], "ByteLevel"),
        "pre_tokenizer.use_regex": (bool(splitter) and splitter.get("use_regex", True), True),
    }
    for name, (value, expected) in found.items():
        if value != expected:
            raise ValueError(f"{name} is {value!r:.60}, not RoBERTa's {expected!r}")
    return bool(splitter["add_prefix_space"])


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge: two strings, in older files one string with a space between the two."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _ranks(vocabulary: Mapping[str, int], merges: list[tuple[str, str]]) -> tuple[dict[bytes, int], list[int]]:
    """Every token's rank by its bytes, and every rank's id: first the 256 bytes, then what the merges make."""
    characters = _byte_characters()
    to_bytes = str.maketrans({character: chr(byte) for byte, character in enumerate(characters)})
    ranks = {bytes([byte]): byte for byte in range(256)}
    ids = [vocabulary[character] for character in characters]
    for left, right in merges:
        ranks[(left + right).translate(to_bytes).encode("latin-1")] = len(ids)
        ids.append(vocabulary[left + right])
    if len(ranks) != len(ids):
        raise ValueError(f"model.merges makes {len(ids) - len(ranks)} of its tokens twice")
    return ranks, ids


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's vocabulary: itself, or the next from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _added(token: Mapping[str, Any], vocabulary: Mapping[str, int]) -> AddedToken:
    """An entry of added_tokens. Where the vocabulary knows it too, `tokenizers` takes the vocabulary's id."""
    if token["single_word"] or not token["content"]:
        raise ValueError(f"added_tokens has {token['content']!r:.60} with single_word {token['single_word']!r}")
    id_ = vocabulary.get(token["content"], token["id"])
    return AddedToken(token["content"], int(id_), *(bool(token[flag]) for flag in ("normalized", "lstrip", "rstrip")))


def _around(processor: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """The ids before and after every text."""
    kind = processor and processor["type"]
    if processor and kind == "RobertaProcessing":
        return [int(processor["cls"][1])], [int(processor["sep"][1])]
    if processor and kind == "TemplateProcessing":
        ids: tuple[list[int], list[int]] = [], []
        texts = 0
        for item in processor["single"]:
            if "Sequence" in item:
                texts += 1
            else:
                ids[texts > 0].extend(map(int, processor["special_tokens"][item["SpecialToken"]["id"]]["ids"]))
        if texts == 1:
            return ids
        raise ValueError(f"post_processor.single holds the text {texts} times, not once")
    raise ValueError(f"post_processor.type is {kind!r:.60}, not 'RobertaProcessing' or 'TemplateProcessing'")
