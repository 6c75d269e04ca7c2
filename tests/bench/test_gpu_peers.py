"""What `make gpu-check` times beside claprt, on this CPU: it computes what it must, or is not timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from claprt_bench import gpu_peers, gpu_pytorch
from claprt_bench.gpu_task import Settings, Task
from claprt_kernels.reference import log_mel_reference


def measured(module: Any, unit: str, **settings: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    module.measure(Task(Settings("work", "9.0", **settings), unit, rows.append), device="cpu")
    return rows


@pytest.mark.parametrize(("unit", "batches"), [("torch.stft", (1, 3)), ("torch.stft, torch.compile", (2,))])
def test_pytorch(unit: str, batches: tuple[int, ...]) -> None:
    rows = measured(gpu_peers, unit, batches=batches)
    assert [(row["batch"], row["status"]) for row in rows] == [(batch, "passed") for batch in batches], rows
    assert all(0 < row["error_db"] < 0.05 and row["us"] > 0 and row["library"].startswith("torch ") for row in rows)
    if "compile" in unit:
        assert all(row["graphs"] >= 1 and "graph_breaks" in row for row in rows)


def test_what_cupy_computes_with_numpy_in_its_place() -> None:
    waves = (np.random.default_rng(0).standard_normal((2, gpu_peers.SPEC.clip_samples)) * 0.1).astype(np.float32)
    found = gpu_peers.framed(np)(waves)
    assert found.dtype == np.float32
    for wave, row in zip(waves, found, strict=True):
        np.testing.assert_allclose(row, log_mel_reference(wave, gpu_peers.SPEC), atol=0.01)


@pytest.mark.parametrize("wrong", [lambda x: x + 0.1, lambda x: x * np.nan, lambda x: x[:, :-1]])
def test_what_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    def make(device: str) -> Any:
        right = gpu_peers._torch(device)
        return lambda waves: wrong(right(waves))

    monkeypatch.setitem(gpu_peers._PEERS, "wrong", (make, "torch"))
    (row,) = measured(gpu_peers, "wrong", batches=(2,))
    assert row["status"] == "failed"
    assert "it computes something else" in row["reason"]
    assert "us" not in row


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from claprt_export.random_checkpoint import save_random_checkpoint

    return save_random_checkpoint(tmp_path_factory.mktemp("random") / "tiny", "tiny")


@pytest.mark.parametrize(
    ("unit", "batches"), [("eager/audio", (2,)), ("eager/text", (1, 2)), ("torch.compile/text", (1, 2))]
)
def test_transformers_towers(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, unit: str, batches: tuple[int, ...]
) -> None:
    monkeypatch.setattr(gpu_pytorch, "_RUNS", 1)  # a CPU takes long for FP16
    rows = measured(gpu_pytorch, unit, batches=batches, checkpoint=str(checkpoint))
    assert [(row["batch"], row["status"]) for row in rows] == [(batch, "passed") for batch in batches], rows
    assert all(row["worst_cosine"] > 0.99 and row["ms"] > 0 for row in rows)
    assert all("transformers " in row["library"] for row in rows)
    if unit.startswith("torch.compile"):  # compiled for each batch, not run as it is after the first ones
        assert [row["graphs"] >= 1 for row in rows] == [True, True]
