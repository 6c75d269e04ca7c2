"""What claprt uses of TensorRT is there in all versions that it takes: asked of NVIDIA's own bindings of each."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from claprt.engines.tensorrt import build, library, runner
from claprt.engines.tensorrt.library import INTERFACE, RTX_INTERFACE, checked, version_numbers
from claprt.errors import BackendError
from tests.kernels.fake_cuda.build import CannotBuildError
from tests.runtime.library_bindings import bindings, described, stub_libraries

# The oldest, the newest, and those in between that changed the interface.
VERSIONS = {
    "10.3": ("tensorrt", "tensorrt-cu12-bindings", "10.3.0", "tensorrt_bindings"),
    "10.16": ("tensorrt", "tensorrt-cu12-bindings", "10.16.1.11", "tensorrt_bindings"),
    "11.0": ("tensorrt", "tensorrt-cu13-bindings", "11.0.0.114", "tensorrt_bindings"),
    "11.4": ("tensorrt", "tensorrt-cu13-bindings", "11.4.0.106", "tensorrt_bindings"),
    "rtx-1.4": ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "1.4.0.76", "tensorrt_rtx_bindings"),
    "rtx-1.7": ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "1.7.1.116", "tensorrt_rtx_bindings"),
}
# How claprt calls what it uses: the library's names of the arguments, in the order in which they are given.
CALLS = {
    "Builder.__init__": ("logger",),
    "Builder.build_serialized_network": ("network", "config"),
    "Builder.create_builder_config": (),
    "Builder.create_network": ("flags",),
    "Builder.create_optimization_profile": (),
    "IBuilderConfig.add_optimization_profile": ("profile",),
    "IBuilderConfig.clear_flag": ("flag",),
    "IBuilderConfig.create_timing_cache": ("serialized_timing_cache",),
    "IBuilderConfig.get_timing_cache": (),
    "IBuilderConfig.set_flag": ("flag",),
    "IBuilderConfig.set_memory_pool_limit": ("pool", "pool_size"),
    "IBuilderConfig.set_timing_cache": ("cache", "ignore_mismatch"),
    "ICudaEngine.create_execution_context": ("strategy",),
    "ICudaEngine.get_device_memory_size_for_profile_v2": ("profile_index",),
    "ICudaEngine.get_tensor_dtype": ("name",),
    "ICudaEngine.get_tensor_mode": ("name",),
    "ICudaEngine.get_tensor_name": ("index",),
    "ICudaEngine.get_tensor_profile_shape": ("name", "profile_index"),
    "ICudaEngine.get_tensor_shape": ("name",),
    "IExecutionContext.execute_async_v3": ("stream_handle",),
    "IExecutionContext.set_device_memory": ("memory", "size"),
    "IExecutionContext.set_input_shape": ("name", "shape"),
    "IExecutionContext.set_optimization_profile_async": ("profile_index", "stream_handle"),
    "IExecutionContext.set_tensor_address": ("name", "memory"),
    "ILogger.log": ("severity", "msg"),
    "INetworkDefinition.get_input": ("index",),
    "IOptimizationProfile.set_shape": ("input", "min", "opt", "max"),
    "IProgressMonitor.phase_finish": ("phase_name",),
    "IProgressMonitor.phase_start": ("phase_name", "parent_phase", "num_steps"),
    "IProgressMonitor.step_complete": ("phase_name", "step"),
    "ITimingCache.serialize": (),
    "OnnxParser.__init__": ("network", "logger"),
    "OnnxParser.get_error": ("index",),
    "OnnxParser.parse_from_file": ("model",),
    "ParserError.code": (),
    "ParserError.desc": (),
    "ParserError.node_name": (),
    "ParserError.node_operator": (),
    "Runtime.__init__": ("logger",),
    "Runtime.deserialize_cuda_engine": ("serialized_engine",),
}
RTX_CALLS = {
    "IBuilderConfig.set_compute_capability": ("compute_capability", "index"),
    "ICudaEngine.create_execution_context": ("runtime_config",),
    "ICudaEngine.create_runtime_config": (),
    "IRuntimeCache.deserialize": ("blob",),
    "IRuntimeCache.serialize": (),
    "IRuntimeConfig.create_runtime_cache": (),
    "IRuntimeConfig.set_execution_context_allocation_strategy": ("strategy",),
    "IRuntimeConfig.set_runtime_cache": ("cache",),
}
# Properties that claprt sets; the others it only reads.
SET = {
    "IBuilderConfig.builder_optimization_level",
    "IBuilderConfig.hardware_compatibility_level",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.profiling_verbosity",
    "IBuilderConfig.progress_monitor",
    "Runtime.engine_host_code_allowed",
}


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return stub_libraries(tmp_path_factory.mktemp("stubs"))
    except CannotBuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def description(stubs: Path) -> Callable[[str], Any]:
    """`description(key of VERSIONS)`: what that version has, and what claprt says of it."""

    @cache
    def describe(name: str) -> Any:
        backend, package, version, module = VERSIONS[name]
        try:
            site = bindings(package, version)
        except CannotBuildError as error:
            pytest.skip(str(error))
        return described(backend, module, [site, stubs])

    return describe


@pytest.mark.parametrize("name", VERSIONS)
def test_claprt_takes_this_version(description: Callable[[str], Any], name: str) -> None:
    """All of `INTERFACE` is there: `checked` returns the library; else its text would be an error's."""
    title = "TensorRT for RTX" if name.startswith("rtx") else "TensorRT"
    assert description(name)["title"] == f"{title} {VERSIONS[name][2]}"


