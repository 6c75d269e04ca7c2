"""What claprt says of a GPU and its driver: on the fake CUDA driver, on stubs of others, and without any."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from claprt.gpu import module_major
from tests.kernels.fake_cuda.build import CannotBuildError
from tests.kernels.fake_cuda.pycuda_env import default_cache, fake_environment

PROGRAM = """
import sys
from claprt.errors import BackendError
from claprt.gpu import find_gpu
try:
    print(find_gpu(int(sys.argv[1])))
except BackendError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def fake() -> dict[str, str]:
    try:
        return fake_environment(default_cache())
    except CannotBuildError as error:
        pytest.skip(str(error))


def said(environment: dict[str, str], device: int = 0, **settings: str) -> str:
    """One line: the GPU that was found, or the error."""
    command = [sys.executable, "-c", PROGRAM, str(device)]
    done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return line


@pytest.mark.parametrize("capability", ["7.5", "8.9", "12.0"])
def test_a_gpu_is_found(fake: dict[str, str], capability: str) -> None:
    line = said(fake, FAKE_CUDA_CC=capability)
    assert line.startswith("Gpu(index=0, name='")
    assert f"compute_capability='{capability}'" in line
    assert "name=''" not in line
    assert "memory_bytes=0" not in line


@pytest.mark.parametrize("device", [1, 7])
def test_no_such_gpu(fake: dict[str, str], device: int) -> None:
    assert said(fake, device) == f"there is no GPU {device}: the driver shows 1; choose another with device"


@pytest.mark.parametrize(
    ("fail", "what"),
    [
        ("cuDriverGetVersion:1:999", "asking for the driver's version: error 999, "),
        ("cuInit:1:100", "starting the driver: error 100, no device"),
        ("cuInit:1:803", "starting the driver: error 803, "),
        ("cuDeviceGetCount:1:3", "counting GPUs: error 3, "),
        ("cuDeviceGet:1:101", "opening the GPU: error 101, invalid device"),
        ("cuDeviceGetName:1:1", "asking for its name: error 1, "),
        ("cuDeviceGetAttribute:2:1", "asking what it can do: error 1, "),
        ("cuDeviceTotalMem_v2:1:2", "asking for its memory: error 2, "),
    ],
)
def test_each_failure_of_the_driver_is_said(fake: dict[str, str], fail: str, what: str) -> None:
    line = said(fake, FAKE_CUDA_FAIL=fail)
    assert line.startswith(f"the NVIDIA driver fails: {what}")
    assert line.endswith("; see what nvidia-smi says")


def test_without_a_driver() -> None:
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is an NVIDIA driver")
    expected = "there is no NVIDIA driver: libcuda.so.1 was not found; install the driver"
    assert said(dict(os.environ)).startswith(expected)


# Drivers of a few lines: C code and what is said of them.
VERSION = "int cuDriverGetVersion(int* version) {{ *version = {}; return 0; }}\n"
INIT = "int cuInit(unsigned flags) { return 0; }\n"
STUBS = {
    "too old": (VERSION.format(11080), "the NVIDIA driver is too old: it supports CUDA 11.8; install one for CUDA 12"),
    "no GPU": (
        VERSION.format(12040) + INIT + "int cuDeviceGetCount(int* count) { *count = 0; return 0; }\n",
        "there is no GPU 0: the driver shows 0",
    ),
    "no text": (
        VERSION.format(12040)
        + "int cuInit(unsigned flags) { return 4711; }\n"
        + "int cuGetErrorString(int code, const char** text) { *text = 0; return 1; }\n",
        "the NVIDIA driver fails: starting the driver: error 4711, no reason given",
    ),
    "incomplete": (VERSION.format(12040), "the NVIDIA driver is not complete: "),
}


@pytest.mark.parametrize("name", STUBS)
def test_other_drivers(tmp_path: Path, name: str) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc on PATH (a C compiler)")
    code, expected = STUBS[name]
    (tmp_path / "driver.c").write_text(code)
    library = str(tmp_path / "libcuda.so.1")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(tmp_path / "driver.c")], check=True)
    assert said(os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}).startswith(expected)


def test_a_broken_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"not a library " * 1000)
    line = said(os.environ | {"LD_LIBRARY_PATH": str(tmp_path)})
    assert line.startswith("the NVIDIA driver cannot be loaded: ")
    assert "invalid ELF header" in line


@pytest.mark.parametrize(
    ("text", "major"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
            "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n",
            "535",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
            "GCC version:  gcc version 13.3.0\n",
            "580",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain)\n", "540"),
        ("GCC version:  gcc version 13.3.0\n", None),
        ("", None),
    ],
    ids=["own", "open", "jetson", "other", "empty"],
)
def test_the_kernel_modules_version(text: str, major: str | None) -> None:
    """Engines are for a driver. The open module names the machine before its version: "for x86_64  580"."""
    assert module_major(text) == major
