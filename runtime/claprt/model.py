"""`Clap`: a loaded bundle. The public face of the runtime."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from claprt.audio_io import AudioInput
from claprt.bundle import Bundle, open_bundle
from claprt.cpu_clips import CpuClips
from claprt.embedder import AudioEmbedder, ClipVectors, ErrorHook, ProgressHook, unit
from claprt.engines import Choice, Engine, choose_backend
from claprt.engines.load import TOWERS, load_engine, why_no_engine
from claprt.errors import AudioError, OptionError, SpaceMismatchError
from claprt.lazy import Lazy
from claprt.manifest import AudioInfo, FileEntry, Manifest, TextInfo
from claprt.recipes import check_recipe
from claprt.spec import PRECISIONS
from claprt.tokenizer import Tokenizer, check_texts
from claprt.vectors import Embeddings

DEFAULT_TEMPLATE = "This is a sound of {}."
# One clip a run on the CPU: not slower than eight there, and a vector then cannot depend on its neighbours by a bit.
_CPU_AUDIO_BATCH, _GPU_AUDIO_BATCH = 1, 64
_CPU_TEXT_BATCH, _GPU_TEXT_BATCH = 32, 64
# On a GPU texts are padded to multiples of this: products like it, and few lengths come up.
_GPU_TOKENS = 8
_LOG_MELS = ("cpu", "cuda")
_MAX_THREADS = 1024

_log = logging.getLogger("claprt")
_Sound = TypeVar("_Sound", bound=AudioInput)  # so that a list of paths, or of arrays, is a list of sounds


class Similarity(NamedTuple):
    """How well sounds and texts match.

    Attributes:
        logits: (n sounds, m texts) float32, cosine times the checkpoint's scale: transformers' `logits_per_audio`.
        probabilities: (n, m) float32, softmax of the logits over the texts; rows add up to 1.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


class Prediction(NamedTuple):
    """One label's score for one sound.

    Attributes:
        label: as it was given.
        probability: softmax over all labels of the call, 0..1. It says which label fits best, not whether it fits.
        cosine: -1..1, independent of the other labels.
    """

    label: str
    probability: float
    cosine: float


