"""Tiny towers, exported once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
import torch

from claprt_export import graph
from claprt_export.checkpoint import Checkpoint, load_checkpoint
from claprt_export.random_checkpoint import save_random_checkpoint
from tests.export.precision.helpers import TOWERS, Subject, assert_spread, batches_of

GetSubject = Callable[[str], Subject]


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Towers as small as these are faster with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Checkpoint]:
    """`tiny(fusion)`: a random checkpoint."""

    @lru_cache
    def make(fusion: bool) -> Checkpoint:
        folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
        return load_checkpoint(str(save_random_checkpoint(folder, "tiny", fusion)))

    return make


@pytest.fixture(scope="session")
def subject(tiny: Callable[[bool], Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> GetSubject:
    """`subject(name)`: one of `TOWERS`, read only."""

    @lru_cache
    def make(name: str) -> Subject:
        assert name in TOWERS
        checkpoint = tiny(name == "fused")
        path = tmp_path_factory.mktemp(name) / f"{name}.fp32.onnx"
        export = graph.export_text_tower if name == "text" else graph.export_audio_tower
        result = Subject(name, checkpoint, export(checkpoint, path), path, batches_of(name, checkpoint))
        assert_spread(result.vectors)
        return result

    return make
