"""Compiles the CUDA kernels into the wheel. Without nvcc the wheel is built without them, and says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CudaKernels(BuildHookInterface[Any]):
    """The build hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the fatbin before the wheel's files are collected."""
        source = Path(self.root) / "kernels" / "claprt_kernels" / "compile.py"
        spec = importlib.util.spec_from_file_location("claprt_kernels_compile", source)
        assert spec is not None
        assert spec.loader is not None
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        try:
            self.app.display_info(kernels.compile_fatbin())
        except kernels.CompileError as error:
            reason = str(error).splitlines()[0]
            kernels.without_fatbin(f"this package was built without the CUDA kernels: {reason}")
            self.app.display_warning(f"claprt is built without its CUDA kernels: {reason}")
        # Git ignores what is compiled; the wheel takes it all the same.
        build_data["artifacts"].append("/kernels/claprt_kernels/data/*")
