"""Tiny towers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from claprt_export.checkpoint import Checkpoint, load_checkpoint
from claprt_export.towers import AudioTower, TextTower
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
def tiny(exported_files: Callable[[str, bool], Path]) -> Callable[[bool], Checkpoint]:
    """`tiny(fusion)`: a random checkpoint."""
    return lru_cache(lambda fusion: load_checkpoint(str(exported_files("tiny", fusion) / "checkpoint")))


@pytest.fixture(scope="session")
def subject(tiny: Callable[[bool], Checkpoint], exported_files: Callable[[str, bool], Path]) -> GetSubject:
    """`subject(name)`: one of `TOWERS`, read only."""

    @lru_cache
    def make(name: str) -> Subject:
        assert name in TOWERS
        checkpoint = tiny(name == "fused")
        text = name == "text"
        tower = TextTower(checkpoint.model) if text else AudioTower(checkpoint.model, checkpoint.log_mel.frames)
        path = exported_files("tiny", checkpoint.fusion) / ("text.fp32.onnx" if text else "audio.fp32.onnx")
        result = Subject(name, checkpoint, tower.eval(), path, batches_of(name, checkpoint))
        assert_spread(result.vectors)
        return result

    return make
