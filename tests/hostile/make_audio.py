"""Files that try to hurt an audio reader: made here at test time, so that none has to be stored.

    python tests/hostile/make_audio.py FOLDER

writes them all for a look by hand. `make_audio` returns their paths by name.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
from pathlib import Path

import numpy as np
import soundfile

RATE = 48_000


def tone(seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    """A quiet 440 Hz sine, float32 (n,)."""
    return (0.25 * np.sin(2 * np.pi * 440.0 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, kind: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    """A sound as the bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def wav(
    data: bytes, *, channels: int = 1, rate: int = RATE, bits: int = 16, tag: int = 1, claimed: int | None = None
) -> bytes:
    """A WAV file whose header says exactly what it is told to, true or not; `claimed` is the data size in it."""
    align = channels * bits // 8
    size = len(data) if claimed is None else claimed
    head = struct.pack("<HHIIHH", tag, channels & 0xFFFF, rate, (rate * align) & 0xFFFFFFFF, align & 0xFFFF, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(len(body) - len(data) + size, 0xFFFFFFFF)) + body


def floats(*values: float) -> bytes:
    """32-bit float samples, little-endian."""
    return np.array(values, dtype="<f4").tobytes()


def _with_flac_total(flac: bytes, total: int) -> bytes:
    """A FLAC file whose STREAMINFO promises `total` samples (36 bits, the low half of bytes 21 … 25)."""
    out = bytearray(flac)
    out[21] = (out[21] & 0xF0) | (total >> 32)
    out[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    return bytes(out)


def _broken_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(range(256)) * 8 + data[middle + 2048 :]


def make_audio(folder: Path) -> dict[str, Path]:
    """Write the hostile files into `folder` and return their paths by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    noise = rng.bytes(20_000)
    flac = encoded((rng.standard_normal(RATE * 2) * 0.1).astype(np.float32), "FLAC")
    pcm = (tone() * 32767).astype("<i2").tobytes()
    plain = encoded(tone(), "WAV")
    files = {
        # Not sound at all.
        "empty.wav": b"",
        "text.wav": b"This is a text file, whatever its name says.\n" * 50,
        "noise.wav": noise,
        "noise.mp3": noise,
        "zeros.wav": bytes(5_000),
        "one_byte.wav": b"R",
        "playlist.wav": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "concat.wav": b"ffconcat version 1.0\nfile secret.wav\n",
        "page.wav": b"<!DOCTYPE html><html><body>404</body></html>",
        "samples.raw": pcm,
        # Headers that lie.
        "riff_only.wav": plain[:12],
        "riff_noise.wav": b"RIFF" + struct.pack("<I", 20_000) + b"WAVE" + noise,
        "no_samples.wav": wav(b""),
        "claims_4_gb.wav": wav(pcm, claimed=0xFFFFFFF0),
        "channels_0.wav": wav(pcm, channels=0),
        "channels_1024.wav": wav(bytes(1024 * 2 * 100), channels=1024),
        "channels_65535.wav": wav(pcm, channels=65_535),
        "bits_0.wav": wav(pcm, bits=0),
        "tag_unknown.wav": wav(pcm, tag=0x7777),
        "rate_0.wav": wav(pcm, rate=0),
        "rate_1.wav": wav(pcm, rate=1),
        "rate_999.wav": wav(pcm, rate=999),
        "rate_768001.wav": wav(pcm, rate=768_001),
        "rate_max.wav": wav(pcm, rate=0xFFFFFFFF),
        # Samples that are not sound.
        "nan.wav": wav(floats(*[0.0] * 480, float("nan")), bits=32, tag=3),
        "inf.wav": wav(floats(0.0, float("-inf")), bits=32, tag=3),
        "nan_right.wav": wav(floats(0.0, 0.0, 0.0, float("nan")), bits=32, tag=3, channels=2),
        "unscaled.wav": wav(floats(0.0, 100.0, 12_345.0), bits=32, tag=3),
        "huge_double.wav": wav(np.array([0.0, 1e300], dtype="<f8").tobytes(), bits=64, tag=3),
        # Cut short or broken.
        "half.flac": flac[: len(flac) // 2],
        "head_only.flac": flac[:30],
        "broken_middle.flac": _broken_middle(flac),
        "promises_2_36.flac": _with_flac_total(flac, (1 << 36) - 1),
        "head_only.ogg": encoded(tone(), "OGG")[:60],
        "secret.wav": plain,
    }
    paths = {name: folder / name for name in files}
    for name, content in files.items():
        paths[name].write_bytes(content)
    # Not regular files.
    paths["folder.wav"] = folder / "folder.wav"
    paths["folder.wav"].mkdir(exist_ok=True)
    for name, target in (("loop.wav", "loop.wav"), ("dangling.wav", "nowhere.wav")):
        paths[name] = folder / name
        if not paths[name].is_symlink():
            paths[name].symlink_to(target)
    paths["fifo.wav"] = folder / "fifo.wav"
    if not paths["fifo.wav"].exists():
        os.mkfifo(paths["fifo.wav"])
    paths["socket.wav"] = folder / "s"  # a socket's path must be short
    if not paths["socket.wav"].exists():
        bound = socket.socket(socket.AF_UNIX)
        here = Path.cwd()
        os.chdir(folder)
        try:
            bound.bind("s")
        finally:
            os.chdir(here)
            bound.close()
    return paths


if __name__ == "__main__":
    for path in make_audio(Path(sys.argv[1])).values():
        print(path)
