"""How ONNX Runtime's sessions are configured."""

from __future__ import annotations

import platform
from pathlib import Path

import onnxruntime
import pytest

from claprt.engines import ort
from claprt.errors import BundleError

KEY = "session.x64quantprecision"


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", "fpu avx2 avx512bw avx512_vnni", False),
        ("x86_64", "fpu avx2 avx_vnni", False),
        ("x86_64", "fpu avx2 fma avx512bw avx512_vnnix", True),
        ("AMD64", None, True),
        ("aarch64", "fp asimd", False),
    ],
)
def test_int8_is_exact_on_processors_that_would_saturate(
    machine: str, flags: str | None, saturates: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And is not slowed down where they would not."""
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(ort, "_CPU_INFO", tmp_path / "cpuinfo")
    entries: dict[str, str] = {}

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries[key] = value
            super().add_session_config_entry(key, value)  # ONNX Runtime takes it

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    graph = tmp_path / "empty.onnx"
    graph.write_bytes(b"")
    with pytest.raises(BundleError, match="cannot load the graph"):
        ort.OrtEngine([graph], ("x",), 1).run({})
    assert entries.get(KEY) == ("1" if saturates else None)
    assert entries["session.set_denormal_as_zero"] == "1"
