"""A stand-in for TensorRT for RTX: `tensorrt.py` beside this, and what only RTX has.

Engines are built for compute capabilities, and finished where they run: what was "compiled" there can be kept.
"""

from __future__ import annotations

import enum
import json
from typing import Any

import tensorrt
from tensorrt import *  # noqa: F403

__version__ = "1.7.1.116"
CREATED: list[bytes] = []  # what the runtime cache of each context held when it was made


class ComputeCapability(enum.Enum):
    NONE, CURRENT, SM75, SM86, SM90 = 0, 1, 75, 86, 90


class IBuilderConfig(tensorrt.IBuilderConfig):  # type: ignore[misc]
    num_compute_capabilities = 0

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:
        assert index < self.num_compute_capabilities
        return compute_capability is not ComputeCapability.NONE


class Builder(tensorrt.Builder):  # type: ignore[misc]
    needs_gpu = False

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()


class IRuntimeCache:
    def __init__(self) -> None:
        self.data = b""

    def serialize(self) -> bytes:
        return self.data

    def deserialize(self, data: bytes) -> bool:
        self.data = bytes(data)
        return True


class IRuntimeConfig:
    strategy: Any = None
    cache: Any = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


class ICudaEngine(tensorrt.ICudaEngine):  # type: ignore[misc]
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, config: IRuntimeConfig) -> Any:
        CREATED.append(config.cache.data)
        config.cache.data = b"compiled here"
        return super().create_execution_context(config.strategy)


class Runtime(tensorrt.Runtime):  # type: ignore[misc]
    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine:
        return ICudaEngine(json.loads(plan))
