"""What a tower is calibrated on: log-Mel clips and token ids, of the user's recordings and captions or made here."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from claprt import recipes
from claprt.audio_io import open_audio
from claprt.errors import TextError
from claprt.log_mel import LogMel
from claprt_export import sentences
from claprt_export.checkpoint import Checkpoint
from claprt_export.comparison import find_sounds
from claprt_export.demo import captions, sounds

MAX_CLIPS = 96
MAX_TEXTS = 512
_CLIPS_PER_RECORDING = 4
_CLIPS_HEARD = 60  # of a recording, before some of them are chosen
# Texts that a tower is judged on at once: one alone keeps two cores waiting for its weights.
_TEXTS_AT_ONCE = 16
_FIRST_SEED = 8_000_000  # the verification's sounds are 7,0xx,xxx, the test set's 1,0xx,xxx and 2,0xx,xxx

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class CalibrationSet:
    """Arguments of calls of the two towers.

    Attributes:
        description: what it was made from.
        sha256: of all its values.
        audio: (1, channels, frames, mels), [(1, 1) bool] for each clip.
        text: ids and mask, (n, tokens) each, of texts of one length; nothing is padded.
    """

    description: str
    sha256: str
    audio: list[Batch]
    text: list[Batch]


def calibration_set(checkpoint: Checkpoint, directory: Path | None) -> CalibrationSet:
    """Make the calibration set.

    Args:
        checkpoint: its log-Mel and its tokenizer.
        directory: the user's: recordings of any format and length at any depth (at most MAX_CLIPS clips of them), and
            captions as lines of .txt files. None, or a directory without captions, takes claprt's own.

    Besides, always: silence, noise at full scale, ordinary sentences, and texts of random tokens and repeated words. An
    interval that has not seen the unusual clips it.

    Raises:
        AudioError: the directory has no recordings, or one cannot be read.
        TextError: a .txt file is not UTF-8.
    """
    if directory is None:
        clips = _made_clips(checkpoint)
        description = f"{len(clips)} synthesised sounds"
    else:
        clips = _recorded_clips(checkpoint, directory)
        description = f"{len(clips)} clips of recordings"
    lines = [] if directory is None else _captions(directory)
    description += f", {len(lines)} captions and claprt's sentences" if lines else ", claprt's captions and sentences"
    texts = [*(lines or _made_captions()), *sentences.CALIBRATION]
    audio = [*clips, *_unusual_clips(checkpoint)]
    text = _token_batches(checkpoint, texts)
    digest = hashlib.sha256()
    for batch in (*audio, *text):
        for tensor in batch:
            digest.update(f"{list(tensor.shape)}".encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return CalibrationSet(description, digest.hexdigest(), audio, text)


def tower_batch(checkpoint: Checkpoint, clip: recipes.Clip, log_mel: LogMel) -> Batch:
    """A clip as the audio tower's arguments."""
    channels = 4 if checkpoint.fusion else 1
    features = torch.from_numpy(np.ascontiguousarray(recipes.features(clip, log_mel, channels)[None]))
    return (features, torch.tensor([[clip.is_longer]])) if checkpoint.fusion else (features,)


def waveform_batches(checkpoint: Checkpoint, waveforms: Iterable[NDArray[np.float32]]) -> list[Batch]:
    """The first clip of each waveform as the audio tower's arguments; all of a long one where the tower fuses."""
    log_mel, channels = LogMel(checkpoint.log_mel), 4 if checkpoint.fusion else 1
    result = []
    for waveform in waveforms:
        with open_audio(waveform, checkpoint.log_mel.sampling_rate) as source:
            recipe = "fusion" if checkpoint.fusion else "head"
            result.append(
                tower_batch(checkpoint, next(recipes.clips(source, checkpoint.log_mel, recipe, channels)), log_mel)
            )
    return result


def text_batches(checkpoint: Checkpoint, texts: Iterable[str]) -> list[Batch]:
    """Texts as the text tower's arguments, one each."""
    encode = checkpoint.tokenizer
    rows = (torch.tensor([encode(t, truncation=True, max_length=checkpoint.max_tokens)["input_ids"]]) for t in texts)
    return [(ids, torch.ones_like(ids)) for ids in rows]


