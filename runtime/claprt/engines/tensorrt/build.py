"""ONNX graph -> plan: parse, optimise, serialize.

Networks are strongly typed: each tensor has the type that the graph gives it, in TensorRT 11 as in 10.3. FP32 products
are really FP32: TF32, which the library takes by itself, rounds inputs to 10 bits and misses the bounds of FP32.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claprt.engines.paths import utf8_path
from claprt.engines.tensorrt.library import Heard, Library, made, readable
from claprt.engines.tensorrt.profiles import Profile
from claprt.engines.tensorrt.signals import signals_wait
from claprt.errors import BackendError, OptionError
from claprt.progress import Progress

_MIB = 1 << 20
# What it says of every text tower: the runtime does give it int64.
_HARMLESS = re.compile("Make sure input (input_ids|attention_mask) has Int64 binding")
_working: set[threading.Event] = set()  # one for each build that has begun and not ended


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built; everything here is part of its cache key.

    Attributes:
        workspace_mib: device memory that the builder may use for one layer, MiB; None is all that there is.
        optimization_level: 0 … 5, how long the builder searches; None is the library's own default.
        hardware_compatible: run on every GPU since Ampere, not on the builder's kind alone. Slower. TensorRT only.
        version_compatible: run on later versions of the same major version too. Slower to load. TensorRT only.
        compute_capabilities: such as ("8.6", "12.0"): what to build for, not the GPU here. TensorRT for RTX only.
    """

    workspace_mib: int | None = None
    optimization_level: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltPlan:
    """A plan and what there is to say of it.

    Attributes:
        plan: the serialized engine.
        warnings: of the library. They can be serious: a graph may be taken and computed as something else.
        timings: the timing cache after the build, b"" if the library has none.
    """

    plan: bytes
    warnings: tuple[str, ...]
    timings: bytes = b""


def check_options(library: Library, options: BuildOptions) -> None:
    """Refuse options that are out of range, or that this library does not have.

    Raises:
        OptionError: so it is.
    """
    if options.workspace_mib is not None and options.workspace_mib < 1:
        raise OptionError(f"bad workspace: {options.workspace_mib} MiB; it takes at least 1")
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise OptionError(f"bad optimization level: {options.optimization_level}; choose 0 … 5")
    if library.rtx:
        for name in ("hardware_compatible", "version_compatible"):
            if getattr(options, name):
                raise OptionError(f"{library.title} has no option {name}: name the GPUs by their compute capabilities")
        _capabilities(library, options.compute_capabilities)
    elif options.compute_capabilities:
        raise OptionError(
            f"{library.title} builds for the GPU that it runs on: compute capabilities "
            f"{', '.join(options.compute_capabilities)} were asked for; leave them out, or use TensorRT for RTX"
        )


