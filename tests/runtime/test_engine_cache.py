"""Engines on disk: what is damaged, forged or for elsewhere is never loaded, and no moment leaves half of one."""

from __future__ import annotations

import enum
import errno
import hashlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from claprt.bundle import Bundle, open_bundle
from claprt.engines.load import find_engine
from claprt.engines.tensorrt import cache
from claprt.engines.tensorrt.build import BuildOptions
from claprt.engines.tensorrt.cache import EngineKey, EngineRecord
from claprt.engines.tensorrt.library import Library
from claprt.engines.tensorrt.profiles import Profile
from claprt.errors import BackendError
from claprt.gpu import Gpu
from claprt.manifest import FileEntry, Manifest, Variant

ROOT = Path(__file__).resolve().parents[2]
GPU = Gpu(index=0, name="NVIDIA L4", compute_capability="8.9", driver="580", cuda="13.0", memory_bytes=24 << 30)
TENSORRT = Library("tensorrt", ModuleType("tensorrt"), "10.14.1.48")
RTX = Library("tensorrt-rtx", ModuleType("tensorrt_rtx"), "1.7.1.116")
GRAPH = Variant("audio.fp16.onnx", "ab" * 32, 1000, (FileEntry("audio.fp16.data", "cd" * 32, 2000),))
PROFILE = Profile({"input_features": ((1, 1, 1001, 64), (8, 1, 1001, 64), (8, 1, 1001, 64))})
OTHER_PROFILE = Profile({"input_features": ((1, 1, 1001, 64), (1, 1, 1001, 64), (1, 1, 1001, 64))})
PLAN, OTHER_PLAN = b"a plan" * 1000, b"another plan" * 900


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """An empty one; the cache asks it for no more than its path."""
    return empty(tmp_path)


def empty(path: Path) -> Bundle:
    return Bundle(path, cast(Manifest, None))


def key_for(library: Library = TENSORRT, options: BuildOptions | None = None, gpu: Gpu | None = GPU) -> EngineKey:
    return cache.make_key(library, gpu, "audio", "fp16", GRAPH, [PROFILE, OTHER_PROFILE], options or BuildOptions())


def stored(bundle: Bundle, plan: bytes = PLAN, key: EngineKey | None = None) -> EngineRecord:
    with cache.writing(bundle) as directory:
        return cache.store(directory, key or key_for(), plan, {"built": "2026-01-01T00:00:00+00:00"})


def files(path: Path) -> dict[str, bytes]:
    """All files and links below a directory, by path; what is a link is shown as its target."""
    return {
        str(found.relative_to(path)): str(found.readlink()).encode() if found.is_symlink() else found.read_bytes()
        for found in sorted(path.rglob("*"))
        if found.is_symlink() or found.is_file()
    }


# The key


CHANGED_OPTIONS: dict[str, Any] = {
    "workspace_mib": 512,
    "optimization_level": 5,
    "hardware_compatible": True,
    "version_compatible": True,
    "compute_capabilities": ("8.9", "12.0"),
}
CHANGED: dict[str, Any] = {
    "backend": "tensorrt-rtx",
    "version": "10.14.1.49",
    "tower": "text",
    "variant": "fp32",
    "graph_sha256": "00" * 32,
    "compute_capabilities": ("8.6",),
    "gpu": "NVIDIA L40S",
    "driver": "590",
    "profiles": (PROFILE,),
    "options": BuildOptions(optimization_level=1),
}


def test_every_part_of_a_key_changes_its_name() -> None:
    """What is not part of the name would be taken for another engine. A new part needs its case here."""
    assert set(CHANGED) == {part.name for part in fields(EngineKey)}
    assert set(CHANGED_OPTIONS) == {option.name for option in fields(BuildOptions)}
    key = key_for()
    changed = [replace(key, **{part: value}) for part, value in CHANGED.items()]
    changed += [replace(key, options=BuildOptions(**{option: value})) for option, value in CHANGED_OPTIONS.items()]
    changed += [replace(key, gpu=None), replace(key, driver=None), replace(key, profiles=(OTHER_PROFILE, PROFILE))]
    shapes = PROFILE.shapes["input_features"]
    changed.append(replace(key, profiles=(Profile({"input_features": (shapes[0], shapes[0], shapes[2])}),)))
    changed.append(replace(key, profiles=(Profile({"other": shapes}),)))
    assert len({one.name for one in (key, *changed)}) == 1 + len(changed)


