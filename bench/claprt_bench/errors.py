"""What stops a benchmark."""

from __future__ import annotations

from claprt.errors import ClaprtError


class BenchError(ClaprtError, RuntimeError):
    """A comparison would not be valid: wrong values, inputs that prove nothing, a side in the wrong state."""


class ResultError(ClaprtError, ValueError):
    """A file is not a result that this version of claprt wrote."""


class DatasetError(ClaprtError, ValueError):
    """A dataset cannot be used: missing, empty, unreadable, or without what the task needs."""
