"""Waveform to log-Mel on a GPU: one CUDA source, a prebuilt fatbin, a thin launcher; and the float64 reference.

Nothing here imports `claprt`, and nothing starts CUDA before a launcher or a `LogMel` is made or
availability is asked for.
"""

from __future__ import annotations

from claprt_kernels.cuda_bindings_launcher import CudaBindingsLauncher
from claprt_kernels.errors import (
    DeviceMemoryError,
    KernelError,
    KernelInputError,
    KernelLaunchError,
    KernelSpecError,
    KernelUnavailableError,
)
from claprt_kernels.launcher import Launcher, open_launcher
from claprt_kernels.log_mel import LogMel, is_available, why_unavailable
from claprt_kernels.memory import DeviceMemory
from claprt_kernels.pycuda_launcher import PyCudaLauncher
from claprt_kernels.reference import log_mel_reference
from claprt_kernels.resample import Resampler

__all__ = [
    "CudaBindingsLauncher",
    "DeviceMemory",
    "DeviceMemoryError",
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
    "open_launcher",
    "why_unavailable",
]
