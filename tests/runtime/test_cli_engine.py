"""`claprt engine`, `claprt doctor` and `claprt.load` without a GPU: what works, and what says why it does not."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import importlib.util
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

import claprt
from claprt.engines.tensorrt.build import BuildOptions
from claprt.engines.tensorrt.signals import signals_wait
from claprt.errors import BackendError, OptionError
from claprt.gpu import find_gpu
from claprt_export.engines import build_engines
from tests.hostile.make_bundles import sign
from tests.runtime.cli_helpers import Cli, Result, spawn

RTX = ("--rtx", "--compute-capability", "8.6,12.0")
QUICK = (*RTX, "--batch", "2", "--tokens", "16")  # few profiles: a second or two for each tower


@pytest.fixture(scope="module")
def rtx() -> None:
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'claprt[rtx]'")


@pytest.fixture(scope="module")
def no_gpu() -> None:
    with contextlib.suppress(BackendError):
        pytest.skip(f"there is a GPU: {find_gpu().name}")


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    return copied(demo_bundle, tmp_path)


def copied(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "bundle", copy_function=os.link))


def engine(bundle: Path, *args: object, **options: object) -> Result:
    return spawn("engine", bundle, *args, **options)


def left(bundle: Path) -> list[str]:
    """What there is below `engines`, but for the lock."""
    found = (path for path in (bundle / "engines").rglob("*") if path.name != ".lock")
    return sorted(str(path.relative_to(bundle)) for path in found)


# Building without a GPU


@pytest.mark.usefixtures("rtx", "no_gpu")
def test_build_again_and_list(bundle: Path) -> None:
    assert engine(bundle, "--list").out == f"{bundle} has no engines; claprt engine {bundle} builds them\n"
    first = engine(bundle, *QUICK)
    assert (first.code, first.err) == (0, "")
    header, rule, audio, text, note = first.out.splitlines()
    assert header.split() == ["variant", "tower", "engine", "size", "built", "in", "worst", "cosine", "for"]
    assert set(rule) == {"-", " "}
    for line, tower in ((audio, "audio"), (text, "text")):
        assert line.startswith(f"fp16     {tower}")
        assert line.endswith("not run here  compute capability 8.6, 12.0")
        assert " built " in line
    assert note.startswith(f"Not run here: claprt engine {bundle} --verify")
    before = left(bundle)
    assert len(before) == 6  # a folder, a plan and a record for each tower

    again = engine(bundle, "--rtx", "--compute-capability", "12.0,8.6,8.6", "--batch", "2", "--tokens", "16", "--json")
    assert (again.code, again.err) == (0, "")
    assert again.json["bundle"] == str(bundle)
    for result in again.json["engines"]:
        assert (result["state"], result["seconds"], result["verification"]) == ("there already", 0, None)
        assert result["key"]["options"]["compute_capabilities"] == ["8.6", "12.0"]
        assert (bundle / result["plan"]["file"]).stat().st_size == result["plan"]["bytes"] > 1_000_000
    assert left(bundle) == before

    forced = engine(bundle, *QUICK, "--tower", "text", "--force", "--json")
    assert [(result["tower"], result["state"]) for result in forced.json["engines"]] == [("text", "built")]
    assert forced.json["engines"][0]["seconds"] > 0
    assert len(left(bundle)) == 6

    listed = engine(bundle, "--list", "--json")
    assert sorted(found["key"]["tower"] for found in listed.json["engines"]) == ["audio", "text"]
    table = engine(bundle, "--list")
    assert table.err == ""
    assert len(table.out.splitlines()) == 4
    assert table.out.count("nowhere yet") == 2

    # An engine that is damaged is not taken for one that is there.
    plan = bundle / next(found["plan"] for found in listed.json["engines"] if found["key"]["tower"] == "text")
    plan.unlink()
    listed = engine(bundle, "--list")
    assert listed.code == 1
    assert [line.split()[1] for line in listed.out.splitlines()[2:]] == ["audio"]
    reason = f"the engine cannot be used: a file of the bundle is missing: {plan}"
    assert listed.err.startswith(f"claprt: error: {reason}")
    assert listed.err.endswith(f"; delete {plan.parent} and run claprt engine again\n")
    listed = engine(bundle, "--list", "--json")
    assert (listed.code, [found["key"]["tower"] for found in listed.json["engines"]]) == (1, ["audio"])
    assert [found["directory"] for found in listed.json["damaged"]] == [f"engines/{plan.parent.name}"]
    assert listed.json["damaged"][0]["reason"].startswith(reason)
    assert "1 for TensorRT, and 1 that cannot be used; claprt engine" in spawn("info", bundle).out
    mended = engine(bundle, *QUICK, "--json")
    assert [result["state"] for result in mended.json["engines"]] == ["there already", "built"]


@pytest.mark.usefixtures("rtx")
def test_a_graph_that_the_library_refuses(bundle: Path) -> None:
    """The parser's own reason, one line, and nothing kept."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    path = bundle / "audio.fp16.onnx"
    model = onnx.load(str(path))
    (place,) = (index for index, node in enumerate(model.graph.node) if node.op_type == "ReduceSum")
    model.graph.node[place].op_type = "NoSuchThing"
    path.unlink()  # it is a link to the good one
    onnx.save(model, str(path))
    sign(bundle)
    error = engine(bundle, *QUICK).error
    assert f"refuses the graph: {path}: NoSuchThing '{model.graph.node[place].name}'" in error
    assert "Plugin not found" in error
    assert left(bundle) == []


