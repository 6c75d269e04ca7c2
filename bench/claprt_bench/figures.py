"""How figures are written: three significant digits, a unit that fits, thousands separated. For pages and terminals.

Every function takes None for "not known" and then returns `UNKNOWN`.
"""

from __future__ import annotations

import math

UNKNOWN = "–"


def number(value: float | None) -> str:
    """Three significant digits, or all of those before the point: 0.0123, 1.20, 34.5, 1,234."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)  # 9.996 is 10.0: one digit before the point more, one less after it
    if rounded != 0:
        digits = 2 - math.floor(math.log10(abs(rounded)))
    if digits > 7:
        return f"{value:.2e}"
    return f"{rounded:,.{digits}f}" if digits > 0 else f"{value:,.0f}"


def count(value: float | None) -> str:
    """A whole number in full: 12,345."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def duration(milliseconds: float | None) -> str:
    """A time in the unit that fits: 85.3 µs, 12.3 ms, 4.75 s."""
    if milliseconds is None:
        return UNKNOWN
    if abs(milliseconds) >= 999.5:
        return f"{number(milliseconds / 1000)} s"
    if abs(milliseconds) < 0.1 and milliseconds != 0:
        return f"{number(milliseconds * 1000)} µs"
    return f"{number(milliseconds)} ms"


def size(bytes_: float | None) -> str:
    """Memory in decimal units: 850 kB, 223 MB, 78.5 GB."""
    if bytes_ is None:
        return UNKNOWN
    if abs(bytes_) >= 1e9:
        return f"{number(bytes_ / 1e9)} GB"
    return f"{number(bytes_ / 1e6)} MB" if abs(bytes_) >= 1e6 else f"{number(bytes_ / 1e3)} kB"


def rate(per_second: float | None, what: str = "items") -> str:
    """A throughput: 23.1 items/s."""
    return UNKNOWN if per_second is None else f"{number(per_second)} {what}/s"


def ratio(value: float | None) -> str:
    """A factor, three digits, rounded down so that it never promises more than was measured: 2.199 is 2.19×."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value) or value <= 0:
        return f"{number(value)}×"
    step = 10.0 ** min(0, math.floor(math.log10(value)) - 2)
    # 2.30 / 0.01 is 229.99…: what floats cannot hold must not cost a digit.
    return f"{number(math.floor(value / step * (1 + 1e-12)) * step)}×"


def percent(share: float | None, sign: bool = True) -> str:
    """A share of 0 to 1: 96.0 %; without the sign for intervals and columns that name it."""
    return UNKNOWN if share is None else f"{100 * share:.1f}{' %' if sign else ''}"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, with its sign: −0.8, +1.2, 0.0."""
    if difference is None:
        return UNKNOWN
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def p_value(value: float | None) -> str:
    """A p-value with its relation: "= 0.62", "< 0.001"."""
    if value is None:
        return f"= {UNKNOWN}"
    return "< 0.001" if value < 0.001 else f"= {min(value, 1.0):.3g}"


def between(low: str, high: str) -> str:
    """An interval of two figures that are written already: "1.02 to 1.10"."""
    return UNKNOWN if UNKNOWN in (low, high) else f"{low} to {high}"


def cosine(value: float | None) -> str:
    """A cosine near one, where it is the distance from one that tells: 0.99989, 0.9999998, 1 − 4e-13."""
    if value is None:
        return UNKNOWN
    away = 1.0 - value
    if 0 < away < 1e-7:
        return f"1 − {away:.0e}"
    return "1" if away == 0 else f"{value:.7f}" if abs(away) < 1e-5 else f"{value:.5f}"


def error(value: float | None) -> str:
    """An absolute error: 2.1e-07."""
    return UNKNOWN if value is None else f"{value:.1e}"
