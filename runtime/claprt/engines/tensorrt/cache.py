"""Plans on disk, in the bundle's own directory, by everything that they depend on.

    bundle/engines/<key>/engine.json   the key in full, the plan's name, size and SHA-256, how it was verified
    bundle/engines/<key>/<hash>.plan   the serialized engine

A plan is machine code. It is loaded only from here, only when its hash is the recorded one, and only where each part of
its key fits: what does not is said by name. `engine.json` is replaced in one step, last of all: a reader sees the old
engine or the new one. One process builds at a time; others wait, and then find what it built.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from claprt.bundle import Bundle
from claprt.engines.tensorrt.build import BuildOptions
from claprt.engines.tensorrt.library import Library, version_numbers
from claprt.engines.tensorrt.profiles import Profile, Shape
from claprt.errors import BackendError, BundleError
from claprt.gpu import Gpu
from claprt.manifest import FileEntry, Variant, strict_json

ENGINES_DIR = "engines"
LOCK = ".lock"
_RECORD = "engine.json"
_FORMAT, _SCHEMA = "claprt-engine", 1
_RECORD_MAX_BYTES = 4 << 20
_TEMPORARY = ".tmp-"
_BACKENDS, _TOWERS = ("tensorrt", "tensorrt-rtx"), ("audio", "text")


@dataclass(frozen=True)
class EngineKey:
    """Everything that a plan depends on.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        version: of the library.
        tower: "audio" or "text".
        variant: of the graph: "fp32", "fp16" or "int8".
        graph_sha256: of the graph and the weights beside it.
        compute_capabilities: of the GPUs that it was built for.
        gpu: the GPU's name; None if it is for a class of GPUs.
        driver: its major version; None likewise.
        profiles: shapes, as `Profile.shapes`.
        options: as `BuildOptions`.
    """

    backend: str
    version: str
    tower: str
    variant: str
    graph_sha256: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    driver: str | None
    profiles: tuple[Profile, ...]
    options: BuildOptions

    @property
    def name(self) -> str:
        """Name of its directory: the first 16 hex digits of the hash of all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As `engine.json` has it."""
        values = {name: getattr(self, name) for name in ("backend", "version", "tower", "variant", "graph_sha256")}
        return {
            **values,
            "compute_capabilities": list(self.compute_capabilities),
            "gpu": self.gpu,
            "driver": self.driver,
            "profiles": [
                {name: [list(shape) for shape in shapes] for name, shapes in profile.shapes.items()}
                for profile in self.profiles
            ],
            "options": {**asdict(self.options), "compute_capabilities": list(self.options.compute_capabilities)},
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EngineKey:
        """The reverse; raises KeyError, TypeError or ValueError for what is none."""
        texts = {name: _text(values[name]) for name in ("backend", "version", "tower", "variant", "graph_sha256")}
        if texts["backend"] not in _BACKENDS or texts["tower"] not in _TOWERS:
            raise ValueError(f"no backend, or no tower: {texts['backend']:.80}, {texts['tower']:.80}")
        profiles = []
        for shapes in values["profiles"]:
            triples = {_text(name): [_shape(shape) for shape in three] for name, three in shapes.items()}
            if not triples or any(len(three) != 3 for three in triples.values()):
                raise ValueError("a profile without three shapes")
            profiles.append(Profile({name: (three[0], three[1], three[2]) for name, three in triples.items()}))
        return EngineKey(
            **texts,
            compute_capabilities=tuple(_text(one) for one in values["compute_capabilities"]),
            gpu=None if values["gpu"] is None else _text(values["gpu"]),
            driver=None if values["driver"] is None else _text(values["driver"]),
            profiles=tuple(profiles),
            options=_options(values["options"]),
        )


@dataclass(frozen=True)
class EngineRecord:
    """An engine in the cache.

    Attributes:
        key: what it was built from and for.
        plan: the file, relative to the bundle, with size and hash.
        verification: by GPU, how its vectors compare with the FP32 graph's; empty if it has not run yet.
        provenance: seconds, date, warnings of the library; for people.
    """

    key: EngineKey
    plan: FileEntry
    verification: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def graph_hash(variant: Variant) -> str:
    """SHA-256 over the SHA-256s of a variant's graph and the weights beside it."""
    return hashlib.sha256("\n".join(entry.sha256 for entry in variant.files).encode()).hexdigest()


