"""Sounds that libsndfile does not know (m4a, mp4, webm, …), through PyAV, if it is installed.

FFmpeg also reads playlists, which may name other files and addresses. A sound must never make the runtime open
anything but itself, so only self-contained containers are allowed, and no protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from claprt.audio_file import FromHere
from claprt.audio_source import BLOCK_ITEMS, AudioSource, check_rate, one_line, shown
from claprt.errors import AudioError

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,avi,asf,flv,ogg,aac,ac3,eac3,amr,amrnb,amrwb,ape,wv,tta,tak,"
    "mpc,mpc8,dsf,caf,mp3,mp2,wav,w64,aiff,au,flac,dts,truehd,oma,nut,gxf,mxf,voc"
)


class AvSource(AudioSource):
    """The first audio stream of a file that FFmpeg decodes.

    Args:
        name: what messages call the file.
        file: binary, seekable; decoded from its current position.
        owned: close it with this source.

    Raises:
        ImportError: PyAV is not installed.
        AudioError: FFmpeg does not know the file either, it is damaged, or it has no audio.
    """

    def __init__(self, name: str, file: BinaryIO, *, owned: bool) -> None:
        import av  # noqa: F401 - fail before anything else when it is not installed

        self._file, self._owned = file, owned
        self._reader = FromHere(file)
        super().__init__(name, 0)
        # The header's rate is not always the decoder's (HE-AAC says half of it), so look at a decoded frame.
        frames = self._frames()
        try:
            first = next(frames, None)
        finally:
            frames.close()
        if first is None:
            raise AudioError(f"{shown(name)} has 0 samples of audio; pass a sound with at least one sample")
        self.sampling_rate = check_rate(int(first.sample_rate), name)

    def _frames(self) -> Any:
        """Decoded frames as planar float32, whatever the codec gives."""
        import av

        if self._file.closed:
            raise AudioError(f"{shown(self.name)} is closed; open it again with open_audio")
        self._reader.rewind()
        try:
            options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": ""}
            with av.open(self._reader, options=options) as container:
                if not container.streams.audio:
                    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no"
                    raise AudioError(f"{shown(self.name)} has no audio, only {kinds} streams; pass a file with sound")
                stream = container.streams.audio[0]
                to_float = av.AudioResampler(format="fltp")
                for frame in container.decode(stream):
                    yield from to_float.resample(frame)
                yield from to_float.resample(None)
        except (av.FFmpegError, ValueError) as error:  # ValueError: the layout or rate changes in mid-stream
            self._reader.check(self.name)
            if isinstance(error, AudioError):
                raise
            reason = getattr(error, "strerror", None) or one_line(error)
            raise AudioError(
                f"{shown(self.name)} is not a sound file, or is damaged: {reason}; "
                "check the file, or convert it to WAV or FLAC"
            ) from error
        self._reader.check(self.name)

    def _decode(self) -> Iterator[NDArray[np.floating]]:
        # Codec frames are about 1,000 samples; larger blocks keep the work per block in NumPy.
        pending: list[NDArray[np.float32]] = []
        for frame in self._frames():
            pending.append(frame.to_ndarray().T)
            if sum(block.size for block in pending) >= BLOCK_ITEMS:
                yield np.concatenate(pending)
                pending = []
        if pending:
            yield np.concatenate(pending)

    def close(self) -> None:
        """Close the file if this source owns it."""
        if self._owned:
            with suppress(OSError):
                self._file.close()