@pytest.mark.parametrize(
    "key",
    [
        key_for(),
        key_for(options=BuildOptions(512, 3, True, True)),
        key_for(RTX, BuildOptions(compute_capabilities=("8.6", "12.0")), gpu=None),
        replace(key_for(), gpu="Größe “1”", profiles=()),
    ],
    ids=["tensorrt", "options", "rtx", "unusual"],
)
def test_a_key_survives_json(key: EngineKey) -> None:
    again = EngineKey.from_json(json.loads(json.dumps(key.to_json())))
    assert again == key
    assert again.name == key.name


def test_what_a_key_is_made_of() -> None:
    key = key_for()
    assert (key.compute_capabilities, key.gpu, key.driver) == (("8.9",), "NVIDIA L4", "580")
    general = key_for(options=BuildOptions(hardware_compatible=True))
    assert (general.gpu, general.driver) == (None, None)
    assert key_for(RTX).gpu is None
    two = BuildOptions(compute_capabilities=("12.0", "8.6", "8.6"))
    same = BuildOptions(compute_capabilities=("8.6", "12.0"))
    assert key_for(RTX, two, gpu=None) == key_for(RTX, same, gpu=None)
    assert key_for(RTX, same, gpu=None).compute_capabilities == ("8.6", "12.0")  # as numbers, not as text


def test_weights_beside_the_graph_are_part_of_its_hash() -> None:
    other = replace(GRAPH, external_data=(FileEntry("audio.fp16.data", "ce" * 32, 2000),))
    assert len({cache.graph_hash(graph) for graph in (GRAPH, other, replace(GRAPH, external_data=()))}) == 3


# What fits here


@pytest.mark.parametrize(
    ("key", "library", "gpu", "graph", "parts"),
    [
        (key_for(), TENSORRT, GPU, GRAPH, []),
        (key_for(), TENSORRT, GPU, replace(GRAPH, sha256="00" * 32), ["graph: it was built from another one"]),
        (
            key_for(),
            replace(TENSORRT, version="10.15"),
            GPU,
            GRAPH,
            ["version of TensorRT: 10.14.1.48, here 10.15"],
        ),
        (key_for(), TENSORRT, replace(GPU, compute_capability="8.6"), GRAPH, ["compute capability: 8.9, here 8.6"]),
        (key_for(), TENSORRT, replace(GPU, name="NVIDIA L40"), GRAPH, ["GPU: NVIDIA L4, here NVIDIA L40"]),
        (key_for(), TENSORRT, replace(GPU, driver="590"), GRAPH, ["driver: 580, here 590"]),
        (key_for(), TENSORRT, replace(GPU, cuda="13.2", memory_bytes=1, index=1), GRAPH, []),
        (
            key_for(),
            replace(TENSORRT, version="11.0"),
            Gpu(0, "NVIDIA A2", "8.6", "570", "12.8", 1),
            replace(GRAPH, external_data=()),
            ["graph:", "version of TensorRT:", "compute capability:", "GPU:", "driver:"],
        ),
        (key_for(RTX), replace(RTX, version="1.7.1.117"), GPU, GRAPH, ["version of TensorRT for RTX: 1.7.1.116, here"]),
        (key_for(RTX), RTX, replace(GPU, name="NVIDIA L40", driver="590"), GRAPH, []),
    ],
)
def test_misfits_name_each_part(key: EngineKey, library: Library, gpu: Gpu, graph: Variant, parts: list[str]) -> None:
    found = cache.misfits(key, library, gpu, graph)
    assert len(found) == len(parts), found
    assert all(text.startswith(part) for text, part in zip(found, parts, strict=True)), found


