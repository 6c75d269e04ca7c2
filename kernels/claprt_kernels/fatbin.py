"""The compiled kernels that this package carries."""

from __future__ import annotations

import json
from functools import cache

from claprt_kernels.errors import KernelUnavailableError


@cache
def fatbin() -> bytes:
    """The compiled kernels of this package.

    Raises:
        KernelUnavailableError: it was built without them.
    """
    from claprt_kernels import compile as kernel_files

    stamp = kernel_files.STAMP
    fix = "run python -m claprt_kernels.compile on a machine with nvcc"
    if kernel_files.FATBIN.is_file():
        return kernel_files.FATBIN.read_bytes()
    reason = "there is no kernels.fatbin in this package"
    if stamp.is_file():
        reason = json.loads(stamp.read_text(encoding="utf-8")).get("missing", reason)
    raise KernelUnavailableError(f"the CUDA kernels are missing: {reason}; {fix}")
