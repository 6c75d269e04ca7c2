"""What a result must say of where it was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path

from claprt._version import __version__
from claprt.engines.ort import default_threads


def describe(packages: tuple[str, ...]) -> dict[str, object]:
    """Processor, usable cores, operating system, Python, versions of `packages`, and the date (UTC)."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "usable_cores": default_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"claprt": __version__} | {name: importlib.metadata.version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