@pytest.mark.parametrize(
    ("here", "fits"),
    [
        ("10.14.1.48", True),
        ("10.14.1.49", True),
        ("10.15", True),
        ("10.9.0", False),  # 9 < 14: numbers, not text
        ("10.14.1.47", False),
        ("11.0.0", False),
    ],
)
def test_a_version_compatible_engine_runs_on_later_versions_of_its_major(here: str, fits: bool) -> None:
    key = key_for(options=BuildOptions(version_compatible=True))
    assert (cache.misfits(key, replace(TENSORRT, version=here), GPU, GRAPH) == []) is fits


@pytest.mark.parametrize(("capability", "fits"), [("8.0", True), ("8.9", True), ("12.0", True), ("7.5", False)])
def test_a_hardware_compatible_engine_runs_since_ampere(capability: str, fits: bool) -> None:
    key = key_for(options=BuildOptions(hardware_compatible=True))
    elsewhere = replace(GPU, compute_capability=capability, name="another", driver="600")
    assert (cache.misfits(key, TENSORRT, elsewhere, GRAPH) == []) is fits


def test_the_engine_for_this_gpu_alone_is_liked_better(demo_bundle: Path, tmp_path: Path) -> None:
    """`find_engine` among several that fit; and what it says where none does."""
    manifest = open_bundle(demo_bundle).manifest
    graph = manifest.audio.variants["fp16"]
    bundle = Bundle(tmp_path, manifest)

    def make(options: BuildOptions, gpu: Gpu = GPU, variant: str = "fp16") -> EngineKey:
        return cache.make_key(TENSORRT, gpu, "audio", variant, graph, [PROFILE], options)

    said = find_engine(bundle, "audio", "fp16", TENSORRT, GPU)
    assert said == f"the bundle has no fp16 engine of the audio tower; run claprt engine {tmp_path} --precision fp16"
    stored(bundle, key=make(BuildOptions(), replace(GPU, name="NVIDIA T4", compute_capability="7.5")))
    assert "is for elsewhere: compute capability: 7.5, here 8.9; GPU: NVIDIA T4, here NVIDIA L4; run" in str(
        find_engine(bundle, "audio", "fp16", TENSORRT, GPU)
    )
    stored(bundle, key=make(BuildOptions(hardware_compatible=True)))
    general = find_engine(bundle, "audio", "fp16", TENSORRT, GPU)
    stored(bundle, key=make(BuildOptions()))
    own = find_engine(bundle, "audio", "fp16", TENSORRT, GPU)
    assert isinstance(general, EngineRecord)
    assert isinstance(own, EngineRecord)
    assert (general.key.gpu, own.key.gpu) == (None, GPU.name)
    stored(bundle, key=make(BuildOptions(), variant="int8"))
    assert "no fp32 engine of the audio tower (there is one for fp16, int8); run" in str(
        find_engine(bundle, "audio", "fp32", TENSORRT, GPU)
    )
    assert "no fp16 engine of the text tower; run" in str(find_engine(bundle, "text", "fp16", TENSORRT, GPU))
    setattr(RTX.trt, "ComputeCapability", enum.Enum("ComputeCapability", "CURRENT SM86 SM89"))  # noqa: B010
    assert str(find_engine(bundle, "audio", "fp16", RTX, GPU)).endswith("--precision fp16 --rtx")
    hopper = replace(GPU, compute_capability="9.0")
    assert "1.7.1.116 does not run on compute capability 9.0" in str(find_engine(bundle, "audio", "fp16", RTX, hopper))


# Records


def test_store_and_read(bundle: Bundle) -> None:
    record = stored(bundle)
    assert list(cache.records(bundle)) == [record]
    assert cache.read_engine(bundle, record) == (record, PLAN)
    assert sorted(files(bundle.path)) == [
        "engines/.lock",
        f"engines/{record.key.name}/{hashlib.sha256(PLAN).hexdigest()[:16]}.plan",
        f"engines/{record.key.name}/engine.json",
    ]
    assert (bundle.path / record.plan.file).read_bytes() == PLAN


