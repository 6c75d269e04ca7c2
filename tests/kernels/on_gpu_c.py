"""The C library on a GPU, called as the other implementations are; PyTorch gives it device memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from tests.kernels.emulated import clip_table

from claprt.spec import LogMelSpec

SCALES, NORMS, PADDINGS = ("htk", "slaney"), ("none", "slaney"), ("repeatpad", "repeat", "pad")
TYPES = {"int16": 0, "float32": 1, "float16": 2}


class CSpec(ctypes.Structure):
    """`claprt_log_mel_spec`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("sampling_rate", "n_fft", "hop_length", "n_mels")),
        *((name, ctypes.c_double) for name in ("f_min", "f_max")),
        *((name, ctypes.c_int) for name in ("mel_scale", "mel_norm")),
        ("log_floor", ctypes.c_double),
        ("clip_samples", ctypes.c_int32),
        ("padding", ctypes.c_int),
        *((name, ctypes.c_int32) for name in ("int16_round_trip", "channels")),
        *((name, ctypes.POINTER(ctypes.c_float)) for name in ("factor", "summand")),
    ]


def load(library: Path) -> Any:
    api = ctypes.CDLL(str(library))
    api.claprt_log_mel_message.restype = ctypes.c_char_p
    api.claprt_resampler_length.restype = ctypes.c_int64
    return api


class CLogMel:
    """libclaprt_log_mel.so."""

    def __init__(self, library: Path) -> None:
        self._api = load(library)

    def __call__(
        self, clips: Sequence[NDArray[np.generic]], spec: LogMelSpec, out: DTypeLike = np.float32, channels: int = 1
    ) -> NDArray[np.floating]:
        """(batch, channels, frames, n_mels) of clips that lie back to back; what is not written stays NaN."""
        import torch

        fields = CSpec(
            *(spec.sampling_rate, spec.n_fft, spec.hop_length, spec.n_mels, spec.f_min, spec.f_max),
            *(SCALES.index(spec.mel_scale), NORMS.index(spec.mel_norm), spec.log_floor, spec.clip_samples),
            *(PADDINGS.index(spec.padding), int(spec.int16), channels),
        )
        pcm = torch.from_numpy(np.concatenate(clips)).cuda()
        result = torch.full((len(clips), channels, spec.frames, spec.n_mels), np.nan, device="cuda")
        result = result.to(getattr(torch, np.dtype(out).name))
        table = clip_table([clip.size for clip in clips])
        handle = ctypes.c_void_p()
        self._check(self._api.claprt_log_mel_create(ctypes.byref(handle), ctypes.byref(fields), len(clips)))
        status = self._api.claprt_log_mel_run(
            handle,
            ctypes.c_void_p(pcm.data_ptr()),
            ctypes.c_int64(pcm.numel()),
            TYPES[clips[0].dtype.name],
            ctypes.c_void_p(table.ctypes.data),
            len(clips),
            ctypes.c_void_p(result.data_ptr()),
            TYPES[np.dtype(out).name],
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )
        self._check(status)
        numbers: NDArray[np.floating] = result.cpu().numpy()
        self._api.claprt_log_mel_destroy(handle)
        return numbers

    def _check(self, status: int) -> None:
        assert status == 0, self._api.claprt_log_mel_message().decode()


class _InMemory:
    """An array as emulated device memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.address = array.ctypes.data

    def copy_back(self) -> None:
        """It is there."""


class _OnGpu:
    """An array in the memory of a GPU."""

    def __init__(self, array: NDArray[Any]) -> None:
        import torch

        self._array, self._tensor = array, torch.from_numpy(array).cuda()
        self.address = self._tensor.data_ptr()

    def copy_back(self) -> None:
        self._array[:] = self._tensor.cpu().numpy()


class CResampler:
    """The resampler of libclaprt_log_mel.so, to 48 kHz; `device` is whether its memory is that of a GPU or emulated."""

    def __init__(self, api: Any, rate: int, channels: int = 1, max_batch: int = 8, device: bool = False) -> None:
        self._api, self._channels, self._on_gpu = api, channels, device
        self._handle = ctypes.c_void_p()
        status = api.claprt_resampler_create(ctypes.byref(self._handle), rate, 48_000, channels, max_batch)
        assert status == 0, api.claprt_log_mel_message().decode()

    def length(self, frames: int) -> int:
        return int(self._api.claprt_resampler_length(self._handle, ctypes.c_int64(frames)))

    def __call__(self, clips: Sequence[NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        """float32 (m,) of each clip, (n,) or (n, channels), in its own place; what is not written stays NaN."""
        lengths = [clip.size // self._channels for clip in clips]
        pcm = np.concatenate([clip.reshape(-1) for clip in clips])
        samples = [self.length(length) for length in lengths]
        out = np.full(sum(samples), np.nan, dtype=np.float32)
        placed = clip_table(lengths)
        assert self.run(pcm, placed, out) == 0, self._api.claprt_log_mel_message().decode()
        assert placed.tolist() == clip_table(samples).tolist()
        return np.split(out, np.cumsum(samples)[:-1])

    def run(self, samples: NDArray[np.generic], clips: Any, /, result: Any = None, **changes: Any) -> int:
        """The call's status. `clips` becomes where the results lie; `changes` replace its arguments."""
        table = np.asarray(clips, dtype=clip_table([1]).dtype)
        room = np.zeros(100_000, np.float32) if result is None else result
        source, target = (_OnGpu(samples), _OnGpu(room)) if self._on_gpu else (_InMemory(samples), _InMemory(room))
        values = {
            "handle": self._handle.value,
            "pcm": source.address,
            "pcm_frames": samples.size // self._channels,
            "pcm_type": TYPES[samples.dtype.name],
            "clips": table.ctypes.data,
            "batch": len(table),
            "out": target.address,
            "out_samples": room.size,
            "out_clips": table.ctypes.data,
            **changes,
        }
        kinds = {
            "pcm_type": ctypes.c_int,
            "batch": ctypes.c_int,
            "pcm_frames": ctypes.c_int64,
            "out_samples": ctypes.c_int64,
        }
        status: int = self._api.claprt_resampler_run(
            *(kinds.get(name, ctypes.c_void_p)(value) for name, value in values.items()), None
        )
        target.copy_back()
        return status

    def close(self) -> None:
        self._api.claprt_resampler_destroy(self._handle)
