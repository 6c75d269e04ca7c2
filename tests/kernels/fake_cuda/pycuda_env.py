"""CUDA libraries as they are released, on the fake driver: for tests that run programs in a process of their own.

env = pycuda_environment(default_cache(), kernels=library, FAKE_CUDA_DEFER="1")
subprocess.run([sys.executable, "-c", program], env=env, check=True)
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.kernels.fake_cuda.build import CannotBuildError, cached, digest, fake_driver, toolkit

VERSION = "2026.1"
_ROOT = Path(__file__).resolve().parents[3]
# PyCUDA, and what it imports: resolved by hand, as NumPy must be the one that is there.
_PACKAGES = (f"pycuda=={VERSION}", "pytools", "platformdirs", "siphash24", "typing-extensions", "mako", "markupsafe")
_OPTIONS = "CUDA_ENABLE_CURAND = False\n"  # toolkits without curand.h are toolkits enough
_FLAGS = "-O0 -g0"  # half the time to build it


def default_cache() -> Path:
    """Where built things are kept: with the virtual environment of this clone, else in the user's cache."""
    venv = _ROOT / ".venv"
    return venv / "pycuda-cache" if venv.is_dir() else Path.home() / ".cache" / "claprt-tests"


def pycuda_site(cache: Path) -> Path:
    """A directory for PYTHONPATH with PyCUDA, built from its sdist if `cache` does not have it: minutes, once.

    Raises CannotBuildError where the toolkit or a compiler is missing, or pip cannot get or build it.
    """
    driver, root = fake_driver(cache), toolkit()
    tag = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    header = (root / "include" / "cuda.h").read_bytes()
    key = digest(header, repr((_PACKAGES, _OPTIONS, _FLAGS, sysconfig.get_config_var("SOABI"))).encode())

    def make(site: Path) -> None:
        home = site.with_name("home")
        home.mkdir()
        (home / ".aksetup-defaults.py").write_text(_OPTIONS)
        for name in (".config", ".pip", ".netrc"):  # what pip reads there
            if (Path.home() / name).exists():
                (home / name).symlink_to(Path.home() / name)
        env = os.environ | {
            "HOME": str(home),
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LIBRARY_PATH": os.pathsep.join(filter(None, [str(driver), os.environ.get("LIBRARY_PATH")])),
            "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} {_FLAGS}",
        }
        # No cache: it may have a wheel that another toolkit or other options made.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--target", str(site), "--no-deps"]
        done = subprocess.run(
            [*pip, "--no-binary", "pycuda", *_PACKAGES], env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            raise CannotBuildError(f"pip cannot install PyCUDA {VERSION}: {errors[-1] if errors else done.stderr}")

    return cached(cache / f"pycuda-{VERSION}-{tag}-{key}", make)


def fake_environment(cache: Path, kernels: Path | None = None, **settings: str) -> dict[str, str]:
    """The environment of a program that uses the fake driver: this one's, and what it takes.

    `settings` are variables of the fake driver, `kernels` its FAKE_CUDA_KERNELS.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("FAKE_CUDA_")} | settings
    if kernels is not None:
        env["FAKE_CUDA_KERNELS"] = str(kernels)
    return _prepended(_prepended(env, "LD_LIBRARY_PATH", fake_driver(cache)), "PYTHONPATH", _ROOT)


def bindings_environment(cache: Path, kernels: Path | None = None, **settings: str) -> dict[str, str]:
    """`fake_environment`, where cuda-bindings is installed; else CannotBuildError."""
    if importlib.util.find_spec("cuda") is None:
        raise CannotBuildError("cuda-bindings is not installed; pip install cuda-bindings")
    return fake_environment(cache, kernels, **settings)


def pycuda_environment(cache: Path, kernels: Path | None = None, **settings: str) -> dict[str, str]:
    """`fake_environment`, with PyCUDA, which is built if need be."""
    return _prepended(fake_environment(cache, kernels, **settings), "PYTHONPATH", pycuda_site(cache))


def _prepended(env: dict[str, str], name: str, first: Path) -> dict[str, str]:
    return env | {name: os.pathsep.join(filter(None, [str(first), env.get(name)]))}


class FakeCuda:
    """What the fake driver tells tests, in a program that runs on it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.fake_cuda_last_error.restype = ctypes.c_char_p

    @property
    def last_error(self) -> str:
        return str(self._library.fake_cuda_last_error().decode())

    def count(self, function: str) -> int:
        """How many calls of a function there were, such as cuMemAlloc_v2; of pageable_async_copy, see the source."""
        return int(self._library.fake_cuda_count(function.encode()))

    def reset(self) -> None:
        """Forget the current context's error."""
        self._library.fake_cuda_reset()
