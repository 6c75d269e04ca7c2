"""What NVIDIA's driver says of a GPU, asked of the driver itself: no package is needed to learn what is missing."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claprt.errors import BackendError

NO_DRIVER = "there is no NVIDIA driver"
_LIBRARY = "libcuda.so.1"
_OLDEST = 12000
_MODULE_VERSION = Path("/proc/driver/nvidia/version")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: CUDA's number of it.
        name: such as "NVIDIA L4".
        compute_capability: such as "8.9".
        driver: the major version of the driver, such as "580"; "cuda-13" where only its CUDA version is known.
        cuda: the newest CUDA that the driver supports, such as "13.0".
        memory_bytes: of the device.
    """

    index: int
    name: str
    compute_capability: str
    driver: str
    cuda: str
    memory_bytes: int


def find_gpu(device: int = 0) -> Gpu:
    """Look at a GPU. Starts the driver in this process, but makes no context.

    Raises:
        BackendError: there is no driver, it is too old or fails, or there is no such device.
    """
    try:
        return _found(ctypes.CDLL(_LIBRARY), device)
    except OSError as error:
        if "cannot open shared object file" not in str(error):  # it is there, but broken, or for another machine
            raise BackendError(f"the NVIDIA driver cannot be loaded: {error}; install it again") from error
        raise BackendError(
            f"{NO_DRIVER}: {_LIBRARY} was not found; install the driver, or in a container give it the "
            "GPU (docker run --gpus all)"
        ) from error
    except AttributeError as error:
        raise BackendError(f"the NVIDIA driver is not complete: {error}; install it again") from error


def _found(driver: Any, device: int) -> Gpu:
    version = ctypes.c_int()
    _check(driver, driver.cuDriverGetVersion(ctypes.byref(version)), "asking for the driver's version")
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if version.value < _OLDEST:
        raise BackendError(f"the NVIDIA driver is too old: it supports CUDA {cuda}; install one for CUDA 12 or later")
    _check(driver, driver.cuInit(0), "starting the driver")
    count, handle = ctypes.c_int(), ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)), "counting GPUs")
    if not 0 <= device < count.value:
        raise BackendError(f"there is no GPU {device}: the driver shows {count.value}; choose another with device")
    _check(driver, driver.cuDeviceGet(ctypes.byref(handle), device), "opening the GPU")
    name = ctypes.create_string_buffer(256)
    _check(driver, driver.cuDeviceGetName(name, len(name), handle), "asking for its name")
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle), "asking what it can do")
        capability.append(value.value)
    memory = ctypes.c_size_t()
    _check(driver, driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle), "asking for its memory")
    return Gpu(
        index=device,
        name=name.value.decode(errors="replace"),
        compute_capability="{}.{}".format(*capability),
        driver=_driver_major() or f"cuda-{version.value // 1000}",
        cuda=cuda,
        memory_bytes=memory.value,
    )


def _driver_major() -> str | None:
    """Of the kernel module, such as "580"; None where it does not say (WSL)."""
    try:
        text = _MODULE_VERSION.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return module_major(text)


def module_major(text: str) -> str | None:
    """The major version in the kernel module's account of itself, NVIDIA's own or the open one."""
    found = re.search(r"^NVRM version:.*?\s(\d+)\.\d+", text, re.MULTILINE)
    return found[1] if found else None


def _check(driver: Any, code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        said = text.value.decode(errors="replace") if text.value else "no reason given"
        raise BackendError(f"the NVIDIA driver fails: {what}: error {code}, {said}; see what nvidia-smi says")
