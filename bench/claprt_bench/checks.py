"""Values are checked before anything is timed: a fast wrong answer is no result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from claprt_bench.errors import BenchError
from claprt_export.comparison import BOUNDS

MAX_LOG_MEL_ERROR = 0.01  # dB
MAX_CROSS_COSINE = 0.99  # mean over different clips
_UNIT = 1e-3


def difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    """The worst cosine and the largest difference of vectors (n, dim) of the same shape."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return {"worst_cosine": float(((a * b).sum(axis=1) / lengths).min()), "max_abs": float(np.abs(a - b).max())}


def check_vectors(
    what: str,
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    tower: str,
    precision: str,
) -> dict[str, float]:
    """Compare unit vectors (n, dim) with the reference's: the worst cosine and the largest difference.

    Args:
        what: for the error.
        found, expected: ours and the reference's.
        tower: "audio" or "text".
        precision: "fp32" or "int8": decides how close they must be, as it does when a bundle is built.

    Raises:
        BenchError: a cosine is below its bound, a vector is not of unit length or not finite, or the shape differs.
    """
    if found.shape != expected.shape:
        raise BenchError(f"wrong values, not timed: {what}: shape {found.shape}, the reference has {expected.shape}")
    differs = difference(found, expected)
    lengths, cosine = np.linalg.norm(found.astype(np.float64), axis=1), differs["worst_cosine"]
    bound = float(getattr(BOUNDS[precision], tower))
    if not cosine >= bound:  # nor for NaN
        raise BenchError(f"wrong values, not timed: {what}: worst cosine {cosine:.7f}, needed {bound}")
    if float(np.abs(lengths - 1.0).max()) > _UNIT:
        raise BenchError(f"wrong values, not timed: {what}: a vector has length {lengths.max():.4f}, needed 1")
    return differs


def check_log_mel(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference in dB between log-Mels of the same clips.

    Raises:
        BenchError: it is more than `MAX_LOG_MEL_ERROR`.
    """
    error = float(np.abs(found - expected).max())
    if not error <= MAX_LOG_MEL_ERROR:
        raise BenchError(f"wrong values, not timed: log-Mel: {error:.4f} dB off, allowed {MAX_LOG_MEL_ERROR} dB")
    return error


def check_spread(vectors: NDArray[np.float32]) -> None:
    """Check that different clips have different vectors; if not, a wrong one would pass.

    Raises:
        BenchError: the mean cosine between them is above `MAX_CROSS_COSINE`.
    """
    cross = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    mean = float(cross.mean()) if cross.size else 0.0
    if not mean <= MAX_CROSS_COSINE:
        raise BenchError(
            f"comparing vectors would prove nothing: different clips have mean cosine {mean:.4f}; "
            "use a checkpoint that tells sounds apart"
        )
