"""Reading sound: formats, scaling, channels, file objects, arrays, and what each refusal says."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from claprt.audio_io import open_audio
from claprt.errors import AudioError, AudioNotFoundError
from tests.sounds import noise, read, refused

RATE = 48_000


def encoded(sound: np.ndarray, kind: str, subtype: str | None = None, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "channels"),
    [
        ("WAV", "PCM_U8", 1),
        ("WAV", "PCM_16", 2),
        ("WAV", "PCM_24", 3),
        ("WAV", "PCM_32", 1),
        ("WAV", "FLOAT", 2),
        ("WAV", "DOUBLE", 5),
        ("WAV", "ULAW", 1),
        ("WAV", "IMA_ADPCM", 2),
        ("FLAC", "PCM_S8", 1),
        ("FLAC", "PCM_24", 8),
        ("OGG", "VORBIS", 2),
        ("OGG", "OPUS", 1),
        ("MP3", "MPEG_LAYER_III", 2),
        ("AIFF", "PCM_16", 2),
        ("AU", "PCM_16", 1),
        ("CAF", "ALAC_16", 2),
        ("W64", "PCM_16", 6),
    ],
)
def test_every_format_is_the_mean_of_what_soundfile_reads(
    tmp_path: Path, kind: str, subtype: str, channels: int
) -> None:
    """From a path and from memory, in several blocks, twice from the same source."""
    path = tmp_path / "sound.bin"  # the content counts, not the name
    path.write_bytes(encoded(noise(150_000, channels), kind, subtype))
    with path.open("rb") as file:
        expected, _ = soundfile.read(file, dtype="float64", always_2d=True)
    with open_audio(path) as source:
        assert (source.sampling_rate, source.name) == (RATE, str(path))
        blocks = list(source.blocks())
        again = np.concatenate(list(source.blocks()))
    assert len(blocks) > 1
    assert all(block.dtype == np.float32 and block.ndim == 1 and block.size <= 65_536 for block in blocks)
    ours = np.concatenate(blocks)
    np.testing.assert_allclose(ours, expected.mean(axis=1), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ours, again)
    np.testing.assert_array_equal(ours, read(io.BytesIO(path.read_bytes())))


def test_recordings_are_what_soundfile_reads(shared_audio: Path, shared_fsdd: Path) -> None:
    files = [*sorted(shared_audio.glob("*.ogg")), *sorted(shared_fsdd.glob("7_*_0.wav"))]
    assert len(files) >= 8
    for file in files:
        expected, rate = soundfile.read(file, dtype="float32")
        with open_audio(str(file)) as source:
            assert source.sampling_rate == rate
        np.testing.assert_array_equal(read(file), expected)


def test_rate_of_a_file_is_its_own_whatever_the_argument_says() -> None:
    with open_audio(io.BytesIO(encoded(noise(10), "WAV", rate=22_050)), 48_000) as source:
        assert source.sampling_rate == 22_050


def test_file_object_is_read_from_its_position_and_stays_open() -> None:
    sound = noise(10_000)
    file = io.BytesIO(b"sixteen bytes!!!" + encoded(sound, "WAV", "FLOAT"))
    file.seek(16)
    with open_audio(file) as source:
        assert source.name == "a BytesIO"
        np.testing.assert_array_equal(np.concatenate(list(source.blocks())), sound)
        np.testing.assert_array_equal(np.concatenate(list(source.blocks())), sound)
    assert not file.closed


def test_names_of_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(noise(10), "WAV"))
    with path.open("rb") as file, open_audio(file) as source:
        assert source.name == str(path)
    with tempfile.TemporaryFile() as unnamed:  # its name is a number
        unnamed.write(path.read_bytes())
        unnamed.seek(0)
        assert read(unnamed).size == 10


def test_a_path_is_closed_with_its_source(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(encoded(noise(10), "FLAC"))
    with open_audio(path) as source:
        pass
    with pytest.raises(AudioError, match=r"a\.flac.*closed"):
        list(source.blocks())


class _Odd(io.BytesIO):
    """A file object that fails in one way."""

    def __init__(self, content: bytes, way: str) -> None:
        super().__init__(content)
        self.way = way

    def seekable(self) -> bool:
        return self.way != "pipe"

    def read(self, size: int | None = -1) -> bytes:
        if self.way == "write-only":
            raise io.UnsupportedOperation("not readable")
        if self.way == "breaks" and size:
            raise OSError("the disk\nis gone")
        return super().read(size)


@pytest.mark.parametrize(
    ("way", "fact", "fix"),
    [
        ("pipe", "not seekable", "io.BytesIO(f.read())"),
        ("write-only", "not a readable", "io.BytesIO(f.read())"),
        ("breaks", "OSError: the disk is gone", "io.BytesIO"),
    ],
)
def test_a_file_object_that_fails_is_refused(way: str, fact: str, fix: str, capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(_Odd(encoded(noise(10), "WAV"), way))
    assert "Odd" in message
    assert fact in message
    assert fix in message
    assert "Traceback" not in capfd.readouterr().err  # nothing is printed from inside libsndfile's callbacks


def test_file_objects_in_the_wrong_state_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(noise(10), "WAV"))
    with path.open(encoding="latin-1") as text:
        assert re.search(r"a\.wav.*text mode.*'rb'", refused(text))
    assert "text mode" in refused(io.StringIO("RIFF"))
    with path.open("rb") as file:
        file.read()
        assert re.search(r"0 bytes after its position \d+.*f\.seek\(0\)", refused(file))
    assert re.search(r"a\.wav.*closed file", refused(file))
    assert "0 bytes" in refused(io.BytesIO())


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the superuser, who runs many tests, may read everything."""
    path = tmp_path / "secret.wav"
    path.write_bytes(encoded(noise(10), "WAV"))

    def no(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("claprt.audio_file.open", no, raising=False)
    message = refused(path)
    assert "secret.wav" in message
    assert "permission" in message


def test_a_missing_path_is_also_a_file_not_found_error(tmp_path: Path) -> None:
    for path in (tmp_path / "no.wav", str(tmp_path / "no" / "no.wav"), ""):
        with pytest.raises(AudioNotFoundError) as caught:
            open_audio(path)
        assert isinstance(caught.value, FileNotFoundError)
        assert repr(str(path)) in str(caught.value)


def av_bytes(kind: str, codec: str, *, rate: int = RATE, video: bool = False, audio: bool = True) -> bytes:
    """Two seconds of a 440 Hz sine (amplitude 0.5) in a container that libsndfile does not know."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
        if audio:
            sound = container.add_stream(codec, rate=rate, layout="mono")
        if video:
            for shade in range(20):
                picture = np.full((64, 64, 3), shade * 10, np.uint8)
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(pictures.encode(None))
        if audio:
            wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = rate
            convert = av.AudioResampler(format=sound.codec_context.format.name, layout="mono", rate=rate)
            for converted in convert.resample(frame):
                container.mux(sound.encode(converted))
            container.mux(sound.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "codec", "rate", "video"),
    [
        ("ipod", "aac", 44_100, False),
        ("mp4", "aac", 48_000, True),
        ("mp4", "alac", 22_050, False),
        ("webm", "libopus", 48_000, False),
        ("adts", "aac", 48_000, False),
        ("matroska", "pcm_u8", 8_000, False),
        ("avi", "pcm_s16le", 48_000, True),
    ],
)
def test_what_libsndfile_does_not_know_goes_to_pyav(
    tmp_path: Path, kind: str, codec: str, rate: int, video: bool
) -> None:
    path = tmp_path / "sound"
    path.write_bytes(av_bytes(kind, codec, rate=rate, video=video))
    with open_audio(path) as source:
        assert source.sampling_rate == rate
        sound = np.concatenate(list(source.blocks()))
        np.testing.assert_array_equal(np.concatenate(list(source.blocks())), sound)
    assert 2 * rate <= sound.size <= 2 * rate + 4_096  # codecs fill their last frame
    middle = sound[rate // 2 : rate // 2 + rate]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 440
    assert spectrum.max() * 2 / rate == pytest.approx(0.5, abs=0.02)


def test_a_video_without_sound_is_refused() -> None:
    message = refused(io.BytesIO(av_bytes("mp4", "aac", video=True, audio=False)))
    assert "no audio" in message
    assert "video" in message


@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_a_cut_mp4_is_refused(keep: float) -> None:
    content = av_bytes("mp4", "aac")
    assert "damaged" in refused(io.BytesIO(content[: int(len(content) * keep)]))


def test_without_pyav_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100))
    monkeypatch.setitem(sys.modules, "av", None)  # importing it now fails
    monkeypatch.delitem(sys.modules, "claprt.audio_av", raising=False)
    message = refused(path)
    assert "song.m4a" in message
    assert "pip install 'claprt[av]'" in message
