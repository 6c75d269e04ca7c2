"""What stops a benchmark."""

from __future__ import annotations

from claprt.errors import ClaprtError


class BenchError(ClaprtError, RuntimeError):
    """A comparison would not be valid: wrong values, inputs that prove nothing, a side in the wrong state."""
