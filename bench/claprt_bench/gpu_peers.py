"""The log-Mel that others compute on a GPU: cuFFT through PyTorch and CuPy, torchaudio. For contrast with the kernel.

Each gets the batch as it likes it best: float32, padded, on the device; FP32 out. Values are checked before times are
taken, inputs rotate through more memory than the L2 cache holds, and CUDA events take the time.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from claprt.spec import LogMelSpec
from claprt_kernels.reference import log_mel_reference, mel_bank_reference

BATCHES = (1, 8, 64, 256)
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


def measure() -> list[dict[str, Any]]:
    """Times of every peer that is installed."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU")
    rows: list[dict[str, Any]] = []
    for name, make in _PEERS.items():
        if importlib.util.find_spec(name.split(".")[0]) is None:
            rows.append({"peer": name, "skipped": "not installed"})
            continue
        try:
            function = make()
            error = _error(function)
            rows += [{"peer": name, "batch": batch, "error_db": error, **_time(function, batch)} for batch in BATCHES]
        except Exception as problem:  # one peer that does not run here is no reason to drop the others
            rows.append({"peer": name, "skipped": f"{type(problem).__name__}: {str(problem)[:300]}"})
    return rows


def _error(function: Callable[[Any], Any]) -> float:
    """Largest difference from float64, in dB, of bands within 40 dB of the frame's peak."""
    import torch

    wave = (np.random.default_rng(0).standard_normal(SPEC.clip_samples) * 0.1).astype(np.float32)
    expected = log_mel_reference(wave, SPEC)
    ours = function(torch.from_numpy(wave)[None].cuda())
    found = np.asarray(torch.as_tensor(ours, device="cuda").float().cpu()).reshape(expected.shape)
    heard = expected > expected.max(axis=1, keepdims=True) - 40.0
    error = float(np.abs(found - expected)[heard].max())
    if not error < 0.05:
        raise RuntimeError(f"it computes something else: {error} dB from float64")
    return error


def _time(function: Callable[[Any], Any], batch: int) -> dict[str, float]:
    import torch

    sets = max(2, min(16, 200_000_000 // (batch * SPEC.clip_samples * 4) + 2))
    waves = [torch.randn(batch, SPEC.clip_samples, device="cuda") * 0.1 for _ in range(sets)]
    for wave in waves:
        function(wave)
    torch.cuda.synchronize()
    times = []
    for _ in range(11):
        begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record()
        for wave in waves:
            function(wave)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000.0 / sets)
    median = statistics.median(times)
    return {
        "us": round(median, 2),
        "us_per_clip": round(median / batch, 3),
        "spread_us": round(max(times) - min(times), 2),
    }


def _torch() -> Callable[[Any], Any]:
    """torch.stft (cuFFT), power, a dense product, logarithm."""
    import torch

    window = torch.hann_window(SPEC.n_fft, device="cuda")
    bank = torch.from_numpy(mel_bank_reference(SPEC).astype(np.float32)).cuda()

    def run(waves: Any) -> Any:
        spectrum = torch.stft(waves, SPEC.n_fft, SPEC.hop_length, window=window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.transpose(1, 2) @ bank).clamp_min(SPEC.log_floor).log10() * 10.0

    return run


def _torch_compiled() -> Callable[[Any], Any]:
    import torch

    compiled: Callable[[Any], Any] = torch.compile(_torch(), dynamic=False)
    return compiled


def _torchaudio() -> Callable[[Any], Any]:
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
    ).cuda()
    decibels = torchaudio.transforms.AmplitudeToDB("power").cuda()
    return lambda waves: decibels(mel(waves)).transpose(1, 2)


def _cupy() -> Callable[[Any], Any]:
    """Frames gathered, one batched real FFT (cuFFT), a dense product, logarithm."""
    import cupy

    window = cupy.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SPEC.n_fft) / SPEC.n_fft), dtype=cupy.float32)
    bank = cupy.asarray(mel_bank_reference(SPEC), dtype=cupy.float32)
    index = cupy.arange(SPEC.frames)[:, None] * SPEC.hop_length + cupy.arange(SPEC.n_fft)[None]
    half = SPEC.n_fft // 2

    def run(waves: Any) -> Any:
        import torch

        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            x = cupy.from_dlpack(waves)
            extended = cupy.concatenate([x[:, half:0:-1], x, x[:, -2 : -half - 2 : -1]], axis=1)
            spectrum = cupy.fft.rfft(extended[:, index] * window, axis=-1)
            power = spectrum.real**2 + spectrum.imag**2
            return 10.0 * cupy.log10(cupy.maximum(power @ bank, SPEC.log_floor))

    return run


_PEERS: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "torch.stft": _torch,
    "torch.stft, torch.compile": _torch_compiled,
    "torchaudio.transforms": _torchaudio,
    "cupy.fft": _cupy,
}
