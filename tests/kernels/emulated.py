"""The kernels on a CPU: their unmodified source compiled by g++ through `emulation/`, and called."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, DTypeLike, NDArray

from claprt.spec import LogMelSpec
from claprt_kernels import layout, resample

EMULATION = Path(__file__).with_name("emulation")
INCLUDES = (f"-I{EMULATION}", f"-I{Path(__file__).with_name('fake_cuda')}")
SOURCES = Path(str(layout.__file__)).with_name("csrc")
FLAGS = ("-std=c++17", "-O2", "-mfma", "-mf16c", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


def compile_emulated(library: Path, *flags: str, sources: Path = SOURCES) -> Path:
    """Compile the kernels for this CPU; `sources` may be a copy of csrc with a planted fault."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the emulated kernels with")
    command = [compiler, *FLAGS, *flags, "-fPIC", "-shared", "-pthread", *INCLUDES, f"-I{sources}"]
    subprocess.run([*command, str(EMULATION / "emulated_kernels.cpp"), "-o", str(library)], check=True)
    return library


def clip_table(lengths: Sequence[int], dtype: np.dtype[np.void] = layout.CLIP) -> NDArray[np.void]:
    """Clips of these lengths, back to back."""
    table = np.zeros(len(lengths), dtype=dtype)
    table["length"] = lengths
    table["offset"][1:] = np.cumsum(lengths)[:-1]
    return table


class EmulatedLogMel:
    """Calls an emulated library as `claprt_kernels.LogMel` calls the GPU."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def __call__(
        self,
        clips: Sequence[NDArray[np.generic]],
        spec: LogMelSpec,
        out: DTypeLike = np.float32,
        channels: int = 1,
        factor: ArrayLike = 1.0,
        summand: ArrayLike = 0.0,
    ) -> NDArray[np.floating]:
        """(batch, channels, frames, n_mels) of clips that lie back to back; what is not written stays NaN."""
        return self.run(
            np.concatenate(clips), clip_table([clip.size for clip in clips]), spec, out, channels, factor, summand
        )

    def run(
        self,
        pcm: NDArray[np.generic],
        table: NDArray[np.void],
        spec: LogMelSpec,
        out: DTypeLike = np.float32,
        channels: int = 1,
        factor: ArrayLike = 1.0,
        summand: ArrayLike = 0.0,
    ) -> NDArray[np.floating]:
        """The same with the clips given as they are given to the kernel."""
        layout.check_spec(spec)  # what a GPU is not given is not run here either
        result = np.full((len(table), channels, spec.frames, spec.n_mels), np.nan, dtype=out)
        tables = layout.kernel_tables(spec, factor, summand)
        arguments = layout.kernel_arguments(
            spec,
            samples=pcm.dtype,
            pcm=pcm.ctypes.data,
            pcm_samples=pcm.size,
            clips=table.ctypes.data,
            tables=tables.ctypes.data,
            out=result.ctypes.data,
            channels=channels,
        )
        name = layout.kernel_name(spec, pcm.dtype, result.dtype)
        grid = layout.kernel_grid(spec, len(table), channels)
        address = ctypes.c_void_p(arguments.ctypes.data)
        assert self._library.emulate(name.encode(), *grid, layout.THREADS, address) == 0
        return result


class EmulatedResampler:
    """The resampling kernel of an emulated library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def __call__(
        self, clips: Sequence[NDArray[np.generic]], in_rate: int, out_rate: int, channels: int = 1
    ) -> list[NDArray[np.float32]]:
        """float32 (m,) of each clip, (n,) or (n, channels), in its own output; what is not written stays NaN."""
        up, down = resample.ratio(in_rate, out_rate)
        pcm = np.concatenate([clip.reshape(-1) for clip in clips])
        table = clip_table([clip.size // channels for clip in clips], resample.CLIP)
        lengths = [resample.resampled_length(int(length), up, down) for length in table["length"]]
        table["out_offset"][1:] = np.cumsum(lengths)[:-1]
        out = np.full(sum(lengths), np.nan, dtype=np.float32)
        self.run(pcm, table, in_rate, out_rate, channels, out)
        return np.split(out, np.cumsum(lengths)[:-1])

    def run(
        self,
        pcm: NDArray[np.generic],
        clips: ArrayLike,
        in_rate: int,
        out_rate: int,
        channels: int,
        out: NDArray[np.float32],
    ) -> None:
        """The same with the clips given as they are given to the kernel: offset, length, and where the result goes."""
        up, down = resample.ratio(in_rate, out_rate)
        table = np.asarray(clips, dtype=resample.CLIP)
        taps = resample.filter_taps(up, down)
        arguments = resample.resample_arguments(
            up,
            down,
            samples=pcm.dtype,
            channels=channels,
            pcm=pcm.ctypes.data,
            pcm_frames=pcm.size // channels,
            clips=table.ctypes.data,
            taps=taps.ctypes.data,
            out=out.ctypes.data,
            out_samples=out.size,
        )
        name = "resample_int16" if pcm.dtype == np.int16 else "resample_fp32"
        longest = resample.resampled_length(int(table["length"].max()), up, down)
        blocks = -(-longest // resample.THREADS)
        address = ctypes.c_void_p(arguments.ctypes.data)
        assert self._library.emulate(name.encode(), blocks, len(table), resample.THREADS, address) == 0
