"""Waveform to log-Mel, away from the runtime: the float64 reference that every implementation is held to.

The CUDA kernel (one source, a prebuilt fatbin, a thin launcher) belongs in this package too. Nothing here imports
`claprt` when it runs.
"""

from __future__ import annotations

from claprt_kernels.reference import log_mel_reference

__all__ = ["log_mel_reference"]
