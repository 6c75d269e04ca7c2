"""The log-Mel that others compute on a GPU: cuFFT through PyTorch and CuPy, torchaudio. For contrast with the kernel.

Each gets the batch as it likes it best: float32, padded, on the device; FP32 out. Values are checked before times are
taken, of each batch; inputs rotate through more memory than the L2 cache holds, and CUDA events take the time.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.spec import LogMelSpec
from claprt_bench.gpu_task import Row, Task, need, need_torch_gpu
from claprt_kernels.reference import log_mel_reference, mel_bank_reference

SPEC = LogMelSpec(
    sampling_rate=48_000,
    n_fft=1024,
    hop_length=480,
    n_mels=64,
    f_min=50.0,
    f_max=14_000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    log_floor=1e-10,
    clip_samples=480_000,
    padding="repeatpad",
    int16=False,
)
_CLOSE = 0.05  # dB from float64, of bands within 40 dB of the frame's peak
_ROTATED = 200_000_000  # bytes of inputs at least: four times the largest L2 cache of today
_REPEATS = 11
Waves = Any
Function = Callable[[Waves], Any]


def measure(task: Task, device: str = "cuda") -> Row:
    """A unit: one peer. A row for each batch.

    Args:
        task: of it.
        device: PyTorch's name of it; tests have "cpu".

    Raises:
        NotRunError: the peer or PyTorch, which has the inputs, is missing, or PyTorch sees no GPU.
    """
    make, module = _PEERS[task.unit]
    need("torch", module)
    if device == "cuda":
        need_torch_gpu()
    library = _library(module)
    function = make(device)
    for batch in task.settings.batches:
        task.attempt({"batch": batch, "library": library}, partial(_row, function, task.unit, batch, device))
    return {"library": library}


def _row(function: Function, unit: str, batch: int, device: str) -> Row:
    import torch

    wave = (np.random.default_rng(0).standard_normal(SPEC.clip_samples) * 0.1).astype(np.float32)
    sets = max(2, -(-_ROTATED // (batch * wave.nbytes))) if device == "cuda" else 2
    waves = [torch.randn(batch, SPEC.clip_samples, device=device) * 0.1 for _ in range(sets)]
    waves[0][[0, -1]] = torch.from_numpy(wave).to(device)
    if "torch.compile" in unit:
        # What was compiled before is forgotten: past its limit of recompilations, Dynamo would silently run eager.
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    error = _error(function(waves[0]), wave, batch, device)
    times = _times(function, waves, device)
    median = statistics.median(times)
    return {
        "error_db": error,
        "us": round(median, 2),
        "us_per_clip": round(median / batch, 3),
        "spread_us": round(max(times) - min(times), 2),
        "sets": sets,
        **(compiled() if "torch.compile" in unit else {}),
    }


def _error(found: Any, wave: NDArray[np.float32], batch: int, device: str) -> float:
    """Largest difference from float64, in dB, of the first and the last clip, which are both `wave`."""
    import torch

    expected = log_mel_reference(wave, SPEC)
    ours = torch.as_tensor(found, device=device).float().cpu().numpy()
    if ours.shape != (batch, *expected.shape):
        raise RuntimeError(f"it computes something else: its shape is {ours.shape}")
    heard = expected > expected.max(axis=1, keepdims=True) - 40.0
    error = max(float(np.abs(ours[row] - expected)[heard].max()) for row in (0, -1))
    if not error < _CLOSE:
        raise RuntimeError(f"it computes something else: {error} dB from float64")
    return error


def _times(function: Function, waves: list[Waves], device: str) -> list[float]:
    """Microseconds of a call, by CUDA events around one call for each of the inputs."""
    import torch

    for wave in waves:
        function(wave)
    if device == "cpu":
        start = time.perf_counter()
        function(waves[0])
        return [1e6 * (time.perf_counter() - start)]
    torch.cuda.synchronize()
    times = []
    for _ in range(_REPEATS):
        begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record()
        for wave in waves:
            function(wave)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000.0 / len(waves))
    return times


def compiled() -> Row:
    """What Dynamo made of a function, counted since its counters were cleared: graphs, breaks, frames left eager.

    Raises:
        RuntimeError: it compiled nothing, so that eager was timed.
    """
    import torch

    counters = torch._dynamo.utils.counters
    graphs, frames = counters["stats"]["unique_graphs"], counters["frames"]
    if not graphs:
        raise RuntimeError(f"torch.compile compiled nothing: {dict(counters['unimplemented'])}")
    return {
        "graphs": graphs,
        "graph_breaks": sum(counters["graph_break"].values()),
        "eager_frames": frames["total"] - frames["ok"],
    }


def _library(module: str) -> str:
    """The peer's library and PyTorch, with versions."""
    names = [module] if module == "torch" else [module, "torch"]
    return ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in names)


def _torch(device: str) -> Function:
    """torch.stft (cuFFT), power, a dense product, logarithm."""
    import torch

    window = torch.hann_window(SPEC.n_fft, device=device)
    bank = torch.from_numpy(mel_bank_reference(SPEC).astype(np.float32)).to(device)

    def run(waves: Waves) -> Any:
        spectrum = torch.stft(waves, SPEC.n_fft, SPEC.hop_length, window=window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.transpose(1, 2) @ bank).clamp_min(SPEC.log_floor).log10() * 10.0

    return run


def _torch_compiled(device: str) -> Function:
    import torch

    function: Function = torch.compile(_torch(device), dynamic=False)
    return function


def _torchaudio(device: str) -> Function:
    import torchaudio

    mel = torchaudio.transforms.MelSpectrogram(
        SPEC.sampling_rate,
        n_fft=SPEC.n_fft,
        hop_length=SPEC.hop_length,
        f_min=SPEC.f_min,
        f_max=SPEC.f_max,
        n_mels=SPEC.n_mels,
        norm="slaney",
        mel_scale="slaney",
    ).to(device)
    decibels = torchaudio.transforms.AmplitudeToDB("power").to(device)
    return lambda waves: decibels(mel(waves)).transpose(1, 2)


def _cupy(device: str) -> Function:
    """CuPy's current stream and PyTorch's are both the legacy default stream: they run in order, events see both."""
    import cupy

    function = framed(cupy)
    return lambda waves: function(cupy.from_dlpack(waves))


def framed(xp: Any) -> Function:
    """Frames gathered, one batched real FFT (cuFFT), a dense product, logarithm; `xp` is CuPy, or NumPy in tests."""
    window = xp.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SPEC.n_fft) / SPEC.n_fft), dtype=xp.float32)
    bank = xp.asarray(mel_bank_reference(SPEC), dtype=xp.float32)
    index = xp.arange(SPEC.frames)[:, None] * SPEC.hop_length + xp.arange(SPEC.n_fft)[None]
    half = SPEC.n_fft // 2

    def run(x: Any) -> Any:
        extended = xp.concatenate([x[:, half:0:-1], x, x[:, -2 : -half - 2 : -1]], axis=1)
        spectrum = xp.fft.rfft(extended[:, index] * window, axis=-1)
        power = spectrum.real**2 + spectrum.imag**2
        return 10.0 * xp.log10(xp.maximum(power @ bank, SPEC.log_floor))

    return run


_PEERS: dict[str, tuple[Callable[[str], Function], str]] = {
    "torch.stft": (_torch, "torch"),
    "torch.stft, torch.compile": (_torch_compiled, "torch"),
    "torchaudio.transforms": (_torchaudio, "torchaudio"),
    "cupy.fft": (_cupy, "cupy"),
}
UNITS = tuple(_PEERS)