def test_storing_again_replaces(bundle: Bundle) -> None:
    stored(bundle)
    record = stored(bundle, OTHER_PLAN)
    assert cache.read_engine(bundle, record) == (record, OTHER_PLAN)
    assert len(files(bundle.path)) == 3
    stored(bundle, key=key_for(RTX))
    assert sorted(found.key.backend for found in cache.records(bundle)) == ["tensorrt", "tensorrt-rtx"]


def test_a_verification_is_kept_beside_those_of_other_gpus(bundle: Bundle) -> None:
    other = replace(GPU, name="NVIDIA L40")
    record = stored(bundle)
    with cache.writing(bundle) as directory:
        record = cache.note_verification(directory, record, GPU, {"worst_cosine": 0.9999}, b"compiled")
        record = cache.note_verification(directory, record, other, {"worst_cosine": 0.9998})
    (found,) = cache.records(bundle)
    assert found == record
    assert {name: noted["worst_cosine"] for name, noted in found.verification.items()} == {
        "NVIDIA L4": 0.9999,
        "NVIDIA L40": 0.9998,
    }
    assert cache.read_compiled(bundle, found, GPU) == b"compiled"
    assert cache.read_compiled(bundle, found, other) == b""
    assert cache.read_compiled(bundle, found, replace(GPU, driver="590")) == b""
    (compiled,) = bundle.path.glob("engines/*/compiled-*.cache")
    compiled.write_bytes(b"forged!!")
    assert cache.read_compiled(bundle, found, GPU) == b""
    compiled.unlink()
    assert cache.read_compiled(bundle, found, GPU) == b""


Forge = Callable[[dict[str, Any]], object]


def at(path: str, value: Any) -> Forge:
    """Put a value at a place such as "key/options/workspace_mib"; no value removes it."""

    def forge(document: dict[str, Any]) -> None:
        *above, last = path.split("/")
        for name in above:
            document = document[int(name)] if isinstance(document, list) else document[name]
        document[last] = value

    return forge


# Records with the right name of the directory: what is in them must be refused by itself.
FORGED: dict[str, Forge] = {
    "other-format": at("format", "claprt-bundle"),
    "later-schema": at("schema_version", 2),
    "schema-true": at("schema_version", "1"),
    "no-key": at("key", None),
    "key-list": at("key", []),
    "no-tower": at("key/tower", "model"),
    "no-backend": at("key/backend", "ort-cpu"),
    "version-number": at("key/version", 10),
    "gpu-list": at("key/gpu", ["NVIDIA L4"]),
    "gpu-escapes": at("key/gpu", "NVIDIA\x1b[2J"),
    "line-break": at("key/version", "10.14\nclaprt: all is well"),
    "capabilities-text": at("key/compute_capabilities", [8.9]),
    "no-profiles": at("key/profiles", None),
    "profile-list": at("key/profiles", [[1, 2, 3]]),
    "two-shapes": at("key/profiles", [{"x": [[1], [2]]}]),
    "size-text": at("key/profiles", [{"x": [["1"], [2], [3]]}]),
    "size-half": at("key/profiles", [{"x": [[1.5], [2], [3]]}]),
    "size-negative": at("key/profiles", [{"x": [[-1], [2], [3]]}]),
    "shape-text": at("key/profiles", [{"x": ["111", "111", "111"]}]),
    "option-unknown": at("key/options/quick", True),
    "option-of-another-type": at("key/options/version_compatible", "no"),
    "workspace-text": at("key/options/workspace_mib", "all"),
    "no-plan": at("plan", None),
    "plan-elsewhere": at("plan/file", "../../../etc/passwd"),
    "plan-of-another-engine": at("plan/file", "engines/0000000000000000/0000000000000000.plan"),
    "plan-absolute": at("plan/file", "/etc/passwd"),
    "hash-number": at("plan/sha256", 5),
    "size-of-plan": at("plan/bytes", -1),
    "size-of-plan-text": at("plan/bytes", "6000"),
    "size-true": at("plan/bytes", True),
    "verification-list": at("verification", [["NVIDIA L4", {}]]),
    "verification-text": at("verification", {"NVIDIA L4": "fine"}),
    "provenance-text": at("provenance", "yes"),
}
# Texts in the place of a record.
TEXTS: dict[str, Callable[[str], bytes]] = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2].encode(),
    "not-json": lambda text: b"#!/bin/sh\n",
    "binary": lambda text: bytes(range(256)) * 40,
    "utf-16": lambda text: text.encode("utf-16"),
    "list": lambda text: b"[]",
    "null": lambda text: b"null",
    "nested": lambda text: b"[" * 100_000,
    "nested-whole": lambda text: b'{"format":' * 100_000 + b"1" + b"}" * 100_000,
    "nested-deeply": lambda text: text.replace('"built": ', '"x": ' + "[" * 900 + "]" * 900 + ', "built": ').encode(),
    "huge": lambda text: (text + " " * (4 << 20)).encode(),
    "huge-number": lambda text: text.replace('"bytes": 6000', '"bytes": ' + "9" * 10_000).encode(),
    "infinite": lambda text: text.replace('"bytes": 6000', '"bytes": 1e999').encode(),
    "nan": lambda text: text.replace('"built": ', '"x": NaN, "built": ').encode(),
    "infinite-size": lambda text: text.replace("1001", "1e999").encode(),
    "twice": lambda text: text.replace('"plan":', '"plan": {}, "plan":').encode(),
    "surrogates": lambda text: text.replace("NVIDIA L4", "\\ud800").encode(),
}


