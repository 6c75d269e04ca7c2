"""What is loaded, and when: the runtime never loads what only export needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import claprt

HEAVY = ("torch", "transformers", "onnx", "onnxscript", "safetensors", "huggingface_hub", "scipy")


def imported(code: str, *names: str) -> list[str]:
    """Which of `names` are loaded after `code` ran in a fresh interpreter."""
    code = f"import sys\n{code}\nprint(*[name for name in {names!r} if name in sys.modules], file=sys.__stderr__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    return done.stderr.decode().split()


def test_the_library_does_not_load_what_only_export_needs(demo_bundle: Path, sounds: Path) -> None:
    use = f"clap = claprt.load({str(demo_bundle)!r}); clap.classify({str(sounds / 'two.wav')!r}, ['a', 'b'])"
    assert imported(f"import claprt\n{use}", *HEAVY, "claprt_export") == []


def test_import_claprt_alone_is_light() -> None:
    """Names are loaded when they are first used; all of them are there."""
    assert imported("import claprt", *HEAVY, "numpy", "onnxruntime") == []
    assert imported("from claprt import *; import claprt; assert set(claprt.__all__) <= set(dir(claprt))", *HEAVY) == []
    for name in claprt.__all__:
        assert getattr(claprt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = claprt.missing  # type: ignore[attr-defined]


def test_each_command_but_build_is_light(demo_bundle: Path, sounds: Path, tmp_path: Path) -> None:
    """All in one interpreter, one after the other."""
    commands = [
        ["info", str(demo_bundle)],
        ["classify", str(demo_bundle), str(sounds / "two.wav"), "--labels", "a,b"],
        ["embed", str(demo_bundle), str(sounds / "two.wav"), "-o", str(tmp_path / "v.npz")],
        ["doctor"],
    ]
    code = f"from claprt.cli.main import main\nfor command in {commands!r}:\n    assert main(command) == 0"
    assert imported(code, *HEAVY, "claprt_export") == []


def test_help_and_version_load_neither_numpy_nor_an_engine() -> None:
    code = "from claprt.cli.main import main\nfor command in (['--help'], ['--version'], ['classify', '--help'], []):\n"
    code += "    try: main(command)\n    except SystemExit: pass\nsys.__stderr__.write('loaded:')"
    loaded = imported(code, *HEAVY, "numpy", "onnxruntime", "tiktoken", "soundfile", "soxr")
    assert loaded[-1].endswith("loaded:")
