"""A folder of files that want to hang, crash or exhaust the reader: each is refused in one line, quickly and small."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from claprt.audio_io import open_audio
from claprt.errors import AudioError, AudioNotFoundError
from tests.hostile.make_audio import make_audio

# What the message must contain, besides the file's name.
REFUSED = {
    "empty.wav": "0 bytes",
    "text.wav": "sound",
    "noise.wav": "sound",
    "noise.mp3": "sound",
    "zeros.wav": "sound",
    "one_byte.wav": "sound",
    "playlist.wav": "sound",
    "concat.wav": "sound",
    "page.wav": "sound",
    "samples.raw": "sound",
    "riff_only.wav": "damaged",
    "riff_noise.wav": "damaged",
    "no_samples.wav": "0 samples",
    "channels_0.wav": "hannel",
    "channels_65535.wav": "hannel",
    "bits_0.wav": "damaged",
    "tag_unknown.wav": "damaged",
    "rate_0.wav": "damaged",
    "rate_1.wav": "of 1 Hz",
    "rate_999.wav": "of 999 Hz",
    "rate_768001.wav": "of 768001 Hz",
    "rate_max.wav": "damaged",
    "nan.wav": "sample 480 (at 0.01 s) is nan",
    "inf.wav": "sample 1 (at 2.08333e-05 s) is -inf",
    "nan_right.wav": "sample 1 (at 2.08333e-05 s) is nan",
    "unscaled.wav": "sample 1 (at 2.08333e-05 s) is 100",
    "huge_double.wav": "sample 1 (at 2.08333e-05 s) is inf",
    "half.flac": "96000 samples are promised, 4",  # 44032 with libsndfile 1.2.2
    "head_only.flac": "damaged",
    "broken_middle.flac": "96000 samples are promised, 4",
    "promises_2_36.flac": "68719476735 samples are promised, 9",
    "head_only.ogg": "damaged",
    "loop.wav": "symbolic links",
}
NOT_FOUND = {
    "folder.wav": "a directory",
    "fifo.wav": "a FIFO",
    "socket.wav": "a socket",
    "dangling.wav": "does not exist",
}
USABLE = {"secret.wav": 24_000, "claims_4_gb.wav": 24_000, "channels_1024.wav": 100}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_audio(tmp_path_factory.mktemp("hostile"))


def read(path: str | Path) -> np.ndarray:
    with open_audio(path) as source:
        return np.concatenate(list(source.blocks()))


def test_every_hostile_file_has_an_expectation(hostile: dict[str, Path]) -> None:
    assert sorted(hostile) == sorted([*REFUSED, *NOT_FOUND, *USABLE])


@pytest.mark.parametrize("with_pyav", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_bad_file_is_refused_in_one_line(
    hostile: dict[str, Path], name: str, with_pyav: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_pyav:
        monkeypatch.setitem(__import__("sys").modules, "av", None)
    started = time.perf_counter()
    with pytest.raises(AudioError) as caught:
        read(hostile[name])
    message = str(caught.value)
    assert not isinstance(caught.value, AudioNotFoundError)
    assert name in message
    assert REFUSED[name] in message
    assert "\n" not in message
    assert len(message) < 500
    assert " object at 0x" not in message
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("name", NOT_FOUND)
def test_what_is_not_a_regular_file_is_never_opened(hostile: dict[str, Path], name: str) -> None:
    """A FIFO without a writer would block for ever."""
    with pytest.raises(AudioNotFoundError) as caught:
        read(hostile[name])
    assert NOT_FOUND[name] in str(caught.value)
    assert hostile[name].name in str(caught.value)


def test_devices_are_never_opened() -> None:
    with pytest.raises(AudioNotFoundError, match=r"'/dev/zero' is a device"):
        open_audio("/dev/zero")


@pytest.mark.parametrize("name", USABLE)
def test_a_lying_header_does_not_cost_a_sound_that_is_there(hostile: dict[str, Path], name: str) -> None:
    assert read(hostile[name]).size == USABLE[name]


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "CAF", "NIST"])
@pytest.mark.parametrize("share", [0.99, 0.5, 0.02])
def test_a_sound_that_was_cut_off_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    """libsndfile reads most of them as if they had been made so short."""
    path = tmp_path / "cut"
    noise = np.random.default_rng(0).normal(0, 0.1, (24_000, 2))
    subtypes = ["PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM"]
    for subtype in [one for one in subtypes if soundfile.check_format(kind, one)]:
        for endian in ["LITTLE", "BIG"] if kind in ("WAV", "AU", "NIST") else [None]:
            soundfile.write(path, noise, 48_000, subtype=subtype, endian=endian, format=kind)
            assert len(read(path)) >= 24_000  # ADPCM fills its last block
            whole = path.read_bytes()
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(AudioError, match=r"cut.* is (truncated|a damaged sound file|truncated or damaged)"):
                read(path)


@pytest.mark.parametrize("size", [0, 36, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_size_that_was_not_known_or_is_a_header_too_large_promises_nothing(tmp_path: Path, size: int) -> None:
    """What writes to a pipe cannot know it; 36 stands for the true size and 36 more, as careless writers have it."""
    path = tmp_path / "piped.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 24_000), 48_000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = (48_036 if size == 36 else size).to_bytes(4, "little")
    path.write_bytes(data)
    if size:
        assert len(read(path)) == 24_000
    else:
        with pytest.raises(AudioError, match="0 samples"):
            read(path)


def test_no_hostile_file_takes_much_memory(hostile: dict[str, Path]) -> None:
    """The peak of the whole process grows by less than 64 MB over all of them."""
    read(hostile["secret.wav"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in REFUSED:
        with pytest.raises(AudioError):
            read(hostile[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize(
    ("path", "error", "shown"),
    [
        ("nul\0byte.wav", AudioError, r"nul\x00byte.wav"),
        ("new\nline.wav", AudioNotFoundError, r"new\nline.wav"),
        ("\udcff.wav", AudioNotFoundError, r"\udcff.wav"),
        ("x" * 5_000, AudioError, "File name too long"),
        ("https://example.org/a.wav", AudioNotFoundError, "https://example.org/a.wav"),
        ("concat:a.wav|b.wav", AudioNotFoundError, "concat:a.wav|b.wav"),
    ],
)
def test_strange_paths_make_one_line(path: str, error: type[AudioError], shown: str) -> None:
    with pytest.raises(error) as caught:
        open_audio(path)
    message = str(caught.value)
    assert shown in message
    assert "\n" not in message
    assert len(message) < 500
    message.encode()  # a message can always be printed


def test_a_playlist_with_a_sounds_name_opens_nothing_else(hostile: dict[str, Path], tmp_path: Path) -> None:
    """FFmpeg would follow these to another file of the machine."""
    secret = hostile["secret.wav"]
    for content in (
        f"ffconcat version 1.0\nfile {secret}\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXTINF:1,\n{secret}\n",
    ):
        path = tmp_path / "list.wav"
        path.write_text(content)
        with pytest.raises(AudioError, match=r"list\.wav"):
            read(path)
