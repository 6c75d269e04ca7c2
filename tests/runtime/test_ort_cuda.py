"""ONNX Runtime's CUDA provider where there is no GPU: refused by name, with what is missing. It never runs on the CPU
instead."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import pytest

import claprt
from claprt.engines import ort_cuda
from claprt.errors import BackendError


def test_an_onnxruntime_without_cuda_is_named() -> None:
    reason = ort_cuda.why_unusable()
    assert reason is not None
    assert "is without CUDA; pip uninstall onnxruntime" in reason


def test_it_is_not_loaded_instead_of_what_was_asked_for(demo_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"ort-cuda: there is no (NVIDIA driver|GPU)"):
        claprt.load(demo_bundle, "ort-cuda")


def test_what_is_left_to_the_cpu_is_counted(demo_bundle: Path) -> None:
    """Of a session that has the CPU alone: all operations of weight, and none that only computes shapes."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    path = str(demo_bundle / "text.fp32.onnx")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not say where operations run")
    found = ort_cuda.left_on_cpu(session)
    operations = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert found["MatMul"] == operations["MatMul"] > 0
    assert found["Softmax"] == operations["Softmax"] > 0
    assert set(found) < set(operations)
    assert "Shape" not in found


class Printing:
    """An onnxruntime whose `preload_dlls` prints, as the real one does, that it found something at the second try."""

    __version__ = "1.0"
    calls = 0

    def preload_dlls(self) -> None:
        self.calls += 1
        print("Failed to load /site-packages/nvidia/cublas/lib/libcublas.so.12: it is a text file")
        print("Failed to load /site-packages/nvidia/curand/lib/libcurand.so.10: it is a text file")
        time.sleep(0.2)
        print("Failed to load libcurand.so.10: cannot open shared object file")


def test_what_another_thread_prints_while_libraries_are_loaded_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """And what the loader finds by itself, after pip's file was refused, is not missing."""
    ort = Printing()
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(ort_cuda._preload, [ort] * 3)) == {("libcurand.so.10",)}
    assert ort.calls == 1
    print("afterwards")
    assert capsys.readouterr().out == "afterwards\n"


@pytest.mark.full
def test_the_cuda_build_without_its_libraries(tmp_path: Path) -> None:
    """onnxruntime-gpu lists the provider and goes on without it; here that is an error that names the libraries."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), "onnxruntime-gpu"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install onnxruntime-gpu: {done.stderr.strip().splitlines()[-1]}")
    program = "from claprt.engines.ort_cuda import why_unusable; print(why_unusable())"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert "lacks libraries: libcublasLt.so" in done.stdout
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in done.stdout
