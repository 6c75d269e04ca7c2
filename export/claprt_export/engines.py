"""What `claprt engine` does: build engines of a bundle's graphs, verify each on the spot, keep those that hold.

Needs the bundle, a library and ONNX Runtime; neither torch nor the checkpoint.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.bundle import Bundle, open_bundle
from claprt.embedder import AudioEmbedder
from claprt.engines import choose_backend
from claprt.engines.device import DeviceEngine, explained
from claprt.engines.load import TOWERS, open_engine, start_engine
from claprt.engines.tensorrt import cache
from claprt.engines.tensorrt.build import BuildOptions, build_plan, check_options
from claprt.engines.tensorrt.cache import EngineKey, EngineRecord
from claprt.engines.tensorrt.library import Library, load_library
from claprt.engines.tensorrt.profiles import (
    DEFAULT_BATCHES,
    DEFAULT_TOKENS,
    Profile,
    audio_profiles,
    text_profiles,
)
from claprt.errors import BackendError, OptionError
from claprt.gpu import Gpu, find_gpu
from claprt.gpu_clips import GpuClips
from claprt.model import load_variant
from claprt.progress import Progress
from claprt.spec import PRECISIONS
from claprt.tokenizer import Tokenizer
from claprt_export.comparison import (
    BOUNDS,
    Comparison,
    compared_recipe,
    sound_names,
    verification_sounds,
    verification_texts,
)
from claprt_kernels import open_launcher, why_unavailable


@dataclass(frozen=True)
class EngineResult:
    """What became of one engine.

    Attributes:
        tower, variant: of the graph.
        state: "built", "there already" or "verified" (it was there, and has now run on this GPU).
        record: the engine in the bundle's cache.
        seconds: that it took to build; 0 for one that was there.
        warnings: of the library.
        verification: how it does on this GPU, None where it cannot run here.
    """

    tower: str
    variant: str
    state: str
    record: EngineRecord
    seconds: float
    warnings: tuple[str, ...]
    verification: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "tower": self.tower,
            "variant": self.variant,
            "state": self.state,
            "plan": asdict(self.record.plan),
            "key": self.record.key.to_json(),
            "seconds": round(self.seconds, 1),
            "warnings": list(self.warnings),
            "verification": self.verification,
        }


def build_engines(
    path: Path,
    *,
    rtx: bool = False,
    precisions: Sequence[str] = ("fp16",),
    towers: Sequence[str] = TOWERS,
    batches: Sequence[int] = DEFAULT_BATCHES,
    tokens: Sequence[int] = DEFAULT_TOKENS,
    options: BuildOptions | None = None,
    recordings: Path | None = None,
    device: int = 0,
    force: bool = False,
) -> list[EngineResult]:
    """Build engines into a bundle's cache. One that is there and fits is not built again.

    Args:
        path: the bundle's directory, which must be writable.
        rtx: with TensorRT for RTX instead of TensorRT.
        precisions: of "fp32", "fp16", "int8".
        towers: of "audio", "text".
        batches: steps of the batch, ascending; see `claprt.engines.tensorrt.profiles`.
        tokens: steps of the length of texts, ascending.
        options: of the builder; None for its defaults.
        recordings: a directory of sounds to verify on, besides those that claprt synthesises.
        device: CUDA's number of the GPU.
        force: build again what is there.

    Returns:
        A result for each precision and tower.

    Raises:
        OptionError: an option has a bad value, or the bundle lacks a precision.
        BackendError: the library or the GPU is missing; the graph cannot be built; or an engine misses its bound
            against the FP32 graph in ONNX Runtime. It is not kept then.
    """
    options = BuildOptions() if options is None else options
    _check_names("precision", precisions, PRECISIONS)
    _check_names("tower", towers, TOWERS)
    bundle = open_bundle(path)
    library = load_library("tensorrt-rtx" if rtx else "tensorrt")
    check_options(library, options)
    gpu = _gpu(library, options, device)
    jobs = [
        (tower, precision, _profiles(bundle, tower, batches, tokens)) for precision in precisions for tower in towers
    ]
    for tower, precision, _ in jobs:
        variants = getattr(bundle.manifest, tower).variants
        if precision not in variants:
            raise OptionError(
                f"the bundle has no {precision} for GPUs: {path}: it has {', '.join(variants)}; build it with "
                f"{precision}"
            )
    check = _Check(bundle, recordings)
    if gpu is not None and (not options.compute_capabilities or gpu.compute_capability in options.compute_capabilities):
        _can_verify(gpu)
    results = []
    with cache.writing(bundle) as directory:
        for tower, precision, profiles in jobs:
            variant = getattr(bundle.manifest, tower).variants[precision]
            key = cache.make_key(library, gpu, tower, precision, variant, profiles, options)
            results.append(_one(bundle, directory, library, gpu, key, check, force))
    return results


def verify_engines(path: Path, *, recordings: Path | None = None, device: int = 0) -> list[EngineResult]:
    """Run the engines that a bundle has and that fit this GPU, and record how they do.

    Engines of TensorRT for RTX that were built elsewhere are finished so: what is compiled for this GPU is kept.

    Args:
        path: the bundle's directory, which must be writable.
        recordings: as `build_engines`.
        device: CUDA's number of the GPU.

    Returns:
        A result for each of them.

    Raises:
        BackendError: no engine fits this GPU; a library is missing; or engines miss their bounds. The others have been
            verified then.
    """
    bundle, gpu = open_bundle(path), find_gpu(device)
    check = _Check(bundle, recordings)
    results, reasons, missed = [], [], []
    with cache.writing(bundle) as directory:
        for record in list(cache.records(bundle)):
            key = record.key
            variant = getattr(bundle.manifest, key.tower).variants.get(key.variant)
            if variant is None:
                continue
            library = load_library(key.backend)
            found = cache.misfits(key, library, gpu, variant)
            if found:
                reasons.append(f"{key.variant}, {key.tower}: {'; '.join(found)}")
                continue
            try:
                done, result = _verified(bundle, directory, library, gpu, record, check)
            except _MissedError as error:  # the others are verified too
                missed.append(str(error))
                continue
            results.append(EngineResult(key.tower, key.variant, "verified", done, 0.0, (), result))
    if missed:
        raise BackendError("; and ".join(missed))
    if not results:
        why = ". ".join(reasons) or f"there are none; run claprt engine {path}"
        raise BackendError(f"the bundle has no engine for this GPU: {gpu.name}: {why}")
    return results


def _verified(
    bundle: Bundle, directory: Path, library: Library, gpu: Gpu, record: EngineRecord, check: _Check
) -> tuple[EngineRecord, dict[str, Any]]:
    """Run an engine of the cache, and note how it does. One that misses and is for this GPU alone is removed."""
    engine = open_engine(bundle, record, library, gpu)
    try:
        result = {**check(engine, record.key.tower, record.key.variant), "driver": gpu.driver}
    except _MissedError as error:
        if record.key.gpu is not None:
            cache.remove(directory, record)
        else:
            cache.note_verification(directory, record, gpu, {"missed": str(error.comparison), "driver": gpu.driver})
        raise
    return cache.note_verification(directory, record, gpu, result, _compiled(engine)), result


class _MissedError(BackendError):
    """An engine misses its bound."""

    def __init__(self, message: str, comparison: Comparison) -> None:
        super().__init__(message)
        self.comparison = comparison


def _compiled(engine: DeviceEngine) -> bytes:
    """What TensorRT for RTX has compiled for an engine on this GPU."""
    compiled: bytes = engine.tower.compiled_here()  # type: ignore[attr-defined]
    return compiled


def _one(
    bundle: Bundle, directory: Path, library: Library, gpu: Gpu | None, key: EngineKey, check: _Check, force: bool
) -> EngineResult:
    variant = getattr(bundle.manifest, key.tower).variants[key.variant]
    here = gpu if gpu is not None and not cache.misfits(key, library, gpu, variant) else None
    record = None if force else _existing(bundle, key)
    if record is None:
        return _new(bundle, directory, library, gpu, here, key, check)
    known = None if here is None else record.verification.get(here.name)
    if here is None or _holds(known, here):
        return EngineResult(key.tower, key.variant, "there already", record, 0.0, (), known)
    record, result = _verified(bundle, directory, library, here, record, check)
    return EngineResult(key.tower, key.variant, "verified", record, 0.0, (), result)


def _new(
    bundle: Bundle,
    directory: Path,
    library: Library,
    gpu: Gpu | None,
    here: Gpu | None,
    key: EngineKey,
    check: _Check,
) -> EngineResult:
    """Build an engine, run it if it runs here, and only then put it into the cache."""
    variant = getattr(bundle.manifest, key.tower).variants[key.variant]
    for entry in variant.files:
        bundle.verified(entry)
    timings = cache.timing_file(directory, library, gpu) if gpu is not None and not library.rtx else None
    start = time.perf_counter()
    built = build_plan(
        library,
        bundle.located(variant),
        key.profiles,
        key.options,
        title=f"{key.tower} {key.variant}",
        timings=timings.read_bytes() if timings is not None and timings.is_file() else b"",
        current=_current(gpu),
    )
    seconds = time.perf_counter() - start
    if timings is not None and built.timings:
        cache.write_atomically(timings, built.timings)
    result, compiled = None, b""
    if here is not None:
        engine = start_engine(bundle, key, built.plan, b"", library, here)
        result = {**check(engine, key.tower, key.variant), "driver": here.driver}
        compiled = _compiled(engine)
    provenance = {
        "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "warnings": list(built.warnings),
    }
    record = cache.store(directory, key, built.plan, provenance)
    if here is not None and result is not None:
        record = cache.note_verification(directory, record, here, result, compiled)
    return EngineResult(key.tower, key.variant, "built", record, seconds, built.warnings, result)


def _holds(known: Mapping[str, Any] | None, gpu: Gpu) -> bool:
    """Whether a verification is one of this GPU with this driver."""
    return known is not None and known.get("driver") == gpu.driver and type(known.get("worst_cosine")) is float


def _current(gpu: Gpu | None) -> Callable[[], AbstractContextManager[None]]:
    """Makes the GPU the current one of a thread: the library builds for that."""
    if gpu is None:
        return contextlib.nullcontext
    with explained("starting CUDA"):
        return open_launcher(gpu.index).current


def _can_verify(gpu: Gpu) -> None:
    """Find out before a build of minutes what its verification would lack.

    Raises:
        BackendError: ONNX Runtime or the log-Mel kernel cannot be used.
    """
    choose_backend("ort-cpu")
    reason = why_unavailable(gpu.index)
    if reason is not None:
        raise BackendError(f"engines cannot be verified here: {reason}")


def _existing(bundle: Bundle, key: EngineKey) -> EngineRecord | None:
    """The engine of this key, if the cache has it whole."""
    try:
        record = cache.read_record(bundle, key.name)
        cache.read_plan(bundle, record)
    except BackendError:
        return None
    return record


def _gpu(library: Library, options: BuildOptions, device: int) -> Gpu | None:
    """The GPU; None where it is not needed to build and there is none, or it is not one that is built for."""
    if not options.compute_capabilities:
        return find_gpu(device)
    try:
        return find_gpu(device)
    except BackendError:
        return None


def _profiles(bundle: Bundle, tower: str, batches: Sequence[int], tokens: Sequence[int]) -> tuple[Profile, ...]:
    if tower == "audio":
        return audio_profiles(bundle.manifest, batches)
    return text_profiles(bundle.manifest, batches, tokens)


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise OptionError(f"unknown {what}: {name!r}; choose of {', '.join(known)}")
    if not given:
        raise OptionError(f"no {what} was given; choose of {', '.join(known)}")


class _Check:
    """Compares engines with the FP32 graphs in ONNX Runtime, which are run once."""

    def __init__(self, bundle: Bundle, recordings: Path | None) -> None:
        self._bundle, self._recordings = bundle, recordings
        self._sounds: list[NDArray[np.float32]] = []
        self._reference: dict[str, NDArray[np.float32]] = {}

    def __call__(self, engine: DeviceEngine, tower: str, variant: str) -> dict[str, Any]:
        """The comparison, for people.

        Raises:
            BackendError: the bound is missed; the message names the worst input.
        """
        manifest = self._bundle.manifest
        if tower not in self._reference:
            self._reference[tower] = self._expected(tower)
        embed = self._embed_sounds if tower == "audio" else self._embed_texts
        inputs, found = embed(engine)
        reference = self._reference[tower]
        # Inputs that were run more than once would make the others look alike.
        cross = Comparison.of(reference, reference).mean_cross_cosine
        comparison = replace(Comparison.of(found, reference[inputs]), mean_cross_cosine=cross)
        bound = float(getattr(BOUNDS[variant], tower))
        # An FP32 engine adds up in another order than the CPU: the cosine is the bound, not the largest difference.
        if not comparison.worst_cosine >= bound:
            cosines = np.sum(found.astype(np.float64) * reference[inputs], axis=1)
            worst = inputs[int(np.argmin(np.nan_to_num(cosines, nan=-np.inf)))]
            name = sound_names(self._recordings)[worst] if tower == "audio" else repr(verification_texts()[worst])
            raise _MissedError(
                f"the {variant} engine of the {tower} tower misses its bound and is not kept: {comparison}; needed: "
                f"worst cosine >= {bound}; the worst is {name}; run this tower on ONNX Runtime, and please report it",
                comparison,
            )
        return {"space_id": manifest.model.space_id, **asdict(comparison)}

    def _waveforms(self) -> list[NDArray[np.float32]]:
        if not self._sounds:
            _, self._sounds = verification_sounds(self._bundle.manifest.audio.log_mel, self._recordings)
        return self._sounds

    def _expected(self, tower: str) -> NDArray[np.float32]:
        """The FP32 graph's vectors, on the CPU."""
        clap = load_variant(self._bundle.path, "fp32")
        if tower == "text":
            return clap.embed_text(verification_texts())
        return self._over_sounds(lambda sound, recipe: clap.embed_audio(sound, recipe=recipe)[0], "FP32 on the CPU")

    def _embed_sounds(self, engine: DeviceEngine) -> _Vectors:
        """Each sound alone, and as many as each of the engine's batches takes: every profile runs."""
        info = self._bundle.manifest.audio
        embedder = AudioEmbedder(GpuClips(engine, info), info, self._bundle.manifest.model.embedding_dim)
        waveforms = self._waveforms()
        inputs = list(range(len(waveforms)))
        found = [self._over_sounds(lambda sound, recipe: embedder.embed([sound], None, recipe)[1][0], "engine")]
        for batch in engine.tower.steps[1:]:
            some = [index % len(waveforms) for index in range(batch)]
            recipe = "fusion" if info.fusion else "head"  # which are the same for sounds up to a clip
            found.append(embedder.embed([waveforms[index] for index in some], None, recipe)[1])
            inputs += some
        return inputs, np.concatenate(found)

    def _over_sounds(
        self, embed: Callable[[NDArray[np.float32], str], NDArray[np.float32]], title: str
    ) -> NDArray[np.float32]:
        info, found = self._bundle.manifest.audio, []
        with Progress(title, total=len(self._waveforms()), unit="sound") as bar:
            for waveform in self._waveforms():
                found.append(embed(waveform, compared_recipe(info.log_mel, info.fusion, waveform)))
                bar.advance()
        return np.stack(found)

    def _embed_texts(self, engine: DeviceEngine) -> _Vectors:
        """Each text alone, and for each profile as many as it takes, padded to the longest that it takes."""
        info = self._bundle.manifest.text
        tokenizer = Tokenizer(self._bundle.verified(info.tokenizer), info)
        tokens = [tokenizer([text])[0].shape[1] for text in verification_texts()]
        inputs, found = [], []
        runs = [([index], tokens[index]) for index in range(len(tokens))]
        for profile in engine.tower.profiles:  # type: ignore[attr-defined]
            rows, length = profile.shapes["input_ids"][2]
            fitting = [index for index, count in enumerate(tokens) if count <= length]
            runs.append(([fitting[row % len(fitting)] for row in range(rows)], length))
        for some, length in runs:
            ids, mask = tokenizer([verification_texts()[index] for index in some], multiple=length)
            found.append(engine.run({"input_ids": ids, "attention_mask": mask}))
            inputs += some
        return inputs, np.concatenate(found)


_Vectors = tuple[list[int], NDArray[np.float32]]  # vectors, and the index of the input that each is of
