"""What users install: the wheel, in clean environments, without torch, small, and working."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import claprt
from claprt_export.demo import sounds
from claprt_export.demo.write_sounds import write_sounds
from claprt_kernels import compile as kernel_files

ROOT = Path(__file__).resolve().parents[2]
SIZE_LIMIT = 200_000_000
FORBIDDEN = ("torch", "transformers", "onnx")

pytestmark = pytest.mark.packaging

# Imports every module of the runtime and the kernels; prints what came along.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
names = []
for package in ("claprt", "claprt_kernels"):
    root = importlib.import_module(package)
    names.append(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            names.append(module.name)
print(json.dumps({"imported": names, "loaded": sorted(sys.modules)}))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command outside this environment's paths; returns stdout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as an installer would.

    It finds the fatbin of this checkout there, which takes nvcc a minute: of other sources it would make its own.
    """
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    shutil.unpack_archive(sdist, out)
    unpacked = out / sdist.name.removesuffix(".tar.gz")
    data = unpacked / "kernels" / "claprt_kernels" / "data"
    assert not data.exists()
    with contextlib.suppress(kernel_files.CompileError):  # without nvcc the wheel has no kernels
        kernel_files.compile_fatbin()
        shutil.copytree(kernel_files.DATA, data)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, unpacked)
    (path,) = out.glob("*.whl")
    return path


def clean_environment(directory: Path, *requirements: str) -> Path:
    """A new virtual environment with `requirements` and nothing else, not even pip; returns its Python."""
    venv.create(directory, with_pip=False, symlinks=True)  # as `python -m venv` does; copies of Python weigh 20 MB
    python = directory / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *requirements)
    return python


@pytest.fixture(scope="module")
def runtime_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a clean environment with claprt[cpu] alone."""
    directory = tmp_path_factory.mktemp("environment") / "venv"
    return clean_environment(directory, "--constraint", str(ROOT / "constraints.txt"), f"{wheel}[cpu]")


def test_wheel_contents(wheel: Path) -> None:
    """Four packages, typed, with licence and one demo checkpoint; no tests, no caches, nothing at the top level."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"claprt", "claprt_export", "claprt_kernels", "claprt_bench"}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or "test_" in name]
    assert "claprt_export/demo/unfused/model.safetensors" in names
    assert not [name for name in names if name.startswith("claprt_export/demo/fused")]
    assert wheel.stat().st_size < 6_000_000
    with contextlib.suppress(kernel_files.CompileError):
        kernel_files.find_nvcc()
        kernels = zipfile.ZipFile(wheel).read("claprt_kernels/data/kernels.fatbin")
        assert kernels == kernel_files.FATBIN.read_bytes()


def test_no_module_of_the_runtime_needs_torch(runtime_python: Path) -> None:
    """Every module imports where torch, transformers and onnx are not installed, and asks for none of them."""
    result = json.loads(run(runtime_python, "-c", IMPORT_ALL))
    assert len(result["imported"]) > 20
    assert not {name.split(".")[0] for name in result["loaded"]} & set(FORBIDDEN)
    for name in FORBIDDEN:
        found = run(runtime_python, "-c", f"import importlib.util as u; print(u.find_spec({name!r}))")
        assert found.strip() == "None"


def test_the_same_holds_where_torch_is_installed() -> None:
    """An optional `try: import torch` would show here."""
    path = os.pathsep.join(str(ROOT / part) for part in ("runtime", "kernels"))
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {name.split(".")[0] for name in json.loads(done.stdout)["loaded"]} & set(FORBIDDEN)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the last onnxruntime for Python 3.10 brings sympy along")
def test_environment_is_small(runtime_python: Path) -> None:
    """claprt[cpu] with all it depends on, compiled as pip compiles it, stays under 200 MB."""
    root = runtime_python.parents[1]
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"environment of claprt[cpu]: {size / 1e6:.0f} MB")
    assert size < SIZE_LIMIT


def test_bundle_runs_there(runtime_python: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """The command line classifies, and the vectors are those of this environment."""
    files = write_sounds(tmp_path / "sounds", count=7)
    (tmp_path / "labels.txt").write_text("\n".join(sounds.KINDS))
    command = runtime_python.parent / "claprt"
    printed = run(
        command, "classify", demo_bundle, *files, "--labels-file", tmp_path / "labels.txt", "--json", cwd=tmp_path
    )
    results = json.loads(printed)["results"]
    assert len(results) == 7
    best = [result["predictions"][0]["label"] for result in results]
    assert sum(label == kind for label, kind in zip(best, sounds.KINDS, strict=False)) >= 6
    run(command, "embed", demo_bundle, *files, "-o", tmp_path / "out.npz", cwd=tmp_path)
    there = claprt.load_embeddings(tmp_path / "out.npz")
    here = claprt.load(demo_bundle).embed_audio(files)
    np.testing.assert_allclose(there.vectors, here, atol=1e-6)


def test_build_names_the_extra_that_is_missing(runtime_python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [runtime_python.parent / "claprt", "build", "demo", "-o", tmp_path / "bundle"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "claprt[export]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "bundle").exists()


def oldest_dependencies() -> list[str]:
    """The lower bounds of pyproject.toml for claprt[cpu], as exact pins."""
    tomllib: Any = pytest.importorskip("tomllib", reason="tomllib needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [item.replace(">=", "==") for item in (*project["dependencies"], *project["optional-dependencies"]["cpu"])]


@pytest.mark.full
@pytest.mark.skipif(
    sysconfig.get_python_version() not in ("3.10", "3.11"), reason="the oldest numpy has no wheel for this Python"
)
def test_oldest_dependencies(wheel: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """With every dependency at its declared lower bound the vectors are the same."""
    python = clean_environment(tmp_path / "venv", str(wheel), *oldest_dependencies())
    files = write_sounds(tmp_path / "sounds", count=7)
    run(python.parent / "claprt", "embed", demo_bundle, *files, "-o", tmp_path / "out.npz", cwd=tmp_path)
    there = claprt.load_embeddings(tmp_path / "out.npz").vectors
    np.testing.assert_allclose(there, claprt.load(demo_bundle).embed_audio(files), atol=1e-5)