def build_plan(
    library: Library,
    graph: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    title: str = "engine",
    timings: bytes = b"",
    current: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> BuiltPlan:
    """Build one plan; minutes on TensorRT, seconds on TensorRT for RTX. Shows a progress bar on a terminal.

    Args:
        library: TensorRT, or TensorRT for RTX.
        graph: the ONNX file; weights beside it are found by its place.
        profiles: the shapes that the engine must take, at least one.
        options: see `BuildOptions`.
        title: of the progress bar.
        timings: a timing cache of an earlier build; b"" begins a new one. It makes builds faster and repeatable.
        current: makes the GPU to build for the current one of a thread; not needed for the first GPU, or without one.

    Raises:
        OptionError: as `check_options`.
        BackendError: the library refuses the graph or cannot build it, with its own reasons and the nodes' names.
        KeyboardInterrupt: the build was interrupted, and has ended at the next step of the library. Interrupted again
            meanwhile, this does not wait for that: see `still_building`.
    """
    check_options(library, options)
    with current():
        return _built(library, graph, profiles, options, title, timings, current)


def _built(
    library: Library,
    graph: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    title: str,
    timings: bytes,
    current: Callable[[], AbstractContextManager[None]],
) -> BuiltPlan:
    heard = Heard(library.trt)
    with signals_wait():
        builder, network, config, parser = _prepared(library, graph, profiles, options, timings, heard)
    with Progress(title, total=0) as bar:
        plan = _build(builder, network, config, library, bar, current, kept=(parser, heard))
    if plan is None:
        raise BackendError(
            f"{library.title} cannot build the graph: {graph}: {heard.reasons}; ask for another precision or smaller "
            "batches, build for other GPUs, or run the graph on ONNX Runtime"
        )
    cache = None if library.rtx else config.get_timing_cache()
    return BuiltPlan(
        bytes(plan),
        tuple(text for text in heard.warnings if not _HARMLESS.search(text)),
        b"" if cache is None else bytes(cache.serialize()),
    )


def _prepared(
    library: Library, graph: Path, profiles: Sequence[Profile], options: BuildOptions, timings: bytes, heard: Heard
) -> tuple[Any, Any, Any, Any]:
    """Builder, network, configuration, and the parser, which has the graph's weights."""
    trt = library.trt
    builder = made(lambda: trt.Builder(heard.log), "a builder", library, heard)
    # By name: the flag's number is not the same in all versions, and in none that is supported is it a default.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = made(lambda: builder.create_network(flags), "a network", library, heard)
    parser = made(lambda: trt.OnnxParser(network, heard.log), "a parser", library, heard)
    with utf8_path(graph) as path:
        parsed = parser.parse_from_file(path)
    if not parsed:
        reasons = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BackendError(
            f"{library.title} refuses the graph: {graph}: {'; '.join(reasons) or heard.reasons}; build the bundle "
            "again, or run the graph on ONNX Runtime"
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if library.rtx:
        capabilities = _capabilities(library, options.compute_capabilities) or [trt.ComputeCapability.CURRENT]
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
    else:
        cache = config.create_timing_cache(timings) or config.create_timing_cache(b"")  # one that is damaged is none
        if not config.set_timing_cache(cache, False):  # it is of another library or GPU
            config.set_timing_cache(config.create_timing_cache(b""), False)
    for profile in profiles:
        _add_profile(builder, config, profile, network, library)
    return builder, network, config, parser


def still_building() -> bool:
    """Whether the library still works on a build that was interrupted twice.

    Nothing of ours waits for it, and its result is thrown away. A program that ends now, as Python programs end, waits
    for it, as the library's threads must not outlive the interpreter: `os._exit` does not wait.
    """
    return bool(_working)


def _parser_error(error: Any) -> str:
    where = f"{error.node_operator()} {error.node_name()!r}: " if error.node_operator() else ""
    return f"{where}{' '.join(readable(error.desc()).split())} ({error.code().name})"


def builds_for(library: Library, capability: str) -> bool:
    """Whether TensorRT for RTX has a compute capability, such as "8.6", among those that it builds for."""
    return f"SM{capability.replace('.', '')}" in library.trt.ComputeCapability.__members__


def _capabilities(library: Library, wanted: Sequence[str]) -> list[Any]:
    known = library.trt.ComputeCapability.__members__
    found = []
    for capability in wanted:
        name = "SM" + capability.replace(".", "")
        if name not in known or not re.fullmatch(r"\d+\.\d", capability):
            classes = ", ".join(f"{one[2:-1]}.{one[-1]}" for one in known if one.startswith("SM"))
            raise OptionError(
                f"{library.title} does not build for this compute capability: {capability}; it builds for {classes}"
            )
        found.append(known[name])
    return found


def _add_profile(builder: Any, config: Any, profile: Profile, network: Any, library: Library) -> None:
    names = {network.get_input(i).name for i in range(network.num_inputs)}
    if names != set(profile.shapes):
        raise BackendError(
            f"the graph has other inputs than the manifest says: {', '.join(sorted(names))}; "
            f"expected {', '.join(profile.shapes)}; build the bundle again"
        )
    added = builder.create_optimization_profile()
    for name, shapes in profile.shapes.items():
        added.set_shape(name, *shapes)
    if config.add_optimization_profile(added) < 0:
        raise BackendError(f"{library.title} refuses the shapes {dict(profile.shapes)}; build the bundle again")


def _build(
    builder: Any,
    network: Any,
    config: Any,
    library: Library,
    bar: Progress,
    current: Callable[[], AbstractContextManager[None]],
    kept: object,
) -> Any:
    """The serialized engine, or None.

    The builder works in a thread of its own: this one can then be interrupted, which the builder is told at its next
    step. An exception must never pass through the library's C++. `kept` is what must live for as long as it works: the
    parser has the graph's weights.
    """
    cancelled, done = threading.Event(), threading.Event()
    config.progress_monitor = _monitor(library.trt, bar, cancelled)
    result: list[Any] = []
    failed: list[BaseException] = []

    def work(kept: object) -> None:
        try:
            with current():
                result.append(builder.build_serialized_network(network, config))
        except BaseException as error:  # raised again below, in the thread that asked
            failed.append(error)
        finally:
            _working.discard(done)
            done.set()

    thread = threading.Thread(target=work, args=(kept,), name="claprt-build")
    _working.add(done)
    try:
        thread.start()
        # Not `join`: once that was interrupted, Python before 3.13 takes the thread for ended (bpo-45274).
        while not done.wait(0.2):
            pass
    finally:
        cancelled.set()  # too late to matter, if the build is done
        if thread.ident is None:
            _working.discard(done)
        elif not done.is_set():
            bar.note("interrupted; ends at the library's next step, or at once if interrupted again")
            done.wait()
    if failed:
        raise failed[0]
    return result[0]


def _monitor(trt: Any, bar: Progress, cancelled: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Outermost phases move the bar; inner ones are named at its end. The library calls from threads of its own."""

        def __init__(self) -> None:
            super().__init__()
            self._outer: set[str] = set()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                if parent_phase:
                    bar.note(phase_name)
                else:
                    self._outer.add(phase_name)
                    bar.extend(num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._outer:
                    bar.advance()
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._outer.discard(phase_name)

    return Monitor()