@pytest.mark.parametrize("name", VERSIONS)
def test_calls_fit_their_signatures(description: Callable[[str], Any], name: str) -> None:
    """Names and order of arguments, as pybind11's docstrings have them; some overload takes just these."""
    classes, rtx = description(name)["classes"], name.startswith("rtx")
    for calls in (CALLS, RTX_CALLS) if rtx else (CALLS,):
        for call, given in calls.items():
            kind, _, method = call.partition(".")
            overloads = classes[kind][method]
            assert any(fits(overload, given) for overload in overloads) or undocumented(call, overloads), (
                call,
                given,
                overloads,
            )
    for entry in SET - (set() if rtx else set(RTX_INTERFACE)):
        kind, _, member = entry.partition(".")
        assert classes[kind][member] == "property", entry


def fits(overload: list[tuple[str, bool]], given: tuple[str, ...]) -> bool:
    names, optional = [name for name, _ in overload], [has_default for _, has_default in overload]
    return tuple(names[: len(given)]) == given and all(optional[len(given) :])


def undocumented(call: str, overloads: list[Any]) -> bool:
    """Methods that claprt overrides have no signature in some versions."""
    return call.startswith(("ILogger.", "IProgressMonitor.")) and not overloads


def test_every_method_has_its_call_here() -> None:
    """Else the test above would pass over what is new in the lists."""
    constructors = {"Builder.__init__", "OnnxParser.__init__", "Runtime.__init__"}
    for listed, calls in ((INTERFACE, CALLS), (RTX_INTERFACE, RTX_CALLS)):
        methods = {entry for entry in listed if entry.rpartition(".")[2].islower()} - SET
        reads = {entry for entry in methods if entry.rpartition(".")[2].startswith("num_")} | {"ITensor.name"}
        unlisted = {"ICudaEngine.create_execution_context"} if calls is RTX_CALLS else constructors
        assert methods - reads == set(calls) - unlisted


@pytest.mark.parametrize("name", VERSIONS)
def test_names_that_claprt_reads_as_text(description: Callable[[str], Any], name: str) -> None:
    found = description(name)
    assert {"INTERNAL_ERROR", "ERROR", "WARNING"} <= set(found["levels"])
    assert set(runner._TYPES) <= set(found["classes"]["DataType"])
    if name.startswith("rtx"):
        assert {"SM75", "SM80", "SM86", "SM89", "SM120"} <= set(found["classes"]["ComputeCapability"])


@pytest.mark.parametrize("name", [name for name in VERSIONS if not name.startswith("rtx")])
def test_a_builder_that_cannot_be_made_is_one_line(description: Callable[[str], Any], name: str) -> None:
    """The stub's builder is a null pointer, as the library's is where CUDA does not start: pybind11's TypeError."""
    assert description(name)["builder"] == f"TensorRT {VERSIONS[name][2]} cannot make a builder: it gives no reason"


# The lists are complete, and have nothing that is not used.


def used() -> Iterator[tuple[str, str]]:
    """(name, place) of every attribute, and every method of classes that derive from one of the library's."""
    for module in (build, library, runner):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        for found in ast.walk(tree):
            place = f"{Path(module.__file__).name}:{getattr(found, 'lineno', '')}"
            if isinstance(found, ast.Attribute):
                yield found.attr, f"{place}: {ast.unparse(found)}"
            elif isinstance(found, ast.ClassDef) and any("trt." in ast.unparse(base) for base in found.bases):
                yield from ((item.name, place) for item in found.body if isinstance(item, ast.FunctionDef))


def chains() -> Iterator[str]:
    """Attributes of the module itself, such as "BuilderFlag.TF32"."""
    for module in (build, library, runner):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        inner = {found.value for found in ast.walk(tree) if isinstance(found, ast.Attribute)}
        for found in ast.walk(tree):
            if isinstance(found, ast.Attribute) and found not in inner:
                before, trt, chain = f".{ast.unparse(found)}".rpartition(".trt.")
                if trt and before.removeprefix(".") in ("", "library", "self.library"):
                    yield chain


