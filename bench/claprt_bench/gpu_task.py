"""What a step of `make gpu-check` is given, and how it says what came of it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
BACKENDS = ("ort-cuda", "tensorrt-rtx", "tensorrt")
BATCHES = (1, 8, 64, 256)
TOKENS = 77  # of a text
_REASON = 3000  # characters at most
Row = dict[str, Any]


class NotRunError(Exception):
    """What cannot run on this machine; the message says what it lacks."""


@dataclass(frozen=True)
class Settings:
    """What was asked for. Paths are strings: it travels as JSON.

    Attributes:
        work: where programs, checkpoints and bundles are kept.
        compute_capability: of the GPU, "9.0" for one.
        backends, precisions, batches: of the towers.
        bundle, fused_bundle, checkpoint: what to measure; None makes it.
        audio: a folder of recordings that parity is checked on too.
        seconds: of each throughput and latency.
        clips: of one call of a throughput.
    """

    work: str
    compute_capability: str
    backends: tuple[str, ...] = BACKENDS
    precisions: tuple[str, ...] = ("fp32", "fp16")
    batches: tuple[int, ...] = BATCHES
    bundle: str | None = None
    fused_bundle: str | None = None
    checkpoint: str | None = None
    audio: str | None = None
    seconds: float = 0.5
    clips: int = 512

    def to_json(self) -> str:
        """For `from_json`."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        """What `to_json` was called on."""
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("backends", "precisions", "batches")}
        return Settings(**{**values, **lists})


@dataclass(frozen=True)
class Task:
    """One unit of a step. `keep` is called with each row as soon as it is known: a crash takes only what follows."""

    settings: Settings
    unit: str
    keep: Callable[[Row], None]

    def attempt(self, identity: Row, measure: Callable[[], Row]) -> Row:
        """Keep a row: what `measure` returns, "passed" unless it says otherwise; or why there is nothing."""
        try:
            row = {**identity, "status": PASSED, **measure()}
        except Exception as error:  # a row must not take the others with it; its last words are the result
            row = {**identity, **outcome_of(error)}
        self.keep(row)
        return row


def outcome_of(error: Exception) -> Row:
    """`status` and `reason` of what raised."""
    if isinstance(error, NotRunError):
        return {"status": NOT_RUN, "reason": str(error)}
    return {"status": FAILED, "reason": f"{type(error).__name__}: {str(error)[-_REASON:]}"}


def summary(outcomes: Sequence[Row]) -> Row:
    """`status` of a whole, and `reason` if it did not pass: failed if a part did, passed if one did, else not run."""
    for status in (FAILED, PASSED, NOT_RUN):
        found = [one for one in outcomes if one["status"] == status]
        if found:
            reasons = dict.fromkeys(one.get("reason", "a part of it did not pass") for one in found)
            return {"status": status} | ({} if status == PASSED else {"reason": "; ".join(reasons)[:_REASON]})
    return {"status": NOT_RUN, "reason": "there was nothing to do"}


def need(*modules: str) -> None:
    """Raise NotRunError if one of them is not installed."""
    missing = [name for name in modules if not has(name)]
    if missing:
        raise NotRunError(f"not installed: {', '.join(missing)}")


def need_torch_gpu(*modules: str) -> None:
    """Raise NotRunError if PyTorch, or one of them, is not installed, or PyTorch sees no GPU."""
    need("torch", *modules)
    import torch

    if not torch.cuda.is_available():
        raise NotRunError(f"PyTorch {torch.__version__} sees no GPU")


def has(module: str) -> bool:
    """Whether a module is installed. It is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