def make_key(
    library: Library,
    gpu: Gpu | None,
    tower: str,
    name: str,
    variant: Variant,
    profiles: Sequence[Profile],
    options: BuildOptions,
) -> EngineKey:
    """The key of an engine that would be built now. `gpu` may be None only where `options` says what to build for."""
    general = bool(library.rtx or options.hardware_compatible)
    if options.compute_capabilities:
        capabilities = tuple(sorted(set(options.compute_capabilities), key=version_numbers))
        options = replace(options, compute_capabilities=capabilities)
    else:
        assert gpu is not None
        capabilities = (gpu.compute_capability,)
    return EngineKey(
        backend=library.backend,
        version=library.version,
        tower=tower,
        variant=name,
        graph_sha256=graph_hash(variant),
        compute_capabilities=capabilities,
        gpu=None if general or gpu is None else gpu.name,
        driver=None if general or gpu is None else gpu.driver,
        profiles=tuple(profiles),
        options=options,
    )


def misfits(key: EngineKey, library: Library, gpu: Gpu, variant: Variant) -> list[str]:
    """Which parts of a key do not fit here, each as "part: the engine's, and what is here"; [] if it can run."""
    found = []
    if key.graph_sha256 != graph_hash(variant):
        found.append("graph: it was built from another one; the bundle has changed")
    built, here = version_numbers(key.version), version_numbers(library.version)
    later = key.options.version_compatible and built[:1] == here[:1] and built <= here
    if key.version != library.version and not later:
        found.append(f"version of {library.title.rpartition(' ')[0]}: {key.version}, here {library.version}")
    if key.options.hardware_compatible:
        if version_numbers(gpu.compute_capability) < (8, 0):
            found.append(f"compute capability: 8.0 or later, here {gpu.compute_capability}")
    elif gpu.compute_capability not in key.compute_capabilities:
        found.append(f"compute capability: {', '.join(key.compute_capabilities)}, here {gpu.compute_capability}")
    if key.gpu is not None and key.gpu != gpu.name:
        found.append(f"GPU: {key.gpu}, here {gpu.name}")
    if key.driver is not None and key.driver != gpu.driver:
        found.append(f"driver: {key.driver}, here {gpu.driver}")
    return found


