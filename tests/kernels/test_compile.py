"""The CUDA sources through nvcc, for every target it knows: no GPU is needed for that."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from claprt_kernels import compile as kernel_files
from claprt_kernels.compile import CompileError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def nvcc() -> Path:
    try:
        return kernel_files.find_nvcc()
    except CompileError as error:
        pytest.skip(str(error))


def test_no_kernel_spills_on_any_target(nvcc: Path) -> None:
    """Of the fatbin itself; and where a target is compiled alone, its kernels take the same."""
    rows = kernel_files.fatbin_resources()["kernels"]
    targets = kernel_files.targets(nvcc)
    assert kernel_files.resources(nvcc, 90) == [row for row in rows if row["target"] == "sm_90"]
    assert targets[0] == 75
    assert len(targets) >= 6
    assert len(rows) == 10 * len(targets)
    for row in rows:
        assert (row["spill_bytes"], row["stack_bytes"]) == (0, 0), row
        log_mel = str(row["kernel"]).startswith("log_mel")
        # Four blocks in 65536 registers: of 128 threads, and of 256. 48 KB of shared memory are there without asking.
        assert int(row["registers"]) <= (128 if log_mel else 64), row
        assert row["shared_bytes"] == (16_896 if log_mel else 12_288), row


def test_published_resources_are_of_these_sources(nvcc: Path) -> None:
    """The table in docs/log-mel-kernel.md, where this is the compiler that it names."""
    published = json.loads((ROOT / "bench" / "results" / "log-mel-resources.json").read_text(encoding="utf-8"))
    now = kernel_files.fatbin_resources()
    if published["nvcc"] != now["nvcc"]:
        pytest.skip(f"the published resources are nvcc {published['nvcc']}'s, and this is {now['nvcc']}")
    assert published == now, "run `python -m claprt_kernels.compile --resources` and `python -m claprt_bench.readme`"


def fatbin_entries(image: bytes) -> list[tuple[str, int]]:
    """What a fatbin holds: kinds of code, and the GPU generations that they are for."""
    found = []
    header, size = struct.unpack_from("<HQ", image, 6)
    at, end = header, header + size
    assert end == len(image)
    while at < end:
        kind, _, header, size = struct.unpack_from("<HHIQ", image, at)
        (target,) = struct.unpack_from("<I", image, at + 28)
        found.append(({1: "PTX", 2: "machine code"}[kind], target))
        at += header + size
    return found


def test_other_codes_are_another_fatbin(nvcc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made with other options, of targets or of PTX, is not taken for up to date."""
    kernel_files.compile_fatbin()
    codes = kernel_files._codes(kernel_files.targets(nvcc))
    before = kernel_files.FATBIN.read_bytes()
    monkeypatch.setattr(kernel_files, "_codes", lambda found: codes[:-1])

    class CompilingError(Exception):
        pass

    def run_nvcc(nvcc: Path, *arguments: Any) -> str:
        raise CompilingError(arguments)

    asked = {"version": kernel_files.version(nvcc), "targets": kernel_files.targets(nvcc)}
    for name, answer in asked.items():
        monkeypatch.setattr(kernel_files, name, lambda nvcc, answer=answer: answer)
    monkeypatch.setattr(kernel_files, "run_nvcc", run_nvcc)
    with pytest.raises(CompilingError):
        kernel_files.compile_fatbin()
    assert kernel_files.FATBIN.read_bytes() == before


def test_fatbin_has_every_target_and_ptx(nvcc: Path) -> None:
    assert "up to date" in kernel_files.compile_fatbin() or kernel_files.FATBIN.is_file()
    assert "up to date" in kernel_files.compile_fatbin()
    image = kernel_files.FATBIN.read_bytes()
    assert image[:4] == bytes.fromhex("50ed55ba")
    made_of = json.loads(kernel_files.STAMP.read_text(encoding="utf-8"))
    targets = kernel_files.targets(nvcc)
    assert made_of["targets"] == targets
    assert sorted(fatbin_entries(image)) == [("PTX", 75), *(("machine code", target) for target in targets)]
    assert len(image) < 1_500_000  # the wheel carries it


def test_a_package_without_a_fatbin_says_why(tmp_path: Path) -> None:
    """A wheel's build without nvcc: it goes on and says so, and so does the package when it is asked."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    package = tmp_path / "kernels" / "claprt_kernels"
    shutil.copytree(kernel_files.PACKAGE, package, ignore=shutil.ignore_patterns("data", "__pycache__"))
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    # Toolkits outside of PATH are found where they are by default.
    source = (package / "compile.py").read_text(encoding="utf-8")
    assert '"/usr/local/cuda/bin/nvcc"' in source
    (package / "compile.py").write_text(source.replace("/usr/local/cuda/bin", str(tmp_path)), encoding="utf-8")
    hidden = ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"PATH": str(tmp_path), "PYTHONPATH": str(package.parent)}

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    build = (
        "from hatch_build import CudaKernels\n"
        "from hatchling.bridge.app import Application\n"
        "data = {'artifacts': []}\n"
        "CudaKernels('.', {}, None, None, '', 'wheel', app=Application()).initialize('standard', data)\n"
        "print(data['artifacts'])\n"
    )
    ask = (
        "import claprt_kernels\n"
        "assert not claprt_kernels.is_available()\n"
        "print(claprt_kernels.__file__, claprt_kernels.why_unavailable(), sep='\\n')\n"
    )
    fix = "run python -m claprt_kernels.compile on a machine with nvcc"
    never = f"the CUDA kernels are missing: there is no kernels.fatbin in this package; {fix}"
    init = str(package / "__init__.py")
    assert run(ask).splitlines() == [init, never]
    (package / "data").mkdir()
    (package / "data" / "kernels.fatbin").write_bytes(b"of other sources")
    assert run(build) == "['/kernels/claprt_kernels/data/*']"
    assert not (package / "data" / "kernels.fatbin").exists()
    without = "this package was built without the CUDA kernels: nvcc was not found: install a CUDA toolkit (12 or 13)"
    assert run(ask).splitlines() == [
        init,
        f"the CUDA kernels are missing: {without}, or name its nvcc in CUDACXX; {fix}",
    ]


def test_without_nvcc_the_reason_is_an_error(tmp_path: Path) -> None:
    """And a broken nvcc's last words are passed on."""
    env = {name: value for name, value in os.environ.items() if name not in ("CUDACXX", "CUDA_HOME", "CUDA_PATH")}
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\necho 'it broke'\nexit 3\n")
    broken.chmod(0o755)
    command = [sys.executable, "-m", "claprt_kernels.compile", "--resources"]
    done = subprocess.run(command, env=env | {"CUDACXX": str(broken)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {broken} failed with exit code 3: it broke\n"
    assert done.stdout == ""