@contextmanager
def refused(bundle: Bundle, name: str) -> Iterator[None]:
    """Whatever is done in here, the engine is not read: one line that names the place and what to do."""
    yield
    with pytest.raises(BackendError) as caught:
        cache.read_record(bundle, name)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert str(bundle.path / "engines" / name) in message
    assert "run claprt engine" in message
    assert list(cache.records(bundle)) == []


def move(bundle: Bundle, before: str, after: str) -> None:
    (bundle.path / "engines" / before).rename(bundle.path / "engines" / after)


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_record_is_not_read(bundle: Bundle, case: str) -> None:
    """The directory is named for what the record now says, and its plan too: no check before refuses it."""
    record = stored(bundle)
    path = bundle.path / "engines" / record.key.name / "engine.json"
    document = json.loads(path.read_text())
    FORGED[case](document)
    name = hashlib.sha256(json.dumps(document["key"], sort_keys=True).encode()).hexdigest()[:16]
    if isinstance(document["plan"], dict) and document["plan"]["file"] == record.plan.file:
        document["plan"]["file"] = f"engines/{name}/{str(document['plan']['sha256'])[:16]}.plan"
    path.write_text(json.dumps(document))
    move(bundle, record.key.name, name)
    with refused(bundle, name):
        pass


@pytest.mark.parametrize("case", TEXTS)
def test_a_damaged_record_is_not_read(bundle: Bundle, case: str) -> None:
    record = stored(bundle)
    path = bundle.path / "engines" / record.key.name / "engine.json"
    before = path.read_text()
    with refused(bundle, record.key.name):
        path.write_bytes(TEXTS[case](before))
        assert path.read_text(errors="replace") != before
    assert cache.read_engine(bundle, stored(bundle))[1] == PLAN  # building again puts it right


def test_a_record_in_another_directory_is_not_read(bundle: Bundle) -> None:
    record = stored(bundle)
    with refused(bundle, "0123456789abcdef"):
        move(bundle, record.key.name, "0123456789abcdef")


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "device", "loop"])
def test_a_record_that_is_no_file_is_not_waited_for(bundle: Bundle, kind: str) -> None:
    record = stored(bundle)
    path = bundle.path / "engines" / record.key.name / "engine.json"
    path.unlink()
    with refused(bundle, record.key.name):
        if kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind != "missing":
            path.symlink_to("/dev/zero" if kind == "device" else "engine.json")


