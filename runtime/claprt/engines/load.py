"""The engine of one tower of a bundle, on a backend that was chosen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from claprt.bundle import Bundle
from claprt.engines.base import Engine
from claprt.errors import BackendError, ClaprtWarning
from claprt.manifest import AudioInfo, TextInfo

if TYPE_CHECKING:
    from claprt.engines.device import DeviceEngine
    from claprt.engines.tensorrt.cache import EngineKey, EngineRecord
    from claprt.engines.tensorrt.library import Library
    from claprt.gpu import Gpu

TOWERS = ("audio", "text")
# Backends of the module `claprt.engines.tensorrt`.
TENSORRT = ("tensorrt", "tensorrt-rtx")


def tower_inputs(info: AudioInfo | TextInfo) -> tuple[str, ...]:
    """The inputs that the bundle format gives a tower."""
    if isinstance(info, TextInfo):
        return "input_ids", "attention_mask"
    return ("input_features", "is_longer") if info.fusion else ("input_features",)


def load_engine(
    bundle: Bundle,
    tower: str,
    variant: str,
    backend: str,
    *,
    device: int = 0,
    threads: int | None = None,
    steps: tuple[int, ...] | None = None,
) -> Engine:
    """Make the engine of one tower.

    Args:
        bundle: an opened bundle.
        tower: "audio" or "text".
        variant: of the tower.
        backend: of `choose_backend`.
        device: CUDA's number of the GPU.
        threads: of one run on the CPU; None takes the cores that this process may use.
        steps: batches that "ort-cuda" gets memory for, ascending; None takes its own. Engines have theirs.

    Raises:
        BundleError: a file is missing, has another hash, or is not this tower.
        BackendError: the backend fails, or there is no engine that was built for here.
    """
    info: AudioInfo | TextInfo = getattr(bundle.manifest, tower)
    dim, inputs = bundle.manifest.model.embedding_dim, tower_inputs(info)
    entries = info.variants[variant].files
    if backend in TENSORRT:
        return _tensorrt(bundle, tower, variant, backend, device)
    files = [bundle.located(entry) for entry in entries]
    if backend == "ort-cpu":
        from claprt.engines.ort import OrtEngine, quantizes_half

        if variant == "int8" and not quantizes_half():
            raise BackendError(
                f"this ONNX Runtime computes the variant int8 wrong on a CPU (before 1.30 it cuts off what it should "
                f"round): {bundle.path}; build the bundle again, which gives int8-cpu, or install onnxruntime>=1.30"
            )
        # The engine notes what the files are before they are hashed, and looks again when it reads them.
        engine = OrtEngine(files, inputs, dim, threads)
        for entry in entries:
            bundle.verified(entry)
        return engine
    from claprt.engines.device import DeviceEngine, explained
    from claprt.engines.ort_cuda import STEPS, OrtCudaTower
    from claprt_kernels import open_launcher

    for entry in entries:
        bundle.verified(entry)
    limits: dict[str, tuple[int, ...]] = (
        dict.fromkeys(inputs, (info.max_tokens,))
        if isinstance(info, TextInfo)
        else {"input_features": (info.channels, info.log_mel.frames, info.log_mel.n_mels), "is_longer": (1,)}
    )
    with explained("starting CUDA"):
        launcher = open_launcher(device)
        tower_there = OrtCudaTower(launcher, files, inputs, dim, limits, steps or STEPS)
        return DeviceEngine(launcher, tower_there, dim)


def why_no_engine(bundle: Bundle, tower: str, variant: str, backend: str, device: int = 0) -> str | None:
    """Why a tower cannot run on a backend that is usable here; None if it can.

    Raises:
        BackendError: there is no GPU, or no library; `backend_status` says so too.
    """
    if backend not in TENSORRT:
        return None
    from claprt.engines.tensorrt.library import load_library
    from claprt.gpu import find_gpu

    found = find_engine(bundle, tower, variant, load_library(backend), find_gpu(device))
    return found if isinstance(found, str) else None


def find_engine(bundle: Bundle, tower: str, variant: str, library: Library, gpu: Gpu) -> EngineRecord | str:
    """The engine in the bundle that fits here, or why there is none and the command that makes one.

    Of several, those for this GPU alone come first, and of these the one that was built last.
    """
    from claprt.engines.tensorrt.build import builds_for
    from claprt.engines.tensorrt.cache import misfits, records

    graph = getattr(bundle.manifest, tower).variants[variant]
    ours = [record for record in records(bundle) if (record.key.backend, record.key.tower) == (library.backend, tower)]
    same = [record for record in ours if record.key.variant == variant]
    fitting = [record for record in same if not misfits(record.key, library, gpu, graph)]
    if fitting:
        return max(fitting, key=lambda one: (one.key.gpu is not None, str(one.provenance.get("built", ""))))
    command = f"claprt engine {bundle.path} --precision {variant}{' --rtx' if library.rtx else ''}"
    if same:
        nearest = min((misfits(record.key, library, gpu, graph) for record in same), key=len)
        return (
            f"the bundle's {variant} engine of the {tower} tower is for elsewhere: {'; '.join(nearest)}; run {command}"
        )
    if library.rtx and not builds_for(library, gpu.compute_capability):
        return f"{library.title} does not run on compute capability {gpu.compute_capability}; use tensorrt, or ort-cuda"
    others = sorted({record.key.variant for record in ours})
    also = f" (there is one for {', '.join(others)})" if others else ""
    return f"the bundle has no {variant} engine of the {tower} tower{also}; run {command}"


def _tensorrt(bundle: Bundle, tower: str, variant: str, backend: str, device: int) -> Engine:
    from claprt.engines.tensorrt.library import load_library
    from claprt.gpu import find_gpu

    library, gpu = load_library(backend), find_gpu(device)
    record = find_engine(bundle, tower, variant, library, gpu)
    if isinstance(record, str):
        raise BackendError(record)
    known = record.verification.get(gpu.name, {})
    if "missed" in known and known.get("driver") == gpu.driver:
        raise BackendError(
            f"this engine missed its bound on this GPU: {record.plan.file}, {gpu.name}: {known['missed']}; use ort-cuda"
        )
    if known.get("driver") != gpu.driver:
        where = f"{gpu.name} with driver {gpu.driver}" if known else gpu.name
        warnings.warn(
            f"this engine has not been verified on this GPU: {record.plan.file}, {where}; run claprt engine "
            f"{bundle.path} --verify, which compares it with the FP32 graph",
            ClaprtWarning,
            stacklevel=2,
        )
    return open_engine(bundle, record, library, gpu)


def open_engine(bundle: Bundle, record: EngineRecord, library: Library, gpu: Gpu) -> DeviceEngine:
    """Load an engine of the cache onto a GPU.

    Raises:
        BundleError, BackendError: as `load_engine`.
    """
    from claprt.engines.tensorrt.cache import read_compiled, read_engine

    record, plan = read_engine(bundle, record)
    return start_engine(bundle, record.key, plan, read_compiled(bundle, record, gpu), library, gpu)


def start_engine(
    bundle: Bundle, key: EngineKey, plan: bytes, compiled: bytes, library: Library, gpu: Gpu
) -> DeviceEngine:
    """Load a plan onto a GPU. It is code: it must have been built here, or come from the cache.

    Args:
        bundle: that it was built for.
        key: of the plan.
        plan: the serialized engine.
        compiled: what TensorRT for RTX compiled for this GPU before; b"" for nothing.
        library: that built it.
        gpu: to run on.

    Raises:
        BackendError: the GPU or the library fails, or the plan is not of this tower.
    """
    from claprt.engines.device import DeviceEngine, explained
    from claprt.engines.tensorrt.runner import TensorRtTower
    from claprt_kernels import open_launcher

    info: AudioInfo | TextInfo = getattr(bundle.manifest, key.tower)
    dim, host_code = bundle.manifest.model.embedding_dim, key.options.version_compatible
    with explained("starting CUDA"):
        launcher = open_launcher(gpu.index)
        tower = TensorRtTower(library, launcher, plan, tower_inputs(info), dim, host_code=host_code, compiled=compiled)
        return DeviceEngine(launcher, tower, dim)
