"""How figures are written: never more precise than three digits, never better than measured, never a wrong unit."""

from __future__ import annotations

import pytest

from claprt_bench import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.012345, "0.0123"),
        (1.2, "1.20"),
        (9.994, "9.99"),
        (9.996, "10.0"),  # what rounding carries over does not add a digit
        (99.95, "100"),
        (0.0009999, "0.00100"),
        (34.54, "34.5"),
        (999.6, "1,000"),
        (1234.4, "1,234"),
        (1234567.0, "1,234,567"),
        (-12.345, "-12.3"),
        (4.2e-9, "4.20e-09"),
        (float("inf"), "inf"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert figures.number(value) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.0853, "85.3 µs"),
        (0.1, "0.100 ms"),
        (12.34, "12.3 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),  # not "1,000 ms"
        (75_000, "75.0 s"),
    ],
)
def test_duration(milliseconds: float | None, text: str) -> None:
    assert figures.duration(milliseconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.199, "2.19×"),
        (2.3, "2.30×"),  # 2.3 / 0.01 is 229.99… in floats
        (1.0, "1.00×"),
        (0.9996, "0.999×"),
        (12.39, "12.3×"),
        (123.9, "123×"),
        (0.0, "0×"),
        (None, "–"),
    ],
)
def test_a_ratio_never_promises_more_than_was_measured(value: float | None, text: str) -> None:
    assert figures.ratio(value) == text


def test_other_figures() -> None:
    assert [figures.size(b) for b in (None, 512_000, 223_400_000, 78_500_000_000)] == [
        "–",
        "512 kB",
        "223 MB",
        "78.5 GB",
    ]
    assert figures.rate(23.06) == "23.1 items/s"
    assert [figures.percent(p) for p in (None, 0.9604, 1.0)] == ["–", "96.0 %", "100.0 %"]
    assert [figures.points(p) for p in (None, -0.008, 0.0123, -0.0001)] == ["–", "−0.8", "+1.2", "0.0"]
    assert [figures.p_value(p) for p in (None, 0.625, 0.0004, 1.0000001)] == ["= –", "= 0.625", "< 0.001", "= 1"]
    assert [figures.cosine(c) for c in (None, 1.0, 0.99989, 0.9999998, 1 - 4e-13)] == [
        *("–", "1", "0.99989", "0.9999998", "1 − 4e-13")
    ]
    assert figures.between("1", "2") == "1 to 2"
    assert figures.between("–", "2") == "–"
    assert figures.count(12345) == "12,345"
