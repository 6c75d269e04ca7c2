"""A stand-in for TensorRT's Python module, for machines without a GPU: no TensorRT can run an engine there.

It takes the calls that claprt makes and is strict about them; a "plan" names an ONNX graph, and running it computes
that graph with ONNX Runtime, on the addresses that were bound, in the order of the stream (cuLaunchHostFunc of the fake
CUDA driver, whose device memory is host memory). So buffers, streams, profiles, captured graphs and the engine cache
are tested for real; how TensorRT computes is not.

STAND_IN_NOISE=0.1 adds noise of that size to what comes out (nan: a vector of it); STAND_IN_WORKSPACE=BYTES is the
memory for a row; STAND_IN_STEP=FILE makes that file when a build begins, and the first step of the build take a minute.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import pathlib
import threading
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = "10.16.1.11"

_cuda = ctypes.CDLL("libcuda.so.1")
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_kept: list[Any] = []  # callbacks that streams and graphs may still call
_TYPES = {1: "FLOAT", 7: "INT64", 9: "BOOL"}  # of ONNX
_DTYPES = {"FLOAT": np.float32, "INT64": np.int64, "BOOL": np.bool_}


class DataType(enum.Enum):
    FLOAT, INT64, BOOL = range(3)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class HardwareCompatibilityLevel(enum.Enum):
    NONE, AMPERE_PLUS = range(2)


class BuilderFlag(enum.Enum):
    TF32, VERSION_COMPATIBLE = range(2)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, DETAILED = range(2)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    phase_start = phase_finish = step_complete = None


class ParserError:
    code = desc = node_name = node_operator = None


class ITensor:
    name = ""

    def __init__(self, name: str) -> None:
        self.name = name


class INetworkDefinition:
    def __init__(self) -> None:
        self.path, self.inputs = "", [""]

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = 1

    def get_input(self, index: int) -> ITensor:
        return ITensor(self.inputs[index])

    get_output = get_input


class OnnxParser:
    num_errors = 0

    def __init__(self, network: INetworkDefinition, log: ILogger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        graph = onnx.load(path, load_external_data=False).graph
        self._network.path, self._network.inputs = os.path.realpath(path), [value.name for value in graph.input]
        return True

    def get_error(self, index: int) -> ParserError:
        raise IndexError(index)


class IOptimizationProfile(dict[str, Any]):
    def set_shape(self, name: str, low: Any, typical: Any, high: Any) -> None:
        self[name] = (list(low), list(typical), list(high))


class IHostMemory(bytes):
    nbytes = property(len)

    def serialize(self) -> bytes:
        return bytes(self)


ITimingCache = IHostMemory


class IBuilderConfig:
    progress_monitor: Any = None
    profiling_verbosity = builder_optimization_level = hardware_compatibility_level = None

    def __init__(self) -> None:
        self.profiles: list[IOptimizationProfile] = []
        self.flags = {BuilderFlag.TF32}
        self._timings = IHostMemory()

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE

    def create_timing_cache(self, data: bytes) -> IHostMemory:
        return IHostMemory(data)

    def set_timing_cache(self, cache: IHostMemory, ignore_mismatch: bool) -> bool:
        self._timings = IHostMemory(bytes(cache) + b"timing;")
        return not ignore_mismatch

    def get_timing_cache(self) -> IHostMemory:
        return self._timings


class Builder:
    needs_gpu = True

    def __init__(self, log: ILogger) -> None:
        self._log = log

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        assert BuilderFlag.TF32 not in config.flags
        assert not self.needs_gpu or _current_context(), "no context is current where it is built"
        monitor = config.progress_monitor
        monitor.phase_start("building", None, 2)
        if "STAND_IN_STEP" in os.environ:
            pathlib.Path(os.environ["STAND_IN_STEP"]).touch()
            time.sleep(60)
        for step in range(2):
            if not monitor.step_complete("building", step):
                return None
        monitor.phase_finish("building")
        return IHostMemory(json.dumps({"graph": network.path, "profiles": config.profiles}).encode())


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, log: ILogger) -> None:
        self._log = log

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
        assert _current_context(), "no context is current"
        try:
            return ICudaEngine(json.loads(plan))
        except ValueError:
            self._log.log(ILogger.Severity.ERROR, "the plan is damaged")
            return None


class ICudaEngine:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.profiles, path = plan["profiles"], plan["graph"]
        graph = onnx.load(path, load_external_data=False).graph
        self._types: dict[str, str] = {
            v.name: _TYPES[v.type.tensor_type.elem_type] for v in (*graph.input, *graph.output)
        }
        self._inputs = [value.name for value in graph.input]
        self._dim: int = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        self._output = graph.output[0].name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    num_io_tensors = property(lambda self: len(self._types))
    num_optimization_profiles = property(lambda self: len(self.profiles))

    def get_tensor_name(self, index: int) -> str:
        return list(self._types)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self._types[name]]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == self._output
        return -1, self._dim

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return list(self.profiles[index][name])

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        rows: int = next(iter(self.profiles[index].values()))[2][0]
        return rows * int(os.environ.get("STAND_IN_WORKSPACE", "4096"))

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        assert _current_context(), "no context is current"
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._captured = False
        self._thread = threading.Lock()  # a context is not for two threads at once

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._changes()
        self._profile = profile_index
        return stream_handle != 0

    def _changes(self) -> None:
        assert _current_context(), "no context is current"
        assert not self._captured, "a graph was captured from this context"

    def set_device_memory(self, memory: int, size: int) -> None:
        self._changes()
        self._memory = memory, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._changes()
        assert self._profile is not None
        low, _, high = self._engine.profiles[self._profile][name]
        self._shapes[name] = tuple(shape)
        return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._changes()
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._thread.acquire(blocking=False), "two threads in one context"
        try:
            self._changes()
            self._captured = _capturing(stream_handle)
            engine = self._engine
            assert self._profile is not None
            address, size = self._memory
            assert size >= engine.get_device_memory_size_for_profile_v2(self._profile)
            shapes, addresses = dict(self._shapes), dict(self._addresses)
            inputs = {name: _at(addresses[name], shapes[name], _DTYPES[engine._types[name]]) for name in engine._inputs}
            rows = next(iter(shapes.values()))[0]
            output = _at(addresses[engine._output], (rows, engine._dim), np.float32)
            workspace = _at(address, (size,), np.uint8)

            def compute(_: Any) -> None:
                workspace[:] = 0xEE  # whoever keeps something there loses it
                (found,) = engine.session.run(None, {name: value.copy() for name, value in inputs.items()})
                noise = float(os.environ.get("STAND_IN_NOISE", "0"))
                output[:] = found
                if np.isnan(noise):
                    output[-1] = noise
                else:
                    output[:] += noise * np.random.default_rng(0).standard_normal(found.shape)

            return launch(stream_handle, compute)
        finally:
            self._thread.release()


def launch(stream: int, compute: Any) -> bool:
    """Put a function on a stream."""
    callback = _HOST_FUNCTION(compute)
    _kept.append(callback)
    return int(_cuda.cuLaunchHostFunc(ctypes.c_void_p(stream), callback, None)) == 0


def _capturing(stream: int) -> bool:
    status = ctypes.c_int()
    assert _cuda.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status)) == 0
    return status.value != 0


def _current_context() -> int | None:
    context = ctypes.c_void_p()
    _cuda.cuCtxGetCurrent(ctypes.byref(context))
    return context.value


def _at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Device memory as an array; the fake driver's device memory can be read."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).reshape(shape)
