"""Libraries of the extra [bench]."""

from __future__ import annotations

import importlib.util

from claprt.errors import MissingExtraError

_PACKAGES = {"sklearn": "scikit-learn"}


def require(*modules: str) -> None:
    """Check that libraries are installed, before anything is computed.

    Raises:
        MissingExtraError: one is not.
    """
    missing = [_PACKAGES.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"this needs packages that are not installed: {', '.join(missing)}; pip install 'claprt[bench]'"
        )
