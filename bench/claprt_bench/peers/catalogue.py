"""The peers that claprt is compared with: which file runs one, and how to install it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claprt.errors import OptionError
from claprt_bench.peers.worker import SIDES


@dataclass(frozen=True)
class Peer:
    """One of them.

    Attributes:
        name: for options and results.
        what: for people.
        install: pip's arguments that make an environment for it.
        side: the file of `workers` that runs it.
        needs: what `workers/with_checkpoint.py` must make for it; empty: the checkpoint's directory is enough.
        int16: whether it rounds samples to int16, whatever the checkpoint was trained with.
        settings: fields of its job.
    """

    name: str
    what: str
    install: str
    side: str
    needs: str = ""
    int16: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The path of `side`."""
        return SIDES / self.side


STOCK = "stock"

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "transformers",
            "transformers, eager",
            "torch transformers",
            "with_transformers.py",
            settings={"compile": False},
        ),
        Peer(
            "torch-compile",
            "transformers through torch.compile",
            "torch transformers",
            "with_transformers.py",
            settings={"compile": True},
        ),
        Peer(
            STOCK,
            "torch.onnx.export of transformers' towers, in ONNX Runtime",
            "torch transformers onnxruntime",
            "with_stock.py",
            needs=STOCK,
        ),
        Peer("optimum", "optimum-onnx, in ONNX Runtime", "'optimum-onnx[onnxruntime]' torch", "with_optimum.py"),
        Peer("laion", "LAION's own package", "laion-clap torch", "with_laion.py", needs="laion", int16=True),
    )
}


def choose(names: Sequence[str], pythons: Mapping[str, Path]) -> list[Peer]:
    """The peers of these names, each once and in this order; the stock export is always one of them.

    Raises:
        OptionError: there is no such peer, or an interpreter was named for one that was not asked for, or is none.
    """
    for name in (*names, *pythons):
        if name not in PEERS:
            raise OptionError(f"unknown peer: {name!r}; choose of {', '.join(PEERS)}")
    chosen = list(dict.fromkeys([*names, STOCK]))
    for name in pythons:
        if name not in chosen:
            raise OptionError(f"a Python for a peer that was not asked for: {name!r}; add it to --against")
    for name, python in pythons.items():
        if shutil.which(python) is None:
            raise OptionError(f"no program for the peer {name}: {python}; pass the path of an environment's Python")
    return [PEERS[name] for name in chosen]