@pytest.mark.parametrize("kind", ["hash", "size", "missing", "link", "pipe", "directory"])
def test_a_plan_that_is_not_the_recorded_one_is_not_loaded(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    record = stored(bundle)
    path = bundle.path / record.plan.file
    path.unlink()
    if kind == "hash":
        path.write_bytes(PLAN[:-1] + b"!")
    elif kind == "size":
        path.write_bytes(PLAN + b"!")
    elif kind == "link":
        outside = tmp_path.parent / f"{tmp_path.name}.outside"
        outside.write_bytes(PLAN)
        path.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(BackendError, match="run claprt engine again") as caught:
        cache.read_engine(bundle, record)
    assert str(path) in str(caught.value)
    reason = {"hash": "wrong hash", "size": "6001 bytes, its record says 6000", "missing": "missing", "link": "outside"}
    assert reason.get(kind, "not a regular file") in str(caught.value)
    assert "\n" not in str(caught.value)


# Writing


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", range(4))
def test_what_fails_leaves_the_old_engine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int
) -> None:
    """`store` reaches the disk four times: plan and record are each written, and then named."""
    record = stored(bundle)
    before, calls = files(bundle.path), 0

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise error
            return function(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync))
        patch.setattr(Path, "replace", failing(Path.replace))
        with pytest.raises((BackendError, KeyboardInterrupt)) as caught:
            stored(bundle, OTHER_PLAN)
    assert calls >= step + 1
    assert isinstance(caught.value, KeyboardInterrupt) or "No space left on device" in str(caught.value)
    assert files(bundle.path) == before
    assert cache.read_engine(bundle, record) == (record, PLAN)
    with monkeypatch.context() as patch:  # where there was none, nothing is left
        calls = 0
        patch.setattr(os, "fsync", failing(os.fsync))
        patch.setattr(Path, "replace", failing(Path.replace))
        with pytest.raises((BackendError, KeyboardInterrupt)):
            stored(bundle, key=key_for(RTX))
    assert files(bundle.path) == before