class Clap:
    """A CLAP model from a bundle, without PyTorch. Make one with `claprt.load`. Methods are thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        choice: Choice,
        variant: str,
        threads: int | None,
        device: int = 0,
        log_mel: str | None = None,
    ) -> None:
        self._bundle, self._choice, self._variant, self._threads = bundle, choice, variant, threads
        self._device, self._on_gpu = device, choice.backend != "ort-cpu"
        self._log_mel = log_mel or ("cuda" if self._on_gpu else "cpu")
        # That all is there is checked now, the hashes of a tower's files before it is first used: many users need one
        # tower only, and hashing the other takes longer than loading this one.
        manifest = bundle.manifest
        for entry in (*self._graph_files(manifest.audio), *self._graph_files(manifest.text), manifest.text.tokenizer):
            bundle.located(entry)
        self._audio = Lazy(self._load_audio)
        self._text = Lazy(self._load_text)

    def __repr__(self) -> str:
        return f"Clap({self.manifest.model.source!r}, backend={self.backend!r}, precision={self.precision!r})"

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        """The backend that runs ("auto" is resolved)."""
        return self._choice.backend

    @property
    def choice(self) -> Choice:
        """The backend that runs, and why not those that "auto" likes better; its text says both."""
        return self._choice

    @property
    def log_mel(self) -> str:
        """Where log-Mel is computed: "cpu" or "cuda"."""
        return self._log_mel

    @property
    def precision(self) -> str:
        """The precision that runs."""
        return self._variant.removesuffix("-cpu")

    @property
    def variant(self) -> str:
        """The variant of the towers that runs: the precision's name, with "-cpu" where it was made for CPUs."""
        return self._variant

    @property
    def embedding_dim(self) -> int:
        """Length of every vector."""
        return self.manifest.model.embedding_dim

    @property
    def sampling_rate(self) -> int:
        """Hz, the model's own rate; every other is resampled to it."""
        return self.manifest.audio.log_mel.sampling_rate

    @property
    def space_id(self) -> str:
        """Id of the embedding space: only vectors of the same space may be compared."""
        return self.manifest.model.space_id

    def embed_audio(
        self,
        clips: AudioInput | Sequence[AudioInput],
        sampling_rate: int | None = None,
        recipe: str | None = None,
    ) -> NDArray[np.float32]:
        """Embed sounds.

        Args:
            clips: paths, binary file objects, or arrays (samples,) or (samples, channels), one of them or a sequence.
                Float arrays are full scale at 1.0; int16, int32, int8 and uint8 are PCM.
            sampling_rate: Hz of the arrays; None means `Clap.sampling_rate`. Files know their own.
            recipe: what is heard of a sound longer than one clip: "head", "windows" or "fusion" (see
                `claprt.recipes`); None takes the bundle's default.

        Returns:
            (n, dim) float32 of unit length, in the order of `clips`. A vector does not depend on the other clips.
            Silence has a vector too. No clips give (0, dim).

        Raises:
            AudioError: a sound cannot be used; the message names it and says why.
            OptionError: the recipe does not exist or does not fit this model.
            BundleError: at the tower's first use: a file of it has another hash, or is not its graph.
        """
        sounds = _as_sequence(clips)
        return self.embed_many(sounds, sampling_rate, recipe)[1]

    def embed_many(
        self,
        clips: Iterable[AudioInput],
        sampling_rate: int | None = None,
        recipe: str | None = None,
        on_error: ErrorHook | None = None,
        on_progress: ProgressHook | None = None,
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Like `embed_audio` for any iterable, and able to go on past sounds that cannot be used.

        Args:
            clips: as `embed_audio`; taken one by one, at most two for each thread before the first is done.
            sampling_rate: as `embed_audio`.
            recipe: as `embed_audio`.
            on_error: called with (index, error) for each unusable sound. Without it the error is raised.
            on_progress: called with a sound's index whenever another clip of it was taken on.

        Returns:
            The indices of the sounds that were embedded, and their vectors, (n, dim) float32 of unit length.
        """
        name = self._recipe(recipe)
        if isinstance(clips, (str, bytes, os.PathLike)) or not isinstance(clips, Iterable):
            raise AudioError(f"clips are one {type(clips).__name__}, not several sounds; pass [clip]")
        return self._audio.get().embed(clips, sampling_rate, name, on_error, on_progress)

    def embed_text(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: any iterable of strings, none empty. Texts beyond the tower's limit (512 tokens) are truncated with a
                `ClaprtWarning`.

        Returns:
            (m, dim) float32 of unit length. No texts give (0, dim).

        Raises:
            TextError: a text is empty, is not a string, or is not valid Unicode.
            BundleError: at the tower's first use: a file of it has another hash, or is not its graph or tokenizer.
        """
        texts = check_texts(texts, least=0)
        if not texts:
            return np.empty((0, self.embedding_dim), dtype=np.float32)
        tokenizer, engine = self._text.get()
        vectors = np.empty((len(texts), self.embedding_dim), dtype=np.float32)
        # Texts of like length share a run, so that little is computed for padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        batch, multiple = (_GPU_TEXT_BATCH, _GPU_TOKENS) if self._on_gpu else (_CPU_TEXT_BATCH, 1)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            ids, mask = tokenizer([texts[row] for row in rows], rows, multiple)
            vectors[rows] = engine.run({"input_ids": ids, "attention_mask": mask})
        return vectors

    def similarity(
        self, audio: NDArray[np.float32] | Embeddings, texts: NDArray[np.float32] | Embeddings
    ) -> Similarity:
        """Compare sounds with texts.

        Args:
            audio: (n, dim) vectors of sounds, from this model.
            texts: (m, dim) vectors of texts, from this model.

        Raises:
            SpaceMismatchError: vectors of another length, or `Embeddings` of another space.
            OptionError: what is given are no vectors, or they hold NaN or infinity.
        """
        rows, columns = self._vectors(audio, "audio"), self._vectors(texts, "texts")
        logits = (rows @ columns.T) * np.float32(self.manifest.model.logit_scale)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return Similarity(logits, shifted / np.maximum(shifted.sum(axis=1, keepdims=True), 1e-30))

    def embed_labels(self, labels: Iterable[str], template: str | Sequence[str] = DEFAULT_TEMPLATE) -> Embeddings:
        """Embed class labels through prompt templates; several templates are averaged.

        Args:
            labels: distinct, not empty.
            template: one or several texts, each with exactly one `{}` for the label.

        Returns:
            A vector for each label: the unit vector along the mean of its prompts' unit vectors.

        Raises:
            TextError: no labels, or an unusable one.
            OptionError: a label is given twice, or a template does not have exactly one `{}`.
        """
        labels = check_texts(labels)
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise OptionError(f"a label is given twice: {twice!r}; labels share one softmax and must be distinct")
        if not isinstance(template, Iterable):
            raise OptionError(f"a template is a text, not {template!r}; try {DEFAULT_TEMPLATE!r}")
        templates = [template] if isinstance(template, str) else list(template)
        if not templates:
            raise OptionError("there are no templates: the list is empty; pass at least one, such as '{}'")
        for item in templates:
            if not isinstance(item, str) or item.count("{}") != 1:
                raise OptionError(
                    f"a template needs exactly one {{}} for the label: {item!r}; try {DEFAULT_TEMPLATE!r}"
                )
        prompts = [item.replace("{}", label) for item in templates for label in labels]
        vectors = self.embed_text(prompts).reshape(len(templates), len(labels), self.embedding_dim)
        mean = unit(vectors.mean(axis=0, dtype=np.float64))
        return Embeddings(labels, mean.astype(np.float32), self.space_id)

    @overload
    def classify(
        self,
        clips: AudioInput,
        labels: Sequence[str] | Embeddings,
        template: str | Sequence[str] = ...,
        sampling_rate: int | None = ...,
        recipe: str | None = ...,
    ) -> list[Prediction]: ...

    @overload
    def classify(
        self,
        clips: list[_Sound] | tuple[_Sound, ...],
        labels: Sequence[str] | Embeddings,
        template: str | Sequence[str] = ...,
        sampling_rate: int | None = ...,
        recipe: str | None = ...,
    ) -> list[list[Prediction]]: ...

    def classify(
        self,
        clips: AudioInput | list[_Sound] | tuple[_Sound, ...],
        labels: Sequence[str] | Embeddings,
        template: str | Sequence[str] = DEFAULT_TEMPLATE,
        sampling_rate: int | None = None,
        recipe: str | None = None,
    ) -> list[Prediction] | list[list[Prediction]]:
        """Zero-shot classification: which of these labels fits each sound best.

        Args:
            clips: one sound, or a list of sounds; as `embed_audio`.
            labels: distinct texts; or what `embed_labels` returned for them, to save embedding them again.
            template: as `embed_labels`; unused when `labels` are already embedded.
            sampling_rate: as `embed_audio`.
            recipe: as `embed_audio`.

        Returns:
            For one sound a list of `Prediction`, best first, one for each label; for a list of sounds a list of those.

        Raises:
            TextError, OptionError: as `embed_labels`.
            AudioError: as `embed_audio`.
        """
        known = labels if isinstance(labels, Embeddings) else self.embed_labels(labels, template)
        ranked = self.rank(self.embed_audio(clips, sampling_rate, recipe), known)
        return ranked if isinstance(clips, (list, tuple)) else ranked[0]

    def rank(self, audio: NDArray[np.float32] | Embeddings, labels: Embeddings) -> list[list[Prediction]]:
        """The labels of each sound, best first, from vectors of both.

        Raises:
            OptionError: `labels` are not `Embeddings`: their names are needed.
            SpaceMismatchError: as `similarity`.
        """
        if not isinstance(labels, Embeddings):
            raise OptionError(f"labels are {type(labels).__name__}, not Embeddings; pass what embed_labels returned")
        logits, probabilities = self.similarity(audio, labels)
        cosines = logits / np.float32(self.manifest.model.logit_scale)
        return [
            [
                Prediction(labels.names[column], float(probabilities[row, column]), float(cosines[row, column]))
                for column in np.argsort(-logits[row], kind="stable")
            ]
            for row in range(len(logits))
        ]

    def _recipe(self, recipe: str | None) -> str:
        name = self.manifest.audio.default_recipe if recipe is None else recipe
        check_recipe(name, self.manifest.audio.fusion)
        return name

    def _vectors(self, given: NDArray[np.float32] | Embeddings, what: str) -> NDArray[np.float32]:
        if isinstance(given, Embeddings):
            if given.space_id != self.space_id:
                raise SpaceMismatchError(
                    f"vectors of different spaces cannot be compared: {what} are of space {given.space_id}, this model "
                    f"of {self.space_id}; embed them again with this bundle"
                )
            given = given.vectors
        try:
            vectors = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"{what} are {type(given).__name__}, not vectors; pass what embed_audio or embed_text returned"
            ) from error
        if vectors.ndim != 2 or vectors.shape[1] != self.embedding_dim:
            raise SpaceMismatchError(
                f"{what} must be vectors of this model, (n, {self.embedding_dim}); the shape is {vectors.shape}"
            )
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if wrong.size:
            raise OptionError(f"{what} hold NaN or infinity: vector {wrong[0]} of {len(vectors)}; embed them again")
        return vectors

    def _load_audio(self) -> AudioEmbedder:
        info, engine = self.manifest.audio, self._engine("audio")
        runner: ClipVectors
        if self._log_mel == "cuda":
            from claprt.engines.device import DeviceEngine
            from claprt.gpu_clips import GpuClips

            assert isinstance(engine, DeviceEngine)
            runner = GpuClips(engine, info)
        else:
            runner = CpuClips(engine, info, _GPU_AUDIO_BATCH if self._on_gpu else _CPU_AUDIO_BATCH)
        return AudioEmbedder(runner, info, self.embedding_dim)

    def _load_text(self) -> tuple[Tokenizer, Engine]:
        info = self.manifest.text
        return Tokenizer(self._bundle.verified(info.tokenizer), info), self._engine("text")

    def _graph_files(self, info: AudioInfo | TextInfo) -> tuple[FileEntry, ...]:
        return info.variants[self._variant].files

    def _engine(self, tower: str) -> Engine:
        return load_engine(self._bundle, tower, self._variant, self.backend, device=self._device, threads=self._threads)


