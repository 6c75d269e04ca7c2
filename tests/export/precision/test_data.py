"""What INT8 is calibrated on: the user's recordings and captions, or claprt's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from claprt.errors import AudioError, TextError
from claprt_export.checkpoint import Checkpoint
from claprt_export.comparison import find_sounds
from claprt_export.demo import sounds
from claprt_export.precision import data
from claprt_export.precision.data import by_length, calibration_set, select, text_batches, waveform_batches
from claprt_export.towers import TextTower

Tiny = Callable[[bool], Checkpoint]
UNUSUAL = 3  # silence, and noise twice


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings, one of them four windows long and in a folder of its own; and captions."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    soundfile.write(tmp_path / "a.WAV", sounds.render("rain", 1, 2.0), 48_000, format="WAV")
    soundfile.write(tmp_path / "deep" / "er" / "b.flac", sounds.render("siren", 2, 21.0)[::3], 16_000)
    (tmp_path / "deep" / "captions.txt").write_text("\ufeffa dog\n\n  naïve café  \n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a caption")
    return tmp_path


def texts_of(checkpoint: Checkpoint, batches: list[data.Batch]) -> list[str]:
    return [checkpoint.tokenizer.decode(row[1:-1]) for ids, _ in batches for row in ids.tolist()]


def test_recordings_and_captions(tiny: Tiny, folder: Path) -> None:
    """All windows of the long recording, the captions without blank lines and byte order mark, and nothing else."""
    found = calibration_set(tiny(False), folder)
    assert len(found.audio) == 1 + 4 + UNUSUAL
    assert {tuple(batch[0].shape) for batch in found.audio} == {(1, 1, 1001, 64)}
    texts = texts_of(tiny(False), found.text)
    assert {"a dog", "naïve café"} <= set(texts)
    assert "not a caption" not in texts
    assert found.description == "5 clips of recordings, 2 captions and claprt's sentences"
    own = waveform_batches(tiny(False), [sounds.render("rain", 1, 2.0)])[0][0]
    assert min(float((batch[0] - own).abs().mean()) for batch in found.audio) < 0.05  # written as 16 bits, in dB


def test_fused_checkpoints_get_their_inputs(tiny: Tiny, folder: Path) -> None:
    """Four channels, and `is_longer` true for what is longer than a clip: here and among claprt's own sounds."""
    found = calibration_set(tiny(True), folder)
    assert len(found.audio) == 2 + UNUSUAL
    for features, is_longer in found.audio:
        assert features.shape == (1, 4, 1001, 64)
        assert is_longer.shape == (1, 1)
        assert is_longer.dtype == torch.bool
    assert [bool(is_longer) for _, is_longer in found.audio] == [False, True, False, False, False]
    own = waveform_batches(tiny(True), [sounds.render("rain", 3, seconds) for seconds in (24.0, 9.0)])
    assert [bool(is_longer) for _, is_longer in own] == [True, False]


def test_without_captions(tiny: Tiny, folder: Path) -> None:
    (folder / "deep" / "captions.txt").unlink()
    found = calibration_set(tiny(False), folder)
    assert found.description == "5 clips of recordings, claprt's captions and sentences"
    assert sum(len(ids) for ids, _ in found.text) > 100