def test_a_disk_that_takes_no_more(bundle: Bundle) -> None:
    """The system's own refusal, in the middle of the plan: the largest size of a file is less than the plan's."""
    record, soft, hard = stored(bundle), *resource.getrlimit(resource.RLIMIT_FSIZE)
    before = files(bundle.path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        with pytest.raises(BackendError, match=r"cannot be written: .*File too large; it takes 1 MB"):
            stored(bundle, os.urandom(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(bundle.path) == before
    assert cache.read_engine(bundle, record) == (record, PLAN)


def test_what_killed_processes_left_is_removed(bundle: Bundle) -> None:
    record = stored(bundle)
    folder = bundle.path / "engines" / record.key.name
    before = files(bundle.path)
    (folder / ".tmp-1-engine.json").write_text("half")
    (folder / "0123456789abcdef.plan").write_bytes(b"its record was never written")
    (bundle.path / "engines" / ".tmp-1-.timing-0.cache").write_bytes(b"half")
    orphan = bundle.path / "engines" / "0123456789abcdef"
    orphan.mkdir()
    (orphan / "0123456789abcdef.plan").write_bytes(b"no record at all")
    with cache.writing(bundle):
        assert files(bundle.path) == before
        assert not orphan.exists()


def test_nothing_outside_the_bundle_is_written_or_removed(tmp_path: Path) -> None:
    """A bundle from elsewhere may have links where claprt writes."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in (".tmp-1-notes", "thesis.plan", "thesis.txt"):
        (outside / name).write_text("kept")
    before = files(outside)
    bundle = empty(tmp_path / "bundle")
    engines = bundle.path / "engines"
    engines.mkdir(parents=True)
    (engines / "0123456789abcdef").symlink_to(outside)
    (engines / "else").symlink_to(outside)
    (engines / key_for().name).symlink_to(outside)
    record = stored(bundle)
    assert cache.read_engine(bundle, record) == (record, PLAN)
    assert files(outside) == before
    (engines / ".lock").unlink()
    (engines / ".lock").symlink_to(outside / "thesis.txt")
    with pytest.raises(BackendError, match="engines cannot be written"):
        stored(bundle)
    linked = empty(tmp_path / "linked")
    linked.path.mkdir()
    (linked.path / "engines").symlink_to(outside)
    with pytest.raises(BackendError, match="is a symbolic link"):
        stored(linked)
    assert files(outside) == before


# Several processes


def run_here(program: Callable[..., None], *args: object) -> subprocess.Popen[str]:
    """Run a function of this module in a process of its own."""
    code = f"import sys; from {__name__} import {program.__name__} as program; program(*sys.argv[1:])"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def write_for_ever(path: str) -> None:
    """Replace the engine by another one, again and again. Prints a line when it begins."""
    bundle = empty(Path(path))
    print("begun", flush=True)
    while True:
        stored(bundle, OTHER_PLAN)
        stored(bundle, PLAN)


def kill_writers(path: str, times: str) -> None:
    """Writers that are killed in the middle: each time there is a whole engine, and afterwards no rubbish."""
    bundle, dice = empty(Path(path)), random.Random(0)
    cut = 0
    for _ in range(int(times)):
        writer = os.fork()
        if not writer:
            write_for_ever(path)
        time.sleep(dice.uniform(0.001, 0.02))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        (record,) = cache.records(bundle)
        assert cache.read_engine(bundle, record)[1] in (PLAN, OTHER_PLAN)
        cut += len(files(bundle.path)) != 3
        if dice.random() < 0.5:  # or the next writer finds what this one left
            with cache.writing(bundle):
                assert len(files(bundle.path)) == 3, sorted(files(bundle.path))
    print("cut short:", cut)


def test_writers_that_are_killed_leave_whole_engines(bundle: Bundle) -> None:
    stored(bundle)
    done = run_here(kill_writers, bundle.path, 150)
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 0, said
    assert int(said.split()[-1]) > 10  # that many were really in the middle
    stored(bundle)
    assert len(files(bundle.path)) == 3


def test_a_reader_meets_only_whole_engines(bundle: Bundle) -> None:
    """While another process replaces the engine all the time, and removes the plan that was just found."""
    stored(bundle)
    writer = run_here(write_for_ever, bundle.path)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        end, seen = time.monotonic() + 1.5, {PLAN: 0, OTHER_PLAN: 0}
        while time.monotonic() < end:
            (record,) = cache.records(bundle)
            _, plan = cache.read_engine(bundle, record)
            seen[plan] += 1
    finally:
        writer.kill()
        writer.communicate()
    assert min(seen.values()) > 10, seen.values()


def test_two_processes_build_one_engine(demo_bundle: Path, tmp_path: Path) -> None:
    """At once, with the real library: one builds, the other waits and finds the engine there."""
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'claprt[rtx]'")
    path = tmp_path / "bundle"
    path.mkdir()
    for name in ("manifest.json", "audio.fp16.onnx"):
        shutil.copy(demo_bundle / name, path)
    options = ["--rtx", "--compute-capability", "8.6,8.9", "--tower", "audio", "--batch", "2", "--json"]
    command = [sys.executable, "-m", "claprt", "engine", str(path), *options]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in running]
    assert [(process.returncode, err) for process, (_, err) in zip(running, said, strict=True)] == [(0, "")] * 2
    results = [json.loads(out)["engines"][0] for out, _ in said]
    assert sorted(result["state"] for result in results) == ["built", "there already"]
    assert results[0]["plan"] == results[1]["plan"]
    bundle = open_bundle(path)
    (record,) = cache.records(bundle)
    _, plan = cache.read_engine(bundle, record)
    assert len(plan) > 1_000_000
    assert record.key.compute_capabilities == ("8.6", "8.9")
    assert len(files(path / "engines")) == 3
