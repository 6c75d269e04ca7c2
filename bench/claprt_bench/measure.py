"""Timing that is fair to several libraries in one process. Standard library only: the small launcher imports it too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Side = Callable[[int], object]
"""One competitor: does its work once, on the inputs of the given round."""


@dataclass(frozen=True)
class Spread:
    """What a row shows of its samples, in their unit."""

    median: float
    minimum: float
    lower_quartile: float
    upper_quartile: float

    @staticmethod
    def of(samples: Sequence[float]) -> Spread:
        """Of at least one sample."""
        lower, median, upper = (
            statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
        )
        return Spread(median, min(samples), lower, upper)


def turns(names: Sequence[str], round_index: int) -> list[str]:
    """The order of a round: who is first changes, so that nobody always runs after the same neighbour."""
    shift = round_index % len(names)
    return [*names[shift:], *names[:shift]]


def interleave(
    sides: Mapping[str, Side],
    rounds: int,
    pause: float,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """Time all sides in turn, one run each in every round.

    Args:
        sides: by name. Each is called with the number of the round, so that all get the same inputs in it.
        rounds: samples of each side.
        pause: seconds before each run. Idle threads of the side before it spin for a while and take its cores; after
            0.1 s none of the libraries compared here does.
        warm_up: rounds that are not timed.
        clock, sleep: replaced in tests.

    Returns:
        Seconds, by side; element i of every list is from round i.
    """
    names = list(sides)
    for index in range(warm_up):
        for name in names:
            sides[name](index)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in turns(names, index):
            sleep(pause)
            start = clock()
            sides[name](index)
            samples[name].append(clock() - start)
    return samples
