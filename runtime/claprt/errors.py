"""The errors that claprt raises.

Every error is a `ClaprtError` and also the builtin that it specialises, so callers may catch either. Its message is one
line with three parts: the fact, the offending value, the fix.
"""

from __future__ import annotations


class ClaprtError(Exception):
    """Base class of every error that claprt raises on purpose."""


class AudioError(ClaprtError, ValueError):
    """A sound cannot be used: empty, not audio, NaN, wrong shape, unsupported rate."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """The path of a sound does not exist, or is not a regular file."""


class TextError(ClaprtError, ValueError):
    """A text or label cannot be used: empty, not a string, not valid Unicode."""


class OptionError(ClaprtError, ValueError):
    """An option has a value that is not allowed (recipe, precision, threads, template, ...)."""


class BundleError(ClaprtError, ValueError):
    """A bundle is damaged or not a bundle: bad manifest, wrong hash, missing file, unknown schema."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """There is no bundle at the given path."""


class BackendError(ClaprtError, RuntimeError):
    """The backend that was asked for cannot run here; the message says why and how to fix it."""


class SpaceMismatchError(ClaprtError, ValueError):
    """Two sets of vectors come from different embedding spaces and cannot be compared."""


class ExportError(ClaprtError, RuntimeError):
    """A checkpoint cannot be exported, or the exported graph misses its bounds."""


class CheckpointError(ExportError, ValueError):
    """A checkpoint is missing, incomplete, or of an architecture that claprt refuses by name."""


class MissingExtraError(ClaprtError, ImportError):
    """A feature needs an optional extra that is not installed; the message names it."""


class ClaprtWarning(UserWarning):
    """Something the user should know that does not stop the work (a text was truncated, ...)."""


__all__ = [
    "AudioError",
    "AudioNotFoundError",
    "BackendError",
    "BundleError",
    "BundleNotFoundError",
    "CheckpointError",
    "ClaprtError",
    "ClaprtWarning",
    "ExportError",
    "MissingExtraError",
    "OptionError",
    "SpaceMismatchError",
    "TextError",
]