@pytest.mark.usefixtures("rtx")
def test_a_graph_that_is_not_the_manifests(bundle: Path) -> None:
    path = bundle / "text.fp16.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert f"wrong hash: {path}" in engine(bundle, *QUICK, "--tower", "text").error
    assert left(bundle) == []


@pytest.mark.usefixtures("rtx")
def test_what_the_builder_cannot_do_is_its_own_line(bundle: Path) -> None:
    """FP32 products on Turing: parsed, but not built."""
    error = engine(bundle, "--rtx", "--compute-capability", "7.5", "--precision", "fp32", "--tower", "text").error
    assert "cannot build the graph" in error
    assert "for Turing (SM75): FP32 GEMM is not supported" in error
    assert error.endswith(
        "; ask for another precision or smaller batches, build for other GPUs, or run the graph on ONNX Runtime\n"
    )
    assert left(bundle) == []


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, 0.1), (signal.SIGINT, 0.4), (signal.SIGINT, 0.9), (signal.SIGTERM, 0.6)]
)
@pytest.mark.usefixtures("rtx", "no_gpu")
def test_an_interrupted_build_leaves_nothing(bundle: Path, number: signal.Signals, after: float) -> None:
    """Sent at some moment of the build, which takes seconds. The process must not end before the library's threads."""
    command = [sys.executable, "-m", "claprt", "engine", str(bundle), *RTX, "--tower", "text", "--precision", "fp32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (bundle / "engines" / ".lock").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(after)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    said = b"claprt: error: interrupted\n" if number is signal.SIGINT else b""
    assert (process.returncode, out, err) == (128 + number, b"", said)
    assert left(bundle) == []


@pytest.mark.usefixtures("rtx", "no_gpu")
def test_a_bar_on_a_terminal_and_nowhere_else(bundle: Path) -> None:
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "claprt", "engine", str(bundle), *QUICK, "--tower", "text", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while select.select([terminal], [], [], 60)[0]:
            shown += os.read(terminal, 4096)
    out = process.communicate(timeout=60)[0]
    os.close(terminal)
    assert process.returncode == 0
    assert b"text fp16:" in shown
    assert shown.endswith(b"\r")
    assert b"\n" not in shown
    assert json.loads(out)["engines"][0]["state"] == "built"


@pytest.mark.usefixtures("rtx", "no_gpu")
def test_a_bundle_that_cannot_be_written(bundle: Path) -> None:
    """Also as root, whose privilege to write everywhere is given up first."""
    bundle.chmod(0o555)
    try:
        error = engine(bundle, *QUICK, preexec_fn=without_privileges).error
    finally:
        bundle.chmod(0o755)
    assert f"engines cannot be written: {bundle / 'engines'}: {os.strerror(errno.EACCES)}; make" in error
    assert not (bundle / "engines").exists()


def without_privileges() -> None:
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which only root has."""
    drop, libc = 24, ctypes.CDLL(None)  # PR_CAPBSET_DROP
    for capability in (1, 2):
        libc.prctl(drop, capability, 0, 0, 0)


def test_list_says_what_is_damaged(cli: Cli, bundle: Path) -> None:
    """A record that is none, and what a killed process left: a line for each, with the way to get rid of it."""
    record, orphan = (bundle / "engines" / name for name in ("0123456789abcdef", "1123456789abcdef"))
    for folder in (record, orphan):
        folder.mkdir(parents=True)
        (folder / "0123456789abcdef.plan").write_bytes(b"a plan")
    (record / "engine.json").write_text("[" * 100_000)
    listed = cli("engine", bundle, "--list")
    assert (listed.code, listed.out) == (1, "")
    lines = listed.err.splitlines()
    assert len(lines) == 2
    for line, folder in zip(lines, (record, orphan), strict=True):
        assert line.startswith(f"claprt: error: the record of an engine cannot be used: {folder / 'engine.json'}: ")
        assert line.endswith(f"; delete {folder} and run claprt engine")
    listed = cli("engine", bundle, "--list", "--json")
    assert (listed.code, listed.json["engines"]) == (1, [])
    assert [found["directory"] for found in listed.json["damaged"]] == [f"engines/{f.name}" for f in (record, orphan)]
    assert [f"claprt: error: {found['reason']}" for found in listed.json["damaged"]] == lines
    assert "0 for TensorRT, and 2 that cannot be used" in cli("info", bundle).out
    # Where a process builds, a directory without a record may be the one that it writes.
    with (bundle / "engines" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (found,) = cli("engine", bundle, "--list", "--json").json["damaged"]
        assert found["directory"] == f"engines/{record.name}"


# What is refused


@pytest.mark.usefixtures("rtx", "no_gpu")
@pytest.mark.parametrize("level", [-1, 6])
def test_bad_optimization_level_from_python(bundle: Path, level: int) -> None:
    options = BuildOptions(compute_capabilities=("8.6",), optimization_level=level)
    with pytest.raises(OptionError, match=rf"bad optimization level: {level}; choose 0 … 5"):
        build_engines(bundle, rtx=True, precisions=("fp32",), options=options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--precision", "fp64"], "unknown precision: 'fp64'; choose of fp32, fp16, int8"),
        (["--precision", "int8-cpu"], "unknown precision: 'int8-cpu'"),
        (["--precision", ""], "no precision was given"),
        (["--tower", "video"], "unknown tower: 'video'; choose of audio, text"),
        (["--tower", ","], "no tower was given"),
        (["--batch", "0"], "bad steps of batch: 0; pass ascending integers"),
        (["--batch", "8,1"], "bad steps of batch: 8, 1"),
        (["--batch", "8,8"], "bad steps of batch: 8, 8"),
        (["--batch", "5000"], "bad steps of batch: 5000"),
        (["--batch", ""], "bad steps of batch"),
        (["--batch", "", "--tower", "text"], "bad steps of batch"),
        (["--batch", "one"], "bad --batch: 'one'"),
        (["--batch", "-1"], "bad --batch: '-1'"),
        (["--batch", "9" * 5000], "bad --batch"),
        (["--tokens", "0"], "bad steps of tokens: 0; pass ascending integers of 1 to 512"),
        (["--tokens", "16,600"], "bad steps of tokens: 16, 600"),
        (["--tokens", "1.5"], "bad --tokens: '1.5'"),
        (["--optimization-level", "6"], "--optimization-level: '6' is not an integer from 0 to 5"),
        (["--optimization-level", "-1"], "--optimization-level: '-1' is not an integer from 0 to 5"),
        (["--hardware-compatible"], "has no option hardware_compatible"),
        (["--version-compatible"], "has no option version_compatible"),
        (["--compute-capability", "9.0"], "does not build for this compute capability: 9.0; it builds for 7.5, 8.0"),
        (["--compute-capability", "8.6,1.20"], "this compute capability: 1.20"),
        (["--compute-capability", "86"], "this compute capability: 86"),
        (["--compute-capability", "CURRENT"], "this compute capability: CURRENT"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("rtx", "no_gpu")
def test_bad_options(cli: Cli, bundle: Path, options: list[str], reason: str) -> None:
    assert reason in cli("engine", bundle, *RTX, *options).error
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize(
    "options", [["--workspace", "0"], ["--workspace", "1.5"], ["--device", "-1"], ["--optimization-level", "high"], []]
)
def test_wrong_usage(cli: Cli, bundle: Path, options: list[str]) -> None:
    error = cli("engine", *([bundle] if options else []), *options).error
    assert error.endswith("; see claprt engine --help\n")
    assert "int value" not in error


@pytest.mark.usefixtures("rtx", "no_gpu")
def test_what_is_missing_is_said(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    driver = "there is no NVIDIA driver: libcuda.so.1 was not found; install the driver"
    assert driver in cli("engine", bundle, "--rtx").error
    assert driver in cli("engine", bundle, "--verify").error
    assert "no bundle here" in cli("engine", tmp_path / "none", *RTX).error
    assert "no bundle here" in cli("engine", tmp_path / "none", "--list").error
    if importlib.util.find_spec("tensorrt") is None:
        error = cli("engine", bundle).error
        assert "TensorRT is not installed: there is no module tensorrt; pip install 'claprt[tensorrt]'" in error
    document = json.loads((bundle / "manifest.json").read_text())
    for tower in ("audio", "text"):
        del document[tower]["variants"]["int8"]
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").write_text(json.dumps(document))
    error = cli("engine", bundle, *RTX, "--precision", "fp16,int8").error
    assert f"the bundle has no int8 for GPUs: {bundle}: it has fp32, fp16, int8-cpu; build it with int8" in error
    assert not (bundle / "engines").exists()


# Where it cannot run


@pytest.mark.usefixtures("no_gpu")
def test_doctor_says_what_each_backend_lacks(cli: Cli) -> None:
    found = {state["name"]: state for state in cli("doctor", "--json").json["backends"]}
    assert list(found) == ["tensorrt", "tensorrt-rtx", "ort-cuda", "ort-cpu"]
    assert found["ort-cpu"]["usable"]
    fixes = {"tensorrt": "claprt[tensorrt]", "tensorrt-rtx": "claprt[rtx]"}
    for name in ("tensorrt", "tensorrt-rtx", "ort-cuda"):
        assert not found[name]["usable"]
        assert "there is no NVIDIA driver" in found[name]["reason"]
        assert "install the driver" in found[name]["reason"]
        module = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}.get(name)
        if module is not None:
            assert (fixes[name] in found[name]["reason"]) is (importlib.util.find_spec(module) is None)
    shown = cli("doctor").out
    assert all(name in shown for name in found)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "ort-cuda"])
@pytest.mark.usefixtures("no_gpu")
def test_a_backend_that_is_named_runs_or_is_an_error(demo_bundle: Path, backend: str) -> None:
    with pytest.raises(
        BackendError, match=f"the backend cannot run here: {backend}: there is no NVIDIA driver"
    ) as caught:
        claprt.load(demo_bundle, backend=backend)
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="cannot run here"):  # said before the bundle is looked for
        claprt.load(demo_bundle / "none", backend=backend)


@pytest.mark.usefixtures("no_gpu")
def test_auto_passes_over_with_reasons(demo_bundle: Path) -> None:
    choice = claprt.load(demo_bundle).choice
    assert choice.backend == "ort-cpu"
    assert [name for name, _ in choice.passed_over] == ["tensorrt", "tensorrt-rtx", "ort-cuda"]
    assert all("there is no NVIDIA driver" in reason for _, reason in choice.passed_over)
    with pytest.raises(OptionError, match="unknown backend: 'cuda'; choose one of auto, tensorrt"):
        claprt.load(demo_bundle, backend="cuda")


def test_an_interrupt_waits_while_the_library_may_call_back() -> None:
    """In its log it would be raised, printed by the library, and lost. In other threads there is nothing to do."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    reached: list[object] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (what must not raise is what is tested)
        with signals_wait():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")
        reached.append("behind it")
    assert reached == ["the end"]

    def elsewhere() -> None:
        with signals_wait():
            reached.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert reached == ["the end", before[0]]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
