"""Options that take several values, separated by commas."""

from __future__ import annotations

from claprt.errors import OptionError


def names(text: str) -> tuple[str, ...]:
    """Names, each once, in their order."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def steps(text: str, option: str) -> tuple[int, ...]:
    """Integers from 0.

    Raises:
        OptionError: something else is among them.
    """
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not all(name.isascii() and name.isdigit() and len(name) <= 9 for name in found):
        raise OptionError(f"bad {option}: {text!r}; pass integers separated by commas, such as 1,8,64")
    return tuple(int(name) for name in found)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Decimal numbers.

    Raises:
        OptionError: something else is among them.
    """
    try:
        return tuple(float(name) for name in names(text))
    except ValueError:
        raise OptionError(f"bad {option}: {text!r}; pass numbers separated by commas, such as 10,20.5") from None
