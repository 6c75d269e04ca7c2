"""Plan -> a tower on the GPU, as `claprt.engines.device` runs it."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from claprt.engines.device import Shape
from claprt.engines.tensorrt.library import Heard, Library, made
from claprt.engines.tensorrt.profiles import Profile
from claprt.errors import BackendError

if TYPE_CHECKING:
    from claprt_kernels import DeviceMemory

_Shapes = tuple[tuple[str, Shape], ...]
_UNKNOWN = np.dtype(np.object_)
_TYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}
_GRAPHS = 32  # CUDA graphs that a slot keeps
# What libraries say when the GPU's memory is short, TensorRT and CUDA below it.
_MEMORY = re.compile(r"out of ?memory|memory ?allocation|failed to allocate|could not be allocated", re.IGNORECASE)

_log = logging.getLogger("claprt")


class TensorRtTower:
    """An engine of TensorRT or of TensorRT for RTX. See `DeviceTower`."""

    def __init__(
        self,
        library: Library,
        launcher: Any,
        plan: bytes,
        inputs: tuple[str, ...],
        dim: int,
        *,
        host_code: bool = False,
        compiled: bytes = b"",
    ) -> None:
        """Load a plan onto the launcher's GPU.

        Args:
            library: that built the plan.
            launcher: of `claprt_kernels`.
            plan: from the cache, after its hash was checked: it is code.
            inputs: the inputs that the bundle format gives this tower.
            dim: length of the vectors that must come out.
            host_code: whether the plan brings a part that runs on the processor: version-compatible ones do.
            compiled: what TensorRT for RTX compiled here before (`compiled_here`); b"" for nothing.

        Raises:
            BackendError: the library refuses the plan, with its reasons, or it is not this tower.
        """
        self.library, self.launcher = library, launcher
        self._making = threading.Lock()
        trt = library.trt
        self._heard = heard = Heard(trt)
        with launcher.current():
            self._runtime = made(lambda: trt.Runtime(heard.log), "a runtime", library, heard)
            if host_code:
                self._runtime.engine_host_code_allowed = True
            self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise BackendError(
                f"{library.title} refuses the engine: {self._heard.reasons}; build it again with claprt engine --force"
            )
        self._inputs, self.output_name = self._check(inputs, dim)
        self.profiles = [self._profile(index) for index in range(self.engine.num_optimization_profiles)]
        self._config: Any
        self._compiled: Any
        self._config, self._compiled = self._runtime_config(compiled) if library.rtx else (None, None)

    @property
    def name(self) -> str:
        """See `DeviceTower`."""
        return self.library.title

    @property
    def inputs(self) -> Mapping[str, np.dtype[Any]]:
        """See `DeviceTower`."""
        return self._inputs

    @property
    def steps(self) -> tuple[int, ...]:
        """See `DeviceTower`."""
        return tuple(sorted({profile.batch[1] for profile in self.profiles}))

    def rows(self, shapes: Mapping[str, Shape], most: int) -> int:
        """See `DeviceTower`."""
        found = [
            min(high, most)
            for profile in self.profiles
            for low, high in [profile.batch]
            if low <= most and profile.admits({name: (min(high, most), *shape) for name, shape in shapes.items()})
        ]
        if not found:
            raise BackendError(
                f"no profile of the engine has room for inputs of {dict(shapes)}; build it for them with claprt engine"
            )
        return max(found)

    def largest(self, most: int) -> Mapping[str, Shape]:
        """See `DeviceTower`."""
        result: dict[str, Shape] = {}
        for profile in self.profiles:
            for name, (low, _, high) in profile.shapes.items():
                shape = (min(high[0], most), *high[1:])
                if low[0] <= most and np.prod(shape) > np.prod(result.get(name, (0,))):
                    result[name] = shape
        return result

    def profile_for(self, shapes: Mapping[str, Shape]) -> int:
        """The profile of the fewest rows that admits these shapes."""
        admitting = [index for index, profile in enumerate(self.profiles) if profile.admits(shapes)]
        if not admitting:
            raise BackendError(f"no profile of the engine admits inputs of {dict(shapes)}")
        return min(admitting, key=lambda index: (self.profiles[index].batch[1], index))

    def context(self, stream: Any) -> TensorRtContext:
        """See `DeviceTower`."""
        return TensorRtContext(self, stream)

    def make_context(self, profile: int, stream: Any) -> Any:
        """An execution context in a profile, whose memory is ours to give."""
        strategy = self.library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with self._making, self.launcher.current():
            context = self.engine.create_execution_context(strategy if self._config is None else self._config)
            if context is None or not context.set_optimization_profile_async(profile, self.launcher.handle(stream)):
                raise self.failed("making an execution context")
        return context

    def compiled_here(self) -> bytes:
        """What TensorRT for RTX has compiled on this GPU so far, for the next time; b"" where there is nothing."""
        return b"" if self._compiled is None else bytes(self._compiled.serialize())

    def failed(self, what: str) -> Exception:
        """The error for what the library just did not do, with its reasons: BackendError, or DeviceMemoryError."""
        from claprt_kernels import DeviceMemoryError

        reasons = self._heard.reasons
        self._heard.errors.clear()  # they are told, and say nothing of the next failure
        kind = DeviceMemoryError if _MEMORY.search(reasons) else BackendError
        return kind(f"{self.library.title} failed: {what}: {reasons}")

    def _runtime_config(self, compiled: bytes) -> tuple[Any, Any]:
        config = self.engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if compiled and not cache.deserialize(compiled):
            _log.info("what %s compiled here before is of no use now", self.library.title)
        config.set_runtime_cache(cache)
        config.set_execution_context_allocation_strategy(
            self.library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        strategies = getattr(self.library.trt, "CudaGraphStrategy", None)
        if strategies is not None:  # it knows when its kernels are final, and captures them itself
            config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
        return config, cache

    def _check(self, expected: tuple[str, ...], dim: int) -> tuple[dict[str, np.dtype[Any]], str]:
        engine, mode = self.engine, self.library.trt.TensorIOMode.INPUT
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = {
            name: _TYPES.get(engine.get_tensor_dtype(name).name, _UNKNOWN)
            for name in names
            if engine.get_tensor_mode(name) == mode
        }
        outputs = [name for name in names if name not in inputs]
        shape = tuple(engine.get_tensor_shape(outputs[0])) if len(outputs) == 1 else ()
        typed = shape[-1:] == (dim,) and engine.get_tensor_dtype(outputs[0]).name == "FLOAT"
        if set(inputs) != set(expected) or _UNKNOWN in inputs.values() or not typed:
            raise BackendError(
                f"the engine is not the tower that the manifest describes: inputs {sorted(inputs)}, outputs {outputs} "
                f"of {shape}; expected {sorted(expected)} and one output of {dim}; build it again with claprt engine "
                "--force"
            )
        return {name: inputs[name] for name in expected}, outputs[0]

    def _profile(self, index: int) -> Profile:
        shapes = {}
        for name in self._inputs:
            low, typical, high = (tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, index))
            shapes[name] = (low, typical, high)
        return Profile(shapes)


class _Captured(NamedTuple):
    graph: Any
    context: Any  # that it was captured from: it must live as long


class TensorRtContext:
    """See `DeviceContext`. An execution context for each profile that is used; they share one working memory.

    Where the launcher has CUDA graphs, a shape that comes again is captured, and replayed from then on: hundreds of
    kernels then start as one. TensorRT asks that a shape has run once before it is captured, and that the context it
    was captured from does nothing else afterwards: each graph has one of its own.
    """

    def __init__(self, tower: TensorRtTower, stream: Any) -> None:
        self._tower, self._launcher, self._stream = tower, tower.launcher, stream
        self._memory: DeviceMemory | None = None
        self._contexts: dict[int, Any] = {}
        self._with_memory: set[int] = set()  # profiles whose context has this memory
        self._captures = self._launcher.can_capture and not tower.library.rtx
        self._graphs: dict[_Shapes, _Captured] = {}
        self._seen: Counter[_Shapes] = Counter()

    def enqueue(self, shapes: Mapping[str, Shape], inputs: Mapping[str, int], output: int) -> None:
        """See `DeviceContext`."""
        key = tuple(shapes.items())
        if key in self._graphs:
            self._launcher.replay(self._graphs[key].graph, self._stream)
            return
        index = self._tower.profile_for(shapes)
        self._reserve(self._tower.engine.get_device_memory_size_for_profile_v2(index))
        self._seen[key] += 1
        if self._seen[key] > 1 and self._captures and len(self._graphs) < _GRAPHS:
            context = self._own_context(index)
            if context is not None:
                self._execute(context, shapes, inputs, output)
                self._capture(key, context)
                return
        if index not in self._contexts:
            self._contexts[index] = self._tower.make_context(index, self._stream)
        if index not in self._with_memory:
            self._give_memory(self._contexts[index])
            self._with_memory.add(index)
        self._execute(self._contexts[index], shapes, inputs, output)

    def _execute(self, context: Any, shapes: Mapping[str, Shape], inputs: Mapping[str, int], output: int) -> None:
        with self._launcher.current():
            for name, shape in shapes.items():
                if not context.set_input_shape(name, shape):
                    raise self._tower.failed(f"setting {name} to {shape}")
                context.set_tensor_address(name, inputs[name])
            context.set_tensor_address(self._tower.output_name, output)
            self._run(context)

    def _run(self, context: Any) -> None:
        if not context.execute_async_v3(self._launcher.handle(self._stream)):
            raise self._tower.failed("running")

    def _own_context(self, index: int) -> Any:
        """A context to capture from; None where there is no room for it."""
        try:
            context = self._tower.make_context(index, self._stream)
        except (BackendError, MemoryError) as error:
            self._capture_no_more(error)
            return None
        self._give_memory(context)
        return context

    def _capture(self, key: _Shapes, context: Any) -> None:
        from claprt_kernels import KernelError

        try:
            graph = self._launcher.capture(self._stream, lambda: self._run(context))
        except (KernelError, BackendError) as error:
            self._capture_no_more(error)
        else:
            self._graphs[key] = _Captured(graph, context)

    def _capture_no_more(self, error: Exception) -> None:
        self._captures = False
        _log.warning("%s captures no more CUDA graphs, which only costs time: %s", self._tower.name, error)

    def _give_memory(self, context: Any) -> None:
        assert self._memory is not None
        with self._launcher.current():
            context.set_device_memory(self._memory.address, self._memory.nbytes)

    def _reserve(self, size: int) -> None:
        """Have working memory of that size. It grows while profiles are new."""
        from claprt_kernels import DeviceMemory

        if self._memory is not None and size <= self._memory.nbytes:
            return
        idle = self._launcher.event()
        self._launcher.record(idle, self._stream)
        self._launcher.wait(idle)
        self._graphs.clear()  # they have the old address
        self._seen.clear()
        self._with_memory.clear()
        self._memory = None
        self._memory = DeviceMemory(self._launcher, size)
