"""Text from elsewhere on a terminal: what would move the cursor, change colours or turn the line round is escaped."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji


def printable(text: str) -> str:
    """A text with its control characters, line ends and lone surrogates as Python's escapes."""
    if text.isprintable():
        return text
    return "".join(one if _is_printable(one) else repr(one)[1:-1] for one in text)


def _is_printable(character: str) -> bool:
    # Of the separators str.isprintable takes only the space; U+3000, for one, is ordinary text.
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
