"""Whether the machine was quiet while it was measured, and if not, why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claprt_bench.machine import Neighbours, governor, load_average
from claprt_bench.speed.statistics import tenths

# Other processes, or the host of a virtual machine, took more than this of a core.
_BUSY_CORES = 0.1
# The same piece of work took so much longer at one time than at another: clock, heat, neighbours on the same core.
_UNEVEN = 1.15
_STEADY_GOVERNORS = ("performance", None)


class Noise:
    """Watches from when it is made until `found` is asked."""

    def __init__(self) -> None:
        self._neighbours, self._before = Neighbours(), load_average()

    def found(self, yardsticks: Sequence[float]) -> dict[str, Any]:
        """The document's "noise".

        Args:
            yardsticks: milliseconds that the same piece of work took, again and again meanwhile.
        """
        used = self._neighbours.cores()
        why = []
        if used is not None and used["others"] > _BUSY_CORES:
            why.append(f"other processes used {used['others']:.2f} cores meanwhile")
        if used is not None and used["stolen"] > _BUSY_CORES:
            why.append(f"the host of this virtual machine took {used['stolen']:.2f} cores meanwhile")
        fast, slow = tenths(yardsticks) if yardsticks else (0.0, 0.0)
        if slow > _UNEVEN * fast:
            why.append(
                f"a fixed piece of work took {fast:.2f} to {slow:.2f} ms (10th and 90th percentile): "
                "the machine itself was slower at times"
            )
        if governor() not in _STEADY_GOVERNORS:
            why.append(f"the processor's frequency governor is {governor()!r}, not 'performance'")
        return {
            "others": used and used["others"],
            "stolen": used and used["stolen"],
            "load_average": {"before": self._before, "after": load_average()},
            "yardstick_ms": [round(value, 4) for value in yardsticks],
            "quiet": not why,
            "why_noisy": why,
        }