def names(bundle: Bundle) -> list[str]:
    """The directories of the engines that the bundle has, in order; whole engines or not."""
    try:
        return sorted(entry.name for entry in (bundle.path / ENGINES_DIR).iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def records(bundle: Bundle) -> Iterator[EngineRecord]:
    """All engines that the bundle has, by name of directory. What cannot be read is left out: it is never loaded.

    `survey` says what is wrong with those.
    """
    for name in names(bundle):
        with contextlib.suppress(BackendError):
            yield read_record(bundle, name)


def has_record(bundle: Bundle, name: str) -> bool:
    """Whether there is anything in the place of a record, damaged or not."""
    return os.path.lexists(bundle.path / ENGINES_DIR / name / _RECORD)


def read_record(bundle: Bundle, name: str) -> EngineRecord:
    """The engine in directory `name`.

    Raises:
        BackendError: there is none, or its record is damaged.
    """
    return _read(bundle.path / ENGINES_DIR / name)


def _read(folder: Path) -> EngineRecord:
    path, name = folder / _RECORD, folder.name
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, "there is no such file")
        with path.open("rb") as stream:
            data = stream.read(_RECORD_MAX_BYTES + 1)
        if len(data) > _RECORD_MAX_BYTES:
            raise ValueError("it is too large to be one")
        values = strict_json(data.decode("utf-8"))
        if (values["format"], values["schema_version"]) != (_FORMAT, _SCHEMA):
            raise ValueError(f"format {values['format']!r:.80}, version {values['schema_version']!r:.80}")
        key = EngineKey.from_json(values["key"])
        if key.name != name:
            raise ValueError(f"it is the record of {key.name}")
        plan = values["plan"]
        entry = FileEntry(file=_text(plan["file"]), sha256=_text(plan["sha256"]), bytes=_count(plan["bytes"]))
        if entry.file != f"{ENGINES_DIR}/{name}/{entry.sha256[:16]}.plan":
            raise ValueError(f"its plan has another name: {entry.file!r:.80}")
        verification = {_text(gpu): dict(result.items()) for gpu, result in values["verification"].items()}
        return EngineRecord(key, entry, verification, dict(values["provenance"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise BackendError(
            f"the record of an engine cannot be used: {path}: {reason:.200}; delete {folder} and run claprt engine"
        ) from error


def read_engine(bundle: Bundle, record: EngineRecord) -> tuple[EngineRecord, bytes]:
    """A record and its plan; the ones that have taken their place, if another process has just built them again.

    Raises:
        BackendError: as `read_plan`.
    """
    path, seen = bundle.path / ENGINES_DIR / record.key.name / _RECORD, None
    while True:
        try:
            return record, read_plan(bundle, record)
        except BackendError:  # noqa: PERF203
            stamp = _stamp(path)
            if stamp is None or stamp == seen:
                raise
            seen, record = stamp, read_record(bundle, record.key.name)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that has replaced it; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def read_plan(bundle: Bundle, record: EngineRecord) -> bytes:
    """The plan's bytes, after their hash was found to be the recorded one.

    Raises:
        BackendError: the file is missing, outside of the bundle, cannot be read, or has another size or hash.
    """
    fix = f"delete {bundle.path / ENGINES_DIR / record.key.name} and run claprt engine again"
    try:
        path = bundle.located(record.plan)
        data = path.read_bytes()
    except BundleError as error:
        reason = str(error).rpartition("; ")[0].replace("the manifest", "its record")
        raise BackendError(f"the engine cannot be used: {reason}; {fix}") from error
    except OSError as error:
        raise BackendError(f"the engine cannot be read: {error.filename}: {error.strerror}; {fix}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != record.plan.sha256:
        raise BackendError(f"wrong hash: {path}: sha256 {found}, recorded is {record.plan.sha256}; {fix}")
    return data


def read_compiled(bundle: Bundle, record: EngineRecord, gpu: Gpu) -> bytes:
    """What TensorRT for RTX has compiled for this GPU and driver; b"" if there is nothing, or not what is recorded.

    It only saves time: the library compiles again what it does not have.
    """
    noted = record.verification.get(gpu.name, {}).get("compiled")
    if not isinstance(noted, Mapping) or noted.get("driver") != gpu.driver:
        return b""
    path = bundle.path / ENGINES_DIR / record.key.name / _compiled_name(gpu)
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    return data if hashlib.sha256(data).hexdigest() == noted.get("sha256") else b""


@contextlib.contextmanager
def writing(bundle: Bundle) -> Iterator[Path]:
    """The engines' directory, for this process alone; another one that writes is waited for.

    Raises:
        BackendError: the directory cannot be written.
    """
    directory = bundle.path / ENGINES_DIR
    try:
        directory.mkdir(exist_ok=True)
        if directory.is_symlink():  # what is written there would be outside, and never be loaded
            raise BackendError(f"engines cannot be written: {directory} is a symbolic link; put a directory there")
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BackendError(
            f"engines cannot be written: {directory}: {error.strerror}; make the bundle's directory writable"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, or the process ends
        _tidy(directory)
        yield directory
    finally:
        os.close(lock)


def _tidy(directory: Path) -> None:
    """Remove what processes left that were killed."""
    with contextlib.suppress(OSError):  # it is only in the way
        for path in directory.glob(f"{_TEMPORARY}*"):
            path.unlink()
        for folder in directory.iterdir():
            if re.fullmatch("[0-9a-f]{16}", folder.name) and not folder.is_symlink():
                _tidy_folder(folder)


def _tidy_folder(folder: Path) -> None:
    """Remove temporary files, and plans that the record does not name; all of it, if there is no record."""
    if not (folder / _RECORD).exists():
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        kept = Path(_read(folder).plan.file).name
    except BackendError:  # whoever is told to delete it finds all of it
        return
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(_TEMPORARY) or (path.suffix == ".plan" and path.name != kept):
                path.unlink()


def store(directory: Path, key: EngineKey, plan: bytes, provenance: Mapping[str, Any]) -> EngineRecord:
    """Keep a plan, inside of `writing`. It replaces one of the same key.

    Raises:
        BackendError: the disk is full, or the like. Nothing half-written stays.
    """
    sha256 = hashlib.sha256(plan).hexdigest()
    folder = directory / key.name
    entry = FileEntry(file=f"{ENGINES_DIR}/{key.name}/{sha256[:16]}.plan", sha256=sha256, bytes=len(plan))
    record = EngineRecord(key, entry, {}, dict(provenance))
    try:
        if folder.is_symlink():  # else what is written would be outside of the bundle
            folder.unlink()
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{sha256[:16]}.plan", plan)
        _write_record(folder, record)
    except BaseException as error:
        _tidy_folder(folder)
        if isinstance(error, OSError):
            raise BackendError(
                f"the engine cannot be written: {folder}: {error.strerror}; it takes {len(plan) / 1e6:.0f} MB"
            ) from error
        raise
    _tidy_folder(folder)
    return record


def note_verification(
    directory: Path, record: EngineRecord, gpu: Gpu, result: Mapping[str, Any], compiled: bytes = b""
) -> EngineRecord:
    """Record, inside of `writing`, how an engine did on a GPU, and keep what was compiled there.

    Raises:
        BackendError: it cannot be written.
    """
    noted = dict(result)
    if compiled:
        noted["compiled"] = {"sha256": hashlib.sha256(compiled).hexdigest(), "driver": gpu.driver}
    changed = replace(record, verification={**record.verification, gpu.name: noted})
    folder = directory / record.key.name
    try:
        if compiled:
            write_atomically(folder / _compiled_name(gpu), compiled)
        _write_record(folder, changed)
    except OSError as error:
        raise BackendError(f"the engine's record cannot be written: {directory}: {error.strerror}") from error
    return changed


def remove(directory: Path, record: EngineRecord) -> None:
    """Remove an engine, inside of `writing`.

    Raises:
        BackendError: it cannot be removed.
    """
    folder = directory / record.key.name
    try:
        (folder / _RECORD).unlink(missing_ok=True)  # without it there is no engine
    except OSError as error:
        raise BackendError(f"the engine cannot be removed: {folder}: {error.strerror}; remove it by hand") from error
    _tidy_folder(folder)


def timing_file(directory: Path, library: Library, gpu: Gpu) -> Path:
    """Where the timing cache of this library on this GPU with this driver is kept."""
    what = f"{library.version} {gpu.name} {gpu.compute_capability} {gpu.driver}"
    name = hashlib.sha256(what.encode()).hexdigest()[:16]
    return directory / f".timing-{name}.cache"


def _compiled_name(gpu: Gpu) -> str:
    return f"compiled-{hashlib.sha256(gpu.name.encode()).hexdigest()[:16]}.cache"


def _write_record(folder: Path, record: EngineRecord) -> None:
    values = {
        "format": _FORMAT,
        "schema_version": _SCHEMA,
        "key": record.key.to_json(),
        "plan": {"file": record.plan.file, "sha256": record.plan.sha256, "bytes": record.plan.bytes},
        "verification": record.verification,
        "provenance": record.provenance,
    }
    write_atomically(folder / _RECORD, (json.dumps(values, indent=2) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.80} is no count")
    return value


def _shape(values: Any) -> Shape:
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.80} is no shape")
    return tuple(_count(size) for size in values)


def _options(values: Mapping[str, Any]) -> BuildOptions:
    """`BuildOptions` of JSON, each of its own type."""
    found = dict(values)
    found["compute_capabilities"] = tuple(_text(one) for one in found["compute_capabilities"])
    options = BuildOptions(**found)
    for name in ("hardware_compatible", "version_compatible"):
        if type(getattr(options, name)) is not bool:
            raise TypeError(f"{name} is neither true nor false")
    for name in ("workspace_mib", "optimization_level"):
        if getattr(options, name) is not None:
            _count(getattr(options, name))
    return options
