"""Transformers' ClapModel on a GPU, for contrast with the towers: FP16, eager and compiled, towers alone."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from claprt_bench import gpu_bundles
from claprt_bench.gpu_peers import compiled
from claprt_bench.gpu_task import TOKENS, Row, Task, need_torch_gpu
from claprt_bench.measure import Spread

UNITS = ("eager/audio", "eager/text", "torch.compile/audio", "torch.compile/text")
_FRAMES = 1001
_CLOSE = 0.99  # cosine with FP32 on the CPU: that it computes the same, in FP16 as it comes
_RUNS = 5


def measure(task: Task, device: str = "cuda") -> Row:
    """A unit: one way of running one tower. A row for each batch.

    Args:
        task: of it.
        device: PyTorch's name of it; tests have "cpu".

    Raises:
        NotRunError: PyTorch or transformers is missing, or PyTorch sees no GPU.
    """
    if device == "cuda":
        need_torch_gpu("transformers")
    import torch
    import transformers

    mode, tower = task.unit.split("/")
    source = gpu_bundles.checkpoint(task.settings)
    exact = transformers.ClapModel.from_pretrained(source).eval()
    model = transformers.ClapModel.from_pretrained(source).eval().half().to(device)
    library = f"torch {torch.__version__}, transformers {transformers.__version__}"
    for batch in task.settings.batches:
        identity = {"part": "tower", "tower": tower, "batch": batch, "library": library}
        task.attempt(identity, partial(_row, exact, model, mode, tower, batch, device))
    return {"library": library}


def _row(exact: Any, model: Any, mode: str, tower: str, batch: int, device: str) -> Row:
    import torch

    inputs = _inputs(exact.config, tower, batch)
    checked = sorted({0, batch - 1})
    on_device = [value.to(device) for value in inputs]
    halves = [value.half() if value.is_floating_point() else value for value in on_device]
    function: Callable[..., Any] = partial(_vectors, model, tower)
    if mode == "torch.compile":
        # What was compiled before is forgotten: past its limit of recompilations, Dynamo would silently run eager.
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        function = torch.compile(function, dynamic=False)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _vectors(exact, tower, *(value[checked] for value in inputs))
        found = function(*halves)[checked].float().cpu()
        cosine = float(torch.nn.functional.cosine_similarity(found, expected).min())
        if not cosine >= _CLOSE:
            raise RuntimeError(f"it computes something else: cosine {cosine} with FP32 on the CPU")
        times = _times(lambda: function(*halves), device)
    spread = Spread.of(times)
    return {
        "ms": round(1000 * spread.median, 4),
        "ms_spread": round(1000 * (max(times) - min(times)), 4),
        "per_second": round(batch / spread.median, 1),
        "worst_cosine": cosine,
        **({} if mode == "eager" else compiled()),
    }


def _vectors(model: Any, tower: str, *inputs: Any) -> Any:
    if tower == "audio":
        return model.get_audio_features(inputs[0], is_longer=inputs[1]).pooler_output
    return model.get_text_features(inputs[0], attention_mask=inputs[1]).pooler_output


def _inputs(config: Any, tower: str, batch: int) -> Sequence[Any]:
    """On the CPU, of the sizes and levels of real ones."""
    import torch

    generator = torch.Generator().manual_seed(batch)
    if tower == "text":
        ids = torch.randint(4, min(1000, config.text_config.vocab_size), (batch, TOKENS), generator=generator)
        return ids, torch.ones_like(ids)
    shape = (batch, 1, _FRAMES, config.audio_config.num_mel_bins)
    return torch.randn(shape, generator=generator) * 15 - 30, torch.zeros(batch, 1, dtype=torch.bool)


def _times(function: Callable[[], Any], device: str) -> list[float]:
    """Seconds of a run, many in a row, from the first launch to the end of the last."""
    import torch

    synchronize: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(_RUNS):
        function()
    synchronize()
    times = []
    for _ in range(11):
        start = time.perf_counter()
        for _ in range(_RUNS):
            function()
        synchronize()
        times.append((time.perf_counter() - start) / _RUNS)
    return times
