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