def by_length(texts: Sequence[Batch]) -> list[Batch]:
    """Single texts in batches, the short ones first: to judge by, not to observe, as they are padded."""
    ordered = sorted(texts, key=lambda batch: batch[0].shape[1])
    return [join(ordered[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(ordered), _TEXTS_AT_ONCE)]


def join(texts: Sequence[Batch]) -> Batch:
    """Batches of texts as one, padded on the right with mask 0."""
    width = max(ids.shape[1] for ids, _ in texts)
    padded = ([nn.functional.pad(t, (0, width - t.shape[1])) for t in batch] for batch in texts)
    return tuple(torch.cat(parts) for parts in zip(*padded, strict=True))


def select(batches: Sequence[Batch], indices: Iterable[int]) -> list[Batch]:
    """Some of the inputs in batches, counted through; one each."""
    singles = [tuple(t[i : i + 1] for t in batch) for batch in batches for i in range(len(batch[0]))]
    return [singles[i] for i in indices]


def _made_clips(checkpoint: Checkpoint) -> list[Batch]:
    seconds = (10.0, 6.0, 10.0, 1.5, 24.0 if checkpoint.fusion else 10.0)
    return waveform_batches(
        checkpoint,
        (
            sounds.render(kind, _FIRST_SEED + index + 1000 * turn, seconds[(index + turn) % len(seconds)])
            for turn in range(2)
            for index, kind in enumerate(sounds.KINDS)
        ),
    )


def _unusual_clips(checkpoint: Checkpoint) -> list[Batch]:
    length = checkpoint.log_mel.clip_samples
    noise = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    return waveform_batches(checkpoint, (np.zeros(length, np.float32), noise, noise * np.float32(1e-3)))


def _recorded_clips(checkpoint: Checkpoint, directory: Path) -> list[Batch]:
    spec, log_mel, channels = checkpoint.log_mel, LogMel(checkpoint.log_mel), 4 if checkpoint.fusion else 1
    paths = find_sounds(directory)
    chosen = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, min(len(paths), MAX_CLIPS))]
    each = min(_CLIPS_PER_RECORDING, max(1, MAX_CLIPS // len(chosen)))
    result: list[Batch] = []
    for path in chosen:
        recipe = "fusion" if checkpoint.fusion else "windows"
        with open_audio(path) as source:
            heard = list(itertools.islice(recipes.clips(source, spec, recipe, channels), _CLIPS_HEARD))
        spread = np.linspace(0, len(heard) - 1, min(len(heard), each))
        result += [tower_batch(checkpoint, heard[round(i)], log_mel) for i in spread]
    return result


def _captions(directory: Path) -> list[str]:
    lines: list[str] = []
    for path in sorted(directory.rglob("*.txt")):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextError(f"the captions are not UTF-8: {path}: {error.reason}; save the file as UTF-8") from error
        lines += [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) <= MAX_TEXTS:
        return lines
    return [lines[round(i)] for i in np.linspace(0, len(lines) - 1, MAX_TEXTS)]


def _made_captions() -> list[str]:
    generator = random.Random(0)
    phrases = [phrase for kind in sounds.KINDS for phrase in captions.PHRASES[kind]]
    lines = [generator.choice(captions.TEMPLATES).format(phrase) for phrase in phrases]
    lines += [". ".join(generator.sample(lines, 4)) for _ in range(16)]
    return lines


def _token_batches(checkpoint: Checkpoint, texts: Iterable[str]) -> list[Batch]:
    """Texts by number of tokens, and texts that nobody would write."""
    tokenizer, generator = checkpoint.tokenizer, random.Random(1)
    rows = [tokenizer(t, truncation=True, max_length=checkpoint.max_tokens)["input_ids"] for t in texts]
    first, last = rows[0][0], rows[0][-1]
    usual = [token for token in set(tokenizer.get_vocab().values()) if token not in tokenizer.all_special_ids]
    usual.sort()
    longest = checkpoint.max_tokens - 2
    lengths = [min(length, longest) for length in (1, 1, 2, 3, 5, 8, 12, 20, 32, 48) * 4]
    rows += [[first, *generator.choices(usual, k=length), last] for length in lengths]
    for length in (4, 12, 30, 60):
        rows.extend([first, *[token] * min(length, longest), last] for token in (generator.choice(usual), rows[0][1]))
    groups: dict[int, list[list[int]]] = {}
    for row in rows:
        groups.setdefault(len(row), []).append(row)
    result: list[Batch] = []
    for _, group in sorted(groups.items()):
        parts = (torch.tensor(group[start : start + 32]) for start in range(0, len(group), 32))
        result.extend((ids, torch.ones_like(ids)) for ids in parts)
    return result
