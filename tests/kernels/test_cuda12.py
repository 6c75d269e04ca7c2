"""CUDA 12's compiler takes the kernels too, that of JetPack 6: as a library (NVRTC), which PyPI has."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import pytest
from tests.kernels.emulated import SOURCES


def installed(module: str) -> Path:
    """The directory of one of NVIDIA's packages."""
    spec = importlib.util.find_spec("nvidia") and importlib.util.find_spec(module)
    if not spec or not spec.submodule_search_locations:
        pytest.skip(f"no {module} of CUDA 12; pip install 'claprt[dev]'")
    return Path(next(iter(spec.submodule_search_locations)))


class Compiler:
    """NVRTC 12."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(installed("nvidia.cuda_nvrtc") / "lib" / "libnvrtc.so.12"))
        self._include = installed("nvidia.cuda_runtime") / "include"

    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        assert self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0
        return major.value, minor.value

    def compile(self, source: str, target: int) -> tuple[int, str]:
        """Status and log; ptxas says in it what each kernel takes."""
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        call = self._library
        assert call.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
        options = ["--std=c++17", f"--gpu-architecture=sm_{target}", f"-I{SOURCES}", f"-I{self._include}"]
        given = [option.encode() for option in (*options, "--ptxas-options=-v")]
        status: int = call.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        assert call.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
        log = ctypes.create_string_buffer(size.value)
        assert call.nvrtcGetProgramLog(program, log) == 0
        call.nvrtcDestroyProgram(ctypes.byref(program))
        return status, log.value.decode()


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler()


def test_it_is_cuda_12(compiler: Compiler) -> None:
    assert compiler.version()[0] == 12


@pytest.mark.parametrize("target", [75, 87, 89], ids=["T4", "Orin", "L4"])
def test_kernels_compile_and_nothing_spills(compiler: Compiler, target: int) -> None:
    status, log = compiler.compile((SOURCES / "kernels.cu").read_text("utf-8"), target)
    assert status == 0, log
    kernels = set(re.findall(r"entry function '(\w+)'", log))
    assert len(kernels) == 10, log
    assert {"log_mel_int16_fp16_narrow", "resample_fp32"} < kernels
    assert set(re.findall(r"(\d+) bytes spill (?:stores|loads)", log)) == {"0"}


def test_it_says_what_it_does_not_take(compiler: Compiler) -> None:
    """So the test above can fail."""
    status, log = compiler.compile('extern "C" __global__ void kernel() { of_cuda_14(); }', 87)
    assert status != 0
    assert "of_cuda_14" in log