# Names that the library's classes have too, but which are other things where claprt uses them.
OURS = {
    "__init__": "of our own classes",
    "append": "of lists",
    "clear": "of dictionaries",
    "dtype": "numpy's",
    "engine": "of TensorRtTower",
    "extend": "of Progress",
    "nbytes": "of DeviceMemory",
    "start": "of threads",
    "__members__": "every enumeration of pybind11 has it",
}
# Asked for with `getattr`, and done without where it is missing.
OPTIONAL = {"CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE", "cuda_graph_strategy"}


def test_nothing_is_used_that_is_not_listed(description: Callable[[str], Any]) -> None:
    listed = {entry.rpartition(".")[2] for entry in (*INTERFACE, *RTX_INTERFACE)}
    members = {member for name in VERSIONS for kind in description(name)["classes"].values() for member in kind}
    assert [(name, place) for name, place in used() if name in members - listed - set(OURS) - OPTIONAL] == []
    assert set(OURS) <= {name for name, _ in used()} & members  # no exception without a need
    for chain in chains():
        kind = chain.removesuffix(".__members__")
        assert any(entry == chain or entry.startswith(f"{kind}.") for entry in (*INTERFACE, *RTX_INTERFACE)), chain


def test_nothing_is_listed_that_is_not_used() -> None:
    names = {name for name, _ in used()}
    assert [entry for entry in (*INTERFACE, *RTX_INTERFACE) if entry.rpartition(".")[2] not in names] == []
    assert len(set(INTERFACE) | set(RTX_INTERFACE)) == len(INTERFACE) + len(RTX_INTERFACE)


# Versions


def module_of(version: str | None, names: tuple[str, ...] = INTERFACE) -> ModuleType:
    """A module that has these names, and nothing behind them."""
    made = ModuleType("tensorrt")
    for name in names:
        inner: Any = made
        for part in name.split("."):
            if not hasattr(inner, part):
                setattr(inner, part, type(part, (), {}))
            inner = getattr(inner, part)
    if version is not None:
        made.__version__ = version  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("version", ["10.3", "10.3.0", "10.14.1.48.post1", "11.0.0.114", "11.99"])
def test_versions_that_are_taken(version: str) -> None:
    assert checked("tensorrt", module_of(version)).version == version


@pytest.mark.parametrize(
    ("backend", "version"),
    [
        *(("tensorrt", version) for version in ("8.6.1", "10.2.0.19", "10", "12.0.0", "", "unknown", None)),
        *(("tensorrt-rtx", version) for version in ("1.3.0.35", "2.0", None)),
    ],
)
def test_versions_that_are_refused(backend: str, version: str | None) -> None:
    with pytest.raises(BackendError, match="claprt does not know this version") as caught:
        checked(backend, module_of(version))
    bounds = ">=10.3,<12" if backend == "tensorrt" else ">=1.4,<2"
    assert str(caught.value).endswith(f"install one {bounds}")
    assert ("of no version" if version is None else version) in str(caught.value)


def test_what_a_module_lacks_is_named() -> None:
    lacking = "IExecutionContext.execute_async_v3"
    with pytest.raises(
        BackendError, match=f"lacks what claprt needs of it: TensorRT 10.5: {lacking}; install it again"
    ):
        checked("tensorrt", module_of("10.5", tuple(name for name in INTERFACE if name != lacking)))
    with pytest.raises(BackendError, match=r"ComputeCapability\.CURRENT, IBuilderConfig\.num_compute_capabilities"):
        checked("tensorrt-rtx", module_of("1.5"))


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("10.14.1.48.post1", (10, 14, 1, 48)), ("11", (11,)), ("v11", ()), ("", ()), ("1.4.0a1", (1, 4, 0))],
)
def test_version_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(version) == numbers


# The log


def test_two_builders_side_by_side_both_hear_their_reasons(tmp_path: Path) -> None:
    """The library takes the first log that it is given and ignores others as long as anything of it is alive."""
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'claprt[rtx]'")
    program = """
import importlib, sys
from claprt.engines.tensorrt.library import Heard
trt = importlib.import_module("tensorrt_rtx_bindings")
first, second = Heard(trt), Heard(trt)
kept = trt.Builder(first.log), trt.Builder(second.log)
network = kept[1].create_network(0)
assert kept[1].build_serialized_network(network, kept[1].create_builder_config()) is None
assert second.errors and second.errors == first.errors, (first.errors, second.errors)
assert "differs" not in " ".join([*first.warnings, *second.warnings]), first.warnings
third = Heard(trt)
assert third.reasons == "it gives no reason"
sys.exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
