"""The stages and whole paths of a bundle as functions that can be called again and again.

| step | from | to |
|---|---|---|
| decode | a sound file | mono float32 at the file's rate |
| resample | that | the model's rate |
| log-mel | a clip | the tower's input, (channels, frames, mels) |
| audio-tower | that | a unit vector |
| tokenizer | a text | token ids |
| text-tower | that | a unit vector |
| file, waveform, text | | the whole path to a unit vector |
| sound | a waveform of any length | its vector, by the bundle's recipe |
| labels | class labels | their vectors, as `Clap.embed_labels` |
| rank | a vector and the labels' | the labels, best first |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import claprt
from claprt.audio_io import open_audio
from claprt.bundle import open_bundle
from claprt.clip import WaveClip, features
from claprt.engines.load import load_engine
from claprt.log_mel import LogMel
from claprt.resample import resample_blocks
from claprt.tokenizer import Tokenizer
from claprt.vectors import Embeddings
from claprt_bench.speed.inputs import FILE_RATE, Inputs

Call = Callable[[int], Any]
"""Does a step once; the number of the call picks its inputs."""
STAGES = ("decode", "resample", "log-mel", "audio-tower", "tokenizer", "text-tower")
PATHS = ("file", "waveform", "text")


@dataclass(frozen=True)
class Task:
    """One thing to do again and again.

    Attributes:
        step: of the table above.
        batch: items of a call.
        size: seconds of a "sound", or the number of "labels".
        warm_up: whether to call it some times before it is timed.
    """

    step: str
    batch: int = 1
    size: float = 0.0
    warm_up: bool = True


@dataclass(frozen=True)
class Side:
    """What a worker loads.

    Attributes:
        bundle: its directory.
        precision: of the towers; "fp32" where none is loaded.
        backend: that runs them, resolved.
        threads: of the CPU.
        device: CUDA's number of the GPU.
        log_mel: where log-Mel is computed: "cpu" or "cuda".
    """

    bundle: str
    precision: str
    backend: str
    threads: int
    device: int = 0
    log_mel: str = "cpu"


class Steps:
    """The steps of one side. What a step needs is loaded when it is first called, and no more than that."""

    def __init__(self, side: Side, inputs: Inputs) -> None:
        self.side, self.inputs = side, inputs
        self._clap: claprt.Clap | None = None

    @property
    def clap(self) -> claprt.Clap:
        """The loaded bundle; its towers are loaded when they are first used."""
        if self._clap is None:
            side = self.side
            self._clap = claprt.load(
                side.bundle,
                side.backend,
                side.precision,
                side.threads if side.backend == "ort-cpu" else None,
                device=side.device,
                log_mel=None if side.backend == "ort-cpu" else side.log_mel,
            )
        return self._clap

    def call(self, task: Task) -> Call:
        """The function of a task; what it works on lies ready."""
        make: dict[str, Callable[[Task], Call]] = {
            "decode": self._decode,
            "resample": self._resample,
            "log-mel": self._log_mel if self.side.log_mel == "cpu" else self._log_mel_cuda,
            "audio-tower": self._audio_tower,
            "tokenizer": self._tokenizer,
            "text-tower": self._text_tower,
            "file": lambda task: lambda index: self.clap.embed_audio(self._picked(self.inputs.files, index, task)),
            "waveform": lambda task: lambda index: self.clap.embed_audio(self._picked(self.inputs.clips, index, task)),
            "text": lambda task: lambda index: self.clap.embed_text(self._picked(self.inputs.texts, index, task)),
            "sound": self._sound,
            "labels": lambda task: lambda index: self.clap.embed_labels(label_texts(int(task.size))),
            "rank": self._rank,
        }
        return make[task.step](task)

    def _picked(self, items: Any, index: int, task: Task) -> list[Any]:
        """Others in each call, in turn."""
        return [items[(index + i) % len(items)] for i in range(task.batch)]

    def _decode(self, task: Task) -> Call:
        return lambda index: [decoded(path) for path in self._picked(self.inputs.files, index, task)]

    def _resample(self, task: Task) -> Call:
        rate = self.clap.sampling_rate
        sounds = [decoded(path) for path in self.inputs.files]
        return lambda index: [resampled(sound, rate) for sound in self._picked(sounds, index, task)]

    def _log_mel(self, task: Task) -> Call:
        info = self.clap.manifest.audio
        log_mel = LogMel(info.log_mel)
        return lambda index: [
            features(WaveClip(clip), log_mel, info.channels) for clip in self._picked(self.inputs.clips, index, task)
        ]

    def _log_mel_cuda(self, task: Task) -> Call:
        """The kernel alone, from int16 in device memory to FP32 there; each call waits for its end."""
        from claprt_kernels import LogMel as CudaLogMel
        from claprt_kernels import open_launcher

        info = self.clap.manifest.audio
        launcher = open_launcher(self.side.device)
        kernel = CudaLogMel(info.log_mel, channels=info.channels, max_batch=task.batch, launcher=launcher)
        pcm = (self.inputs.clips * 32767).astype(np.int16)
        samples = launcher.alloc(pcm.nbytes)
        out = launcher.alloc(4 * int(np.prod(kernel.shape(task.batch))))
        stream, event = launcher.stream(), launcher.event()
        launcher.copy(samples, pcm.reshape(-1).view(np.uint8), stream)
        length = pcm.shape[1]

        def call(index: int) -> None:
            clips = [((index + i) % len(pcm) * length, length) for i in range(task.batch)]
            kernel(
                samples, clips, out=out, stream=stream, pcm_samples=pcm.size, pcm_dtype=np.int16, out_dtype=np.float32
            )
            launcher.record(event, stream)
            launcher.wait(event)

        return call

    def _audio_tower(self, task: Task) -> Call:
        info = self.clap.manifest.audio
        log_mel = LogMel(info.log_mel)
        mels = [features(WaveClip(clip), log_mel, info.channels) for clip in self.inputs.clips]
        engine = self._engine("audio")
        batches = []
        for index in range(len(mels)):
            given: dict[str, NDArray[Any]] = {"input_features": np.stack(self._picked(mels, index, task))}
            if info.fusion:
                given["is_longer"] = np.zeros((task.batch, 1), dtype=np.bool_)
            batches.append(given)
        return lambda index: engine.run(batches[index % len(batches)])

    def _tokenizer(self, task: Task) -> Call:
        tokenizer = self._make_tokenizer()
        return lambda index: tokenizer(self._picked(self.inputs.texts, index, task))

    def _text_tower(self, task: Task) -> Call:
        tokenizer, engine, batches = self._make_tokenizer(), self._engine("text"), []
        for index in range(len(self.inputs.texts)):
            ids, mask = tokenizer(self._picked(self.inputs.texts, index, task))
            batches.append({"input_ids": ids, "attention_mask": mask})
        return lambda index: engine.run(batches[index % len(batches)])

    def _sound(self, task: Task) -> Call:
        rate = self.clap.sampling_rate
        sound = np.resize(self.inputs.clips.reshape(-1), max(1, round(task.size * rate)))
        return lambda index: self.clap.embed_audio(sound)

    def _rank(self, task: Task) -> Call:
        clap, count = self.clap, int(task.size)
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((count + len(self.inputs.clips), clap.embedding_dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        known = Embeddings(label_texts(count), vectors[:count], clap.space_id)
        sounds = vectors[count:]
        return lambda index: clap.rank(sounds[[index % len(sounds)]], known)

    def _engine(self, tower: str) -> Any:
        side, clap = self.side, self.clap
        bundle = open_bundle(side.bundle)
        return load_engine(bundle, tower, clap.variant, clap.backend, device=side.device, threads=side.threads)

    def _make_tokenizer(self) -> Tokenizer:
        bundle = open_bundle(Path(self.side.bundle))
        return Tokenizer(bundle.verified(bundle.manifest.text.tokenizer), bundle.manifest.text)


def decoded(path: str) -> NDArray[np.float32]:
    """A file's samples, mono, at its own rate."""
    with open_audio(path) as source:
        return np.concatenate(list(source.blocks()))


def resampled(sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A sound at the model's rate."""
    return np.concatenate(list(resample_blocks([sound], FILE_RATE, rate)))


def label_texts(count: int) -> list[str]:
    """So many different class labels."""
    return [f"sound number {index}" for index in range(count)]