def load(
    path: str | os.PathLike[str],
    backend: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    device: int = 0,
    log_mel: str | None = None,
) -> Clap:
    """Load a bundle.

    That all its files are there is checked now. A tower starts, and its files are hashed, when it is first used: embed
    one sound and one text beforehand where the first call must not wait.

    Args:
        path: the bundle's directory.
        backend: "tensorrt", "tensorrt-rtx", "ort-cuda", "ort-cpu", or "auto" for the first of them that can run this
            bundle here (`claprt doctor` lists them; the choice and its reasons are logged to the logger "claprt" and
            are `Clap.choice`). A backend asked for by name runs or is an error. The first two need engines:
            `claprt engine` builds them.
        precision: "fp32", "fp16" or "int8", as far as the bundle has it; None is FP32. INT8 on a CPU is the variant
            "int8-cpu"; FP16 runs there too, no faster than FP32.
        threads: CPU threads; None takes the cores that this process may use. They share the work on a single clip; of
            many, each takes one at a time, with its own memory (40 MB for a full-size tower).
        device: CUDA's number of the GPU.
        log_mel: where log-Mel is computed, "cpu" or "cuda"; None is where the towers run.

    Raises:
        BundleNotFoundError: no bundle there.
        BundleError: the manifest is not valid, or a file is missing or has another size.
        BackendError: the backend cannot run here, or there is no engine for it.
        OptionError: an unknown backend, a precision that the bundle lacks, or a bad number of threads or device.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MAX_THREADS):
        raise OptionError(
            f"bad number of threads: {threads!r}; pass an integer from 1 to {_MAX_THREADS}, or None for all cores"
        )
    if type(device) is not int or device < 0:
        raise OptionError(f"bad device: {device!r}; pass CUDA's number of a GPU, from 0")
    if log_mel is not None and log_mel not in _LOG_MELS:
        raise OptionError(f"bad log_mel: {log_mel!r}; choose {' or '.join(_LOG_MELS)}, or None")
    if backend != "auto":
        choose_backend(backend, device)  # one that cannot run at all is the first thing to know
    bundle = open_bundle(path)
    name = _precision(bundle, precision)
    manifest = bundle.manifest

    def why_not_ready(candidate: str) -> str | None:
        variant = manifest.variant_for(name, cpu=candidate == "ort-cpu")
        if variant is None:
            return f"the bundle has {name} for CPUs only; build it again, or use ort-cpu"
        reasons = [why_no_engine(bundle, tower, variant, candidate, device) for tower in TOWERS]
        lacking = [reason for reason in reasons if reason is not None]
        # One tower is enough for who names the backend, and uses that one only.
        return lacking[0] if len(lacking) > (0 if backend == "auto" else 1) else None

    choice = choose_backend(backend, device, why_not_ready)
    if choice.backend == "ort-cpu" and log_mel == "cuda":
        raise OptionError("log_mel is 'cuda' and the backend ort-cpu; log-Mel is computed there where the towers run")
    variant = manifest.variant_for(name, cpu=choice.backend == "ort-cpu")
    assert variant is not None
    reasons = "".join(f"; not {passed}: {reason}" for passed, reason in choice.passed_over)
    _log.info("%s: backend %s (asked for: %s), variant %s%s", path, choice.backend, backend, variant, reasons)
    return Clap(bundle, choice, variant, threads, device, log_mel)


def _precision(bundle: Bundle, precision: str | None) -> str:
    """The precision to run, which the bundle has."""
    available = bundle.manifest.precisions
    if precision is None:
        if "fp32" not in available:
            raise OptionError(
                f"the bundle has no fp32: {bundle.path}: it has {', '.join(available)}; name one as precision"
            )
        return "fp32"
    if precision not in PRECISIONS:
        raise OptionError(f"unknown precision: {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision not in available:
        raise OptionError(
            f"the bundle has no {precision}: {bundle.path}: it has {', '.join(available)}; build it with {precision}"
        )
    return precision


def load_variant(path: str | os.PathLike[str], variant: str, threads: int | None = None) -> Clap:
    """Load one variant by its own name on the CPU, also the one that is made for GPUs: to verify it.

    Raises:
        As `load`.
    """
    bundle = open_bundle(path)
    if variant not in bundle.manifest.variants:
        raise OptionError(f"the bundle has no {variant}: {path}: it has {', '.join(bundle.manifest.variants)}")
    return Clap(bundle, choose_backend("ort-cpu"), variant, threads)


def _as_sequence(clips: AudioInput | Sequence[AudioInput]) -> Sequence[AudioInput]:
    if isinstance(clips, (list, tuple)):
        return clips
    return [clips]  # type: ignore[list-item]
