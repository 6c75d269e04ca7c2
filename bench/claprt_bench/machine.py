"""What a result must say of where it was measured."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

from claprt._version import __version__
from claprt.engines.ort import default_threads
from claprt.gpu import find_gpu

# Instruction sets that decide how fast matrix products are, as Linux calls them: x86, then ARM.
_SPEED_FLAGS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


def describe(packages: tuple[str, ...], device: int | None = None) -> dict[str, object]:
    """Processor with its instruction sets, usable cores, system, Python, versions of `packages`, the date (UTC).

    Args:
        packages: those that are not installed are left out.
        device: CUDA's number of the GPU that was used; None for none.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "processor": processor(),
        "cpu_flags": _flags(),
        "usable_cores": default_threads(),
        "governor": governor(),
        "gpu": None if device is None else asdict(find_gpu(device)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"claprt": __version__} | _versions(packages),
    }


def processor() -> str:
    """The processor's name, or the architecture's where the system does not say."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def governor() -> str | None:
    """What decides the first core's clock, such as "performance" or "schedutil"; None where the system does not say."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="ascii").strip()
    except OSError:
        return None


def load_average() -> list[float]:
    """Runnable processes, averaged over 1, 5 and 15 minutes; above the number of cores, timings are noisy."""
    return [round(value, 2) for value in os.getloadavg()]


class Neighbours:
    """How much of the machine others use while something is measured: the load average would count ourselves too."""

    def __init__(self) -> None:
        self._start = _cpu_seconds()

    def cores(self) -> dict[str, float] | None:
        """Cores that other processes, and the host of a virtual machine ("stolen"), used since; None if not known."""
        now = _cpu_seconds()
        if now is None or self._start is None:
            return None
        elapsed, busy, stolen, own = (b - a for a, b in zip(self._start, now, strict=True))
        return {
            "others": round(max(0.0, busy - own) / elapsed, 3),
            "stolen": round(stolen / elapsed, 3),
        }


def _cpu_seconds() -> tuple[float, float, float, float] | None:
    """Seconds now: of the clock; all processes' processor time; time stolen by the host; this one's, children included.

    None where there is no /proc/stat.
    """
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, stolen = (
        int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in line.split()[1:9]
    )
    own = os.times()
    used = own.user + own.system + own.children_user + own.children_system
    return time.monotonic(), user + nice + system + irq + softirq, stolen, used


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _flags() -> list[str]:
    found = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [flag for flag in _SPEED_FLAGS if flag in found]


def _cpuinfo(key: str) -> str:
    """The first processor's value of a key in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")