@pytest.mark.parametrize("captions", [False, True])
def test_without_recordings(tiny: Tiny, tmp_path: Path, captions: bool) -> None:
    if captions:
        (tmp_path / "captions.txt").write_text("a dog")
    with pytest.raises(AudioError, match="no recordings") as caught:
        calibration_set(tiny(False), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert ".flac" in str(caught.value)


def test_captions_that_are_not_utf8(tiny: Tiny, folder: Path) -> None:
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(TextError, match=r"not UTF-8: .*latin\.txt"):
        calibration_set(tiny(False), folder)


def test_a_recording_that_cannot_be_read(tiny: Tiny, folder: Path) -> None:
    (folder / "broken.wav").write_bytes(b"not a sound")
    with pytest.raises(AudioError, match=r"broken\.wav"):
        calibration_set(tiny(False), folder)


def test_hash(tiny: Tiny, folder: Path) -> None:
    """Of all values, by its definition; the same each time, and another when a sound or a caption changes."""
    first, again = (calibration_set(tiny(False), folder) for _ in range(2))
    assert first.sha256 == again.sha256
    digest = hashlib.sha256()
    for batch in (*first.audio, *first.text):
        for tensor in batch:
            digest.update(str(list(tensor.shape)).encode() + tensor.numpy().tobytes())
    assert first.sha256 == digest.hexdigest()
    (folder / "deep" / "captions.txt").write_text("a dog\nnaive cafe\n")
    second = calibration_set(tiny(False), folder)
    soundfile.write(folder / "a.WAV", sounds.render("rain", 2, 2.0), 48_000, format="WAV")
    third = calibration_set(tiny(False), folder)
    assert len({first.sha256, second.sha256, third.sha256}) == 3


def test_nothing_is_padded_and_unusual_texts_are_there(tiny: Tiny, folder: Path) -> None:
    """Each batch is of one length, up to what captions never reach; ids are the vocabulary's, ends are right."""
    checkpoint = tiny(False)
    found = calibration_set(checkpoint, folder)
    vocabulary = checkpoint.model.config.text_config.vocab_size
    for ids, mask in found.text:
        assert mask.shape == ids.shape
        assert mask.all()
        assert len(ids) <= 32
        assert int(ids.max()) < vocabulary
        assert (ids[:, 0] == checkpoint.tokenizer.bos_token_id).all()
        assert (ids[:, -1] == checkpoint.tokenizer.eos_token_id).all()
        assert not (ids == checkpoint.tokenizer.pad_token_id).any()
    assert max(ids.shape[1] for ids, _ in found.text) > 60
    assert min(ids.shape[1] for ids, _ in found.text) == 3


def test_limits(tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many recordings and captions some are taken, from the first to the last."""
    monkeypatch.setattr(data, "MAX_CLIPS", 3)
    monkeypatch.setattr(data, "MAX_TEXTS", 5)
    for i in range(7):
        soundfile.write(folder / f"{i}.wav", np.full(4800, 0.1 * i), 48_000)
    (folder / "many.txt").write_text("\n".join(f"caption {i}" for i in range(40)))
    found = calibration_set(tiny(False), folder)
    assert len(found.audio) == 3 + UNUSUAL
    assert found.description == "3 clips of recordings, 5 captions and claprt's sentences"
    assert "caption 39" in texts_of(tiny(False), found.text)


def test_own_sounds_are_not_the_ones_that_are_judged_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration, verification and the labelled test have sounds of their own; and claprt's captions are used."""
    seeds: list[int] = []
    render = sounds.render

    def spy(kind: str, seed: int, *rest: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        seeds.append(seed)
        return np.asarray(render(kind, seed, 0.3))

    monkeypatch.setattr(sounds, "render", spy)
    found = calibration_set(tiny(False), None)
    assert len(seeds) == len(found.audio) - UNUSUAL
    assert all(seed >= 8_000_000 for seed in seeds)
    assert len(set(seeds)) == len(seeds)
    assert found.description == f"{len(seeds)} synthesised sounds, claprt's captions and sentences"


def test_sounds_are_found_by_their_names(folder: Path) -> None:
    assert [path.name for path in find_sounds(folder)] == ["a.WAV", "b.flac"]


def test_clips_of_a_long_recording_are_spread(tiny: Tiny, tmp_path: Path) -> None:
    """Four of nine windows, the first and the last among them."""
    spec = tiny(False).log_mel
    whole = np.repeat(0.1 * np.arange(1, 6, dtype=np.float32), spec.clip_samples)  # windows begin every half clip
    soundfile.write(tmp_path / "long.wav", whole, spec.sampling_rate, subtype="FLOAT")
    found = [features for (features,) in calibration_set(tiny(False), tmp_path).audio[:-UNUSUAL]]
    starts = [i * spec.clip_samples // 2 for i in (0, 3, 5, 8)]
    windows = waveform_batches(tiny(False), [whole[start:][: spec.clip_samples] for start in starts])
    assert len(found) == 4
    for one, (expected,) in zip(found, windows, strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-4)


def test_texts_in_batches(tiny: Tiny) -> None:
    """By length, masked where padded; each text keeps its vector, and `select` finds it."""
    checkpoint = tiny(False)
    singles = text_batches(checkpoint, [f"{'dog ' * (i % 7 + 1)}{i}" for i in range(20)])
    batches = by_length(singles)
    assert [len(ids) for ids, _ in batches] == [16, 4]
    lengths = [int(n) for _, mask in batches for n in mask.sum(1)]
    assert lengths == sorted(ids.shape[1] for ids, _ in singles)
    tower = TextTower(checkpoint.model).eval()
    with torch.no_grad():
        whole = torch.cat([tower(*batch) for batch in batches])
        for index in (0, 9, 17):
            ((ids, mask),) = select(batches, [index])
            length = int(mask.sum())
            assert any(torch.equal(ids[:, :length], one) for one, _ in singles)
            np.testing.assert_allclose(tower(ids[:, :length], mask[:, :length])[0], whole[index], atol=1e-5)


def test_texts_to_judge_by(tiny: Tiny) -> None:
    """One each, as the tokenizer gives them, truncated where the tower has no positions."""
    checkpoint = tiny(False)
    short, long = text_batches(checkpoint, ["a dog", "word " * 900])
    assert short[0].tolist() == [checkpoint.tokenizer("a dog")["input_ids"]]
    assert long[0].shape == (1, checkpoint.max_tokens)
