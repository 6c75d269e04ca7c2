"""NVIDIA's own Python bindings of TensorRT, without the libraries that they bind: what they have, and what it takes.

The bindings link a few C functions. Stub libraries that have them, and do nothing, are enough to import the module.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kernels.fake_cuda.build import CannotBuildError, cached
from tests.kernels.fake_cuda.pycuda_env import default_cache

ROOT = Path(__file__).resolve().parents[2]
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = (
    *(f"lib{name}.so.{major}" for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser") for major in (10, 11)),
    *("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
)
# In a signature of pybind11's: "name: type, name: type = default".
_BETWEEN = re.compile(r", (?=\w+: )")


def bindings(package: str, version: str) -> Path:
    """A directory for PYTHONPATH with the bindings of a version, from the package index or the cache.

    Raises CannotBuildError where pip cannot get them.
    """

    def make(site: Path) -> None:
        site.mkdir()
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        options = ["--only-binary=:all:", "--quiet", "--dest", str(site), f"{package}=={version}"]
        done = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            raise CannotBuildError(f"pip cannot get {package} {version}: {errors[-1] if errors else done.stderr}")
        (wheel,) = site.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        wheel.unlink()

    return cached(default_cache() / f"{package}-{version}-{sys.implementation.cache_tag}", make)


def stub_libraries(directory: Path) -> Path:
    """Libraries that have the bindings' symbols, in `directory`; each function returns a null pointer.

    Raises CannotBuildError where there is no C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise CannotBuildError("no gcc on PATH (a C compiler)")
    source = directory / "stub.c"
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in _SYMBOLS))
    for library in _LIBRARIES:
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(directory / library), str(source)]
        subprocess.run(command, check=True)
    # Where the real libraries are installed from wheels, the bindings would load those.
    for name in ("tensorrt_libs", "tensorrt_rtx_libs"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").touch()
    return directory


def described(backend: str, module: str, paths: Sequence[Path]) -> Any:
    """`describe` of bindings in a process of its own, with `paths` before all else."""
    program = f"from {__name__} import describe; describe({backend!r}, {module!r})"
    env = dict(os.environ)
    for name, first in (("PYTHONPATH", [*paths, ROOT]), ("LD_LIBRARY_PATH", paths)):
        env[name] = os.pathsep.join(filter(None, [*map(str, first), env.get(name)]))
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def describe(backend: str, name: str) -> None:
    """Print what claprt says of a module, and what its classes have, as one line of JSON."""
    from claprt.engines.tensorrt.build import BuildOptions, build_plan
    from claprt.engines.tensorrt.library import Library, checked
    from claprt.errors import BackendError

    trt = importlib.import_module(name)
    library = Library(backend, trt, trt.__version__)
    found: dict[str, Any] = {"title": "", "builder": "", "levels": list(trt.ILogger.Severity.__members__)}
    try:
        found["title"] = checked(backend, trt).title
    except BackendError as error:
        found["title"] = str(error)
    if trt.__version__.startswith(("10.", "11.")):  # others make an empty object and crash when it is used
        try:
            build_plan(library, Path("none.onnx"), [], BuildOptions())
        except BackendError as error:
            found["builder"] = str(error)
    found["classes"] = {kind: _members(value) for kind, value in inspect.getmembers(trt, inspect.isclass)}
    print(json.dumps(found))


def _members(kind: type) -> dict[str, Any]:
    """Of each method its overloads, each with (name, has a default) of the parameters after `self`.

    Of a property "property" or "read-only", of anything else None.
    """
    members: dict[str, Any] = {}
    for name in dir(kind):
        value = inspect.getattr_static(kind, name)
        if isinstance(value, property):
            members[name] = "property" if value.fset is not None else "read-only"
        elif callable(value) and (name == "__init__" or not name.startswith("__")):
            signatures = re.findall(rf"^(?:\d+\. )?{name}\(self: [^,)]*(?:, )?(.*)\) -> ", value.__doc__ or "", re.M)
            members[name] = [
                [(text.split(":")[0], " = " in text) for text in _BETWEEN.split(signature) if text]
                for signature in signatures
            ]
        elif not name.startswith("__"):
            members[name] = None
    return members
