"""Waveform to log-Mel on a GPU: one CUDA source, a prebuilt fatbin, a thin launcher; and the float64 reference.

Nothing here imports `claprt`, and nothing starts CUDA before a `LogMel` is made or availability is asked for.
"""

from __future__ import annotations

from claprt_kernels.errors import (
    KernelError,
    KernelInputError,
    KernelLaunchError,
    KernelSpecError,
    KernelUnavailableError,
)
from claprt_kernels.launcher import Launcher, PyCudaLauncher
from claprt_kernels.log_mel import LogMel, is_available, why_unavailable
from claprt_kernels.reference import log_mel_reference
from claprt_kernels.resample import Resampler

__all__ = [
    "KernelError",
    "KernelInputError",
    "KernelLaunchError",
    "KernelSpecError",
    "KernelUnavailableError",
    "Launcher",
    "LogMel",
    "PyCudaLauncher",
    "Resampler",
    "is_available",
    "log_mel_reference",
    "why_unavailable",
]
