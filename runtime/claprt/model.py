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
from claprt.embedder import AudioEmbedder, ErrorHook, ProgressHook, unit
from claprt.engines import Engine, choose_backend, load_engine
from claprt.errors import OptionError, SpaceMismatchError
from claprt.lazy import Lazy
from claprt.manifest import AudioInfo, FileEntry, Manifest, TextInfo
from claprt.recipes import check_recipe
from claprt.spec import PRECISIONS
from claprt.tokenizer import Tokenizer, check_texts
from claprt.vectors import Embeddings

DEFAULT_TEMPLATE = "This is a sound of {}."
# One clip a run on the CPU: not slower than eight there, and a vector then cannot depend on its neighbours by a bit.
_CPU_AUDIO_BATCH = 1
_TEXT_BATCH = 32
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

    def __init__(self, bundle: Bundle, backend: str, variant: str, threads: int | None) -> None:
        self._bundle, self._backend, self._variant, self._threads = bundle, backend, variant, threads
        # That all is there is checked now, the hashes of a tower's files before it is first used: many users need one
        # tower only, and hashing the other takes longer than loading this one.
        manifest = bundle.manifest
        for entry in (*self._graph_files(manifest.audio), *self._graph_files(manifest.text), manifest.text.tokenizer):
            bundle.located(entry)
        self._audio = Lazy(self._load_audio)
        self._text = Lazy(self._load_text)

    def __repr__(self) -> str:
        return f"Clap({self.manifest.model.source!r}, backend={self._backend!r}, precision={self.precision!r})"

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        """The backend that runs ("auto" is resolved)."""
        return self._backend

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
        return self._audio.get().embed(clips, sampling_rate, name, on_error, on_progress)

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: none empty. Texts beyond the tower's limit (512 tokens) are truncated with a `ClaprtWarning`.

        Returns:
            (m, dim) float32 of unit length. No texts give (0, dim).

        Raises:
            TextError: a text is empty, is not a string, or is not valid Unicode.
            BundleError: at the tower's first use: a file of it has another hash, or is not its graph or tokenizer.
        """
        if not isinstance(texts, (str, bytes)) and len(texts) == 0:
            return np.empty((0, self.embedding_dim), dtype=np.float32)
        check_texts(texts)
        tokenizer, engine = self._text.get()
        vectors = np.empty((len(texts), self.embedding_dim), dtype=np.float32)
        # Texts of like length share a run, so that little is computed for padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), _TEXT_BATCH):
            rows = order[start : start + _TEXT_BATCH]
            ids, mask = tokenizer([texts[row] for row in rows], rows)
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
        """
        rows, columns = self._vectors(audio, "audio"), self._vectors(texts, "texts")
        logits = (rows @ columns.T) * np.float32(self.manifest.model.logit_scale)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return Similarity(logits, shifted / np.maximum(shifted.sum(axis=1, keepdims=True), 1e-30))

    def embed_labels(self, labels: Sequence[str], template: str | Sequence[str] = DEFAULT_TEMPLATE) -> Embeddings:
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
        check_texts(labels)
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if list(labels).count(label) > 1)
            raise OptionError(f"a label is given twice: {twice!r}; labels share one softmax and must be distinct")
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
        return Embeddings(list(labels), mean.astype(np.float32), self.space_id)

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
        """The labels of each sound, best first, from vectors of both."""
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
        vectors = np.asarray(given, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.embedding_dim:
            raise SpaceMismatchError(
                f"{what} must be vectors of this model, (n, {self.embedding_dim}); the shape is {vectors.shape}"
            )
        return vectors

    def _load_audio(self) -> AudioEmbedder:
        info = self.manifest.audio
        inputs = ("input_features", "is_longer") if info.fusion else ("input_features",)
        return AudioEmbedder(self._engine(info, inputs), info, self.embedding_dim, _CPU_AUDIO_BATCH)

    def _load_text(self) -> tuple[Tokenizer, Engine]:
        info = self.manifest.text
        engine = self._engine(info, ("input_ids", "attention_mask"))
        return Tokenizer(self._bundle.verified(info.tokenizer), info), engine

    def _graph_files(self, info: AudioInfo | TextInfo) -> tuple[FileEntry, ...]:
        return info.variants[self._variant].files

    def _engine(self, info: AudioInfo | TextInfo, inputs: tuple[str, ...]) -> Engine:
        entries = self._graph_files(info)
        files = [self._bundle.located(entry) for entry in entries]
        # The engine notes what the files are before they are hashed, and looks again when it reads them.
        engine = load_engine(self._backend, files, inputs, self.embedding_dim, self._threads)
        for entry in entries:
            self._bundle.verified(entry)
        return engine


def load(
    path: str | os.PathLike[str],
    backend: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> Clap:
    """Load a bundle.

    That all its files are there is checked now. A tower starts, and its files are hashed, when it is first used: embed
    one sound and one text beforehand where the first call must not wait.

    Args:
        path: the bundle's directory.
        backend: "ort-cpu", or "auto" for the best one that can run here (`claprt doctor` lists them; the choice is
            logged to the logger "claprt" and is `Clap.backend`). A backend asked for by name runs or is an error.
        precision: "fp32", "fp16" or "int8", as far as the bundle has it; None is FP32. INT8 on a CPU is the variant
            "int8-cpu"; FP16 runs there too, no faster than FP32.
        threads: CPU threads; None takes the cores that this process may use. They share the work on a single clip; of
            many, each takes one at a time, with its own memory (40 MB for a full-size tower).

    Raises:
        BundleNotFoundError: no bundle there.
        BundleError: the manifest is not valid, or a file is missing or has another size.
        BackendError: the backend cannot run here.
        OptionError: an unknown backend, a precision that the bundle lacks, or a bad number of threads.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MAX_THREADS):
        raise OptionError(
            f"bad number of threads: {threads!r}; pass an integer from 1 to {_MAX_THREADS}, or None for all cores"
        )
    chosen = choose_backend(backend)
    bundle = open_bundle(path)
    available = bundle.manifest.precisions
    name = precision
    if name is None:
        if "fp32" not in available:
            raise OptionError(f"the bundle has no fp32: {path}: it has {', '.join(available)}; name one as precision")
        name = "fp32"
    if name not in PRECISIONS:
        raise OptionError(f"unknown precision: {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name not in available:
        raise OptionError(f"the bundle has no {name}: {path}: it has {', '.join(available)}; build it with {name}")
    variant = bundle.manifest.variant_for(name, cpu=chosen == "ort-cpu")
    if variant is None:
        raise OptionError(
            f"the bundle has {name} for CPUs only: {path}: the backend is {chosen}; build it again, or use ort-cpu"
        )
    _log.info("%s: backend %s (asked for: %s), variant %s", path, chosen, backend, variant)
    return Clap(bundle, chosen, variant, threads)


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
