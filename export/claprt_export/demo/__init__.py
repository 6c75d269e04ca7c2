"""The demo checkpoints: two small trained CLAP models, and the sounds they were trained on.

They have the true architecture, narrow, and ship with the package, so that everything can be
tried where no model hub can be reached. Nothing here imports torch.

    CHECKPOINTS   where the two checkpoints lie
    sounds        procedurally made, labelled sounds
    captions      what those sounds are called
    testset       labelled clips that were held out of training
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS: dict[str, Path] = {name: Path(__file__).resolve().parent / name for name in ("unfused", "fused")}
"""Directory of each checkpoint, as transformers' `from_pretrained` reads it."""
