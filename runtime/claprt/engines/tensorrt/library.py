"""Which of the two libraries is installed, whether it is one that claprt can work with, and what it says meanwhile."""

from __future__ import annotations

import importlib
import importlib.util
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from claprt.errors import BackendError

# By backend: modules that may be there, the first that is is taken.
_MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
# Oldest version that works, and the first that is not known to.
_VERSIONS = {"tensorrt": ((10, 3), (12,)), "tensorrt-rtx": ((1, 4), (2,))}
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
_INSTALL = {
    "tensorrt": "pip install 'claprt[tensorrt]'; on a Jetson it is part of JetPack",
    "tensorrt-rtx": "pip install 'claprt[rtx]'",
}
_KEPT = 100  # messages
# What claprt uses of the libraries, and all it may use: nothing of it was added after 10.3 or removed by 11.
INTERFACE = (
    "Builder.build_serialized_network",
    "Builder.create_builder_config",
    "Builder.create_network",
    "Builder.create_optimization_profile",
    "BuilderFlag.TF32",
    "BuilderFlag.VERSION_COMPATIBLE",
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "HardwareCompatibilityLevel.AMPERE_PLUS",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.builder_optimization_level",
    "IBuilderConfig.clear_flag",
    "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.get_timing_cache",
    "IBuilderConfig.hardware_compatibility_level",
    "IBuilderConfig.profiling_verbosity",
    "IBuilderConfig.progress_monitor",
    "IBuilderConfig.set_flag",
    "IBuilderConfig.set_memory_pool_limit",
    "IBuilderConfig.set_timing_cache",
    "ICudaEngine.create_execution_context",
    "ICudaEngine.get_device_memory_size_for_profile_v2",
    "ICudaEngine.get_tensor_dtype",
    "ICudaEngine.get_tensor_mode",
    "ICudaEngine.get_tensor_name",
    "ICudaEngine.get_tensor_profile_shape",
    "ICudaEngine.get_tensor_shape",
    "ICudaEngine.num_io_tensors",
    "ICudaEngine.num_optimization_profiles",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.set_device_memory",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_optimization_profile_async",
    "IExecutionContext.set_tensor_address",
    "ILogger.log",
    "INetworkDefinition.get_input",
    "INetworkDefinition.num_inputs",
    "IOptimizationProfile.set_shape",
    "IProgressMonitor.phase_finish",
    "IProgressMonitor.phase_start",
    "IProgressMonitor.step_complete",
    "ITensor.name",
    "ITimingCache.serialize",
    "MemoryPoolType.WORKSPACE",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.get_error",
    "OnnxParser.num_errors",
    "OnnxParser.parse_from_file",
    "ParserError.code",
    "ParserError.desc",
    "ParserError.node_name",
    "ParserError.node_operator",
    "ProfilingVerbosity.DETAILED",
    "Runtime.deserialize_cuda_engine",
    "Runtime.engine_host_code_allowed",
    "TensorIOMode.INPUT",
)
# What only TensorRT for RTX has.
RTX_INTERFACE = (
    "ComputeCapability.CURRENT",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "ICudaEngine.create_runtime_config",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_execution_context_allocation_strategy",
    "IRuntimeConfig.set_runtime_cache",
)


@dataclass(frozen=True)
class Library:
    """One of the two libraries, imported.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        trt: the module.
        version: as the module has it, such as "10.16.1.11".
    """

    backend: str
    trt: ModuleType
    version: str

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT for RTX."""
        return self.backend == "tensorrt-rtx"

    @property
    def title(self) -> str:
        """Its name and version, for messages."""
        return f"{_TITLES[self.backend]} {self.version}"


def load_library(backend: str) -> Library:
    """Import a backend's library.

    Raises:
        BackendError: it is not installed, cannot be imported, or is of a version that claprt does not know.
    """
    module = installed_module(backend)
    try:
        trt = importlib.import_module(module)
    except Exception as error:  # a wheel without its libraries raises whatever the loader says
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"{_TITLES[backend]} cannot be imported: {module}: {reason}; {_INSTALL[backend]}") from error
    return checked(backend, trt)


def installed_module(backend: str) -> str:
    """The name of a backend's module, which is not imported.

    Raises:
        BackendError: it is not installed.
    """
    for name in _MODULES[backend]:
        if importlib.util.find_spec(name) is not None:
            return name
    raise BackendError(
        f"{_TITLES[backend]} is not installed: there is no module {_MODULES[backend][0]}; {_INSTALL[backend]}"
    )


def checked(backend: str, trt: ModuleType) -> Library:
    """A library of a known version that has all that claprt uses.

    Raises:
        BackendError: it is another version, or lacks something.
    """
    library = Library(backend, trt, str(getattr(trt, "__version__", "of no version")))
    oldest, beyond = _VERSIONS[backend]
    if not oldest <= version_numbers(library.version) < beyond:
        bounds = f">={'.'.join(map(str, oldest))},<{beyond[0]}"
        raise BackendError(f"claprt does not know this version: {library.title}; install one {bounds}")
    missing = [name for name in (*INTERFACE, *(RTX_INTERFACE if library.rtx else ())) if not _has(trt, name)]
    if missing:
        raise BackendError(
            f"this library lacks what claprt needs of it: {library.title}: {', '.join(missing)}; install it again"
        )
    return library


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (10, 14, 1, 48) for "10.14.1.48.post1"; () if it begins with none."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


class Heard:
    """What a library says from now on, as long as somebody has this: why a build fails is said nowhere else.

    The library has one log for all that goes on in the process: builds side by side hear each other.
    """

    def __init__(self, trt: ModuleType) -> None:
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self.warnings: deque[str] = deque(maxlen=_KEPT)
        self.log = _log(trt)  # for the library's constructors
        self.log.add(self)

    def hear(self, level: str, message: str) -> None:
        """Take a message; `level` is the name of a `trt.ILogger.Severity`."""
        if level in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(readable(message))
        elif level == "WARNING":
            self.warnings.append(readable(message))

    @property
    def reasons(self) -> str:
        """The last errors."""
        return "; ".join(list(self.errors)[-3:]) or "it gives no reason"


@cache
def _log(trt: ModuleType) -> Any:
    """The one log of a library. While anything of the library is alive, it ignores every other one it is given."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self._lock = threading.RLock()  # an object that is collected in here may log too
            self._hearers: weakref.WeakSet[Heard] = weakref.WeakSet()

        def add(self, heard: Heard) -> None:
            with self._lock:
                self._hearers.add(heard)

        def log(self, severity: Any, message: str) -> None:  # called from the library's own threads too
            with self._lock:
                hearers = list(self._hearers)
            for heard in hearers:
                heard.hear(severity.name, message)

    return Log()


def made(make: Callable[[], Any], what: str, library: Library, heard: Heard) -> Any:
    """What the library makes. Where it cannot, its methods return None, and its constructors raise TypeError.

    Raises:
        BackendError: it cannot, with its reasons.
    """
    try:
        result = make()
    except TypeError:
        result = None
    if result is None:
        raise BackendError(f"{library.title} cannot make {what}: {heard.reasons}")
    return result


def readable(message: str) -> str:
    """A message without the complaints about the missing GPU that come with every one where there is none."""
    return "\n".join(line for line in message.splitlines() if "catchCudaError" not in line) or message


def _has(trt: ModuleType, name: str) -> bool:
    found: Any = trt
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True
