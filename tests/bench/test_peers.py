"""claprt against its peers, for real but few rounds: every side in its own process. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from claprt.errors import OptionError
from claprt_bench.errors import BenchError
from claprt_bench.inputs import TEXTS
from claprt_bench.peers.against import AgainstOptions, AgainstResult, run_against
from claprt_bench.peers.catalogue import PEERS, Peer
from claprt_bench.peers.figures import ratio_spread, table
from claprt_bench.peers.worker import SIDES, Limits
from claprt_export.demo import CHECKPOINTS

FEW = {"rounds": 3, "warm_up": 1, "pause": 0.0, "threads": 1}

# A peer of claprt's own values, so that it starts soon. `%s` spoils it.
FAKE = """
import importlib.util, os, sys
import numpy as np
def load(job):
    spec = importlib.util.spec_from_file_location("real", {real!r})
    real = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(real)
    functions, facts = real.load(job)
    calls = [0]
    def spoilt(function):
        def run(inputs):
            calls[0] += 1
            vectors = function(inputs)
            {spoil}
            return vectors
        return run
    return {{name: spoilt(function) for name, function in functions.items()}}, facts
"""


def _fake(name: str, folder: Path, bundle: Path, spoil: str = "pass") -> Peer:
    file = folder / f"{name}.py"
    file.write_text(FAKE.format(real=str(SIDES / "with_claprt.py"), spoil=spoil))
    return Peer(name, name, "nothing", str(file), settings={"bundle": str(bundle), "precision": "fp32"})


@pytest.fixture(scope="module")
def result(demo_bundle: Path) -> AgainstResult:
    """The demo bundle, FP32 and INT8, against transformers and the stock export; laion cannot read this checkpoint."""
    options = AgainstOptions(precisions=("fp32", "int8"), batches=(3, 1), **FEW)  # type: ignore[arg-type]
    return run_against(demo_bundle, ["transformers", "laion"], options)


def test_every_step_precision_and_peer_has_a_row(result: AgainstResult) -> None:
    """Keys that a later run is compared by, in a stable order, and the stock export without being asked for."""
    assert [row["id"] for row in result.rows] == [
        f"against/{step}/{precision}/b{batch}/{peer}"
        for step, batch in (("waveform", 1), ("waveform", 3), ("text", len(TEXTS)))
        for precision in ("fp32", "int8")
        for peer in ("transformers", "stock")
    ]
    assert json.loads(json.dumps(result.rows, allow_nan=False)) == result.rows
    assert result.inputs.startswith("8 different clips of ")


def test_rows_hold_together(result: AgainstResult) -> None:
    """A sample a round of both sides, the ratio of their medians inside its interval, versions of what ran."""
    for row in result.rows:
        assert len(row["ours"]) == len(row["theirs"]) == FEW["rounds"]
        assert row["ratio"] == statistics.median(row["theirs"]) / statistics.median(row["ours"])
        low, high = row["ratio_spread"]
        assert low <= row["ratio"] <= high
        assert row["threads"] == 1
        assert row["unit"] == "ms"
        package = "transformers" if row["peer"] == "transformers" else "onnxruntime"
        assert row["peer_versions"][package] == importlib.metadata.version(package)


def test_rows_of_a_step_share_a_run(result: AgainstResult) -> None:
    """All sides of a step were timed in the same rounds: each side's samples are the same in all its rows."""
    rows = {row["id"]: row for row in result.rows}
    a, b = (rows[f"against/waveform/{precision}/b1/transformers"] for precision in ("fp32", "int8"))
    assert a["theirs"] == b["theirs"]
    assert a["ours"] == rows["against/waveform/fp32/b1/stock"]["ours"] != b["ours"]


def test_values_are_compared(result: AgainstResult) -> None:
    """FP32 is what transformers and the stock graph compute; INT8 is near, and visibly not the same."""
    for row in result.rows:
        accuracy = row["accuracy"]
        if row["precision"] == "fp32":
            assert accuracy["worst_cosine"] >= 0.999999
            assert accuracy["max_abs"] <= 1e-5
        else:
            assert 0.999 <= accuracy["worst_cosine"] < 0.999999
            assert f"{row['peer']} computes in FP32" in row["notes"]


def test_what_is_unequal_is_noted(result: AgainstResult) -> None:
    """A reader of the ratios is told of the padding, and of ONNX Runtime's defaults."""
    for row in result.rows:
        notes = " ".join(row["notes"])
        assert ("padded to 77" in notes) == (row["step"] == "text")
        assert ("subnormal" in notes) == (row["peer"] == "stock")


def test_a_peer_that_needs_another_checkpoint_is_left_out(result: AgainstResult) -> None:
    """laion-clap takes LAION's files; nobody named it with a Python, so it is no warning. Few rounds are one."""
    assert [entry["what"] for entry in result.left_out] == ["peer laion"]
    assert "laion-clap reads LAION's .pt files" in result.left_out[0]["why"]
    assert result.warnings == ["ratios of 3 rounds: their intervals take 11 or more; pass --rounds"]


def test_table(result: AgainstResult) -> None:
    """A line a row, ratios never rounded up, intervals outwards, notes once."""
    lines = table(result.rows).splitlines()
    assert len([line for line in lines if " -> vector" in line]) == len(result.rows)
    assert len([line for line in lines if "padded to 77" in line]) == 1
    odd = dict(result.rows[0]) | {"ratio": 1.999, "ratio_spread": [1.899, 2.101], "notes": ["a note"]}
    line = table([odd]).splitlines()[2]
    assert "1.99x" in line
    assert "1.89-2.11" in line
    assert line.endswith("[1]")


def test_ratio_spread_is_scipy_s_percentile_bootstrap() -> None:
    """Paired over rounds: SciPy's interval from as many resamples is the same but for chance."""
    rng = np.random.default_rng(3)
    slow = rng.normal(0, 8, 25)  # what slows a round slows both sides
    ours, theirs = 50 + slow + rng.normal(0, 2, 25), 100 + 2 * slow + rng.normal(0, 4, 25)
    low, high = ratio_spread(list(ours), list(theirs))

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.median(b, axis=axis) / np.median(a, axis=axis))

    found = stats.bootstrap(
        (ours, theirs), ratio, paired=True, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert low == pytest.approx(found.low, rel=0.01)
    assert high == pytest.approx(found.high, rel=0.01)
    assert ratio_spread(list(ours), list(theirs)) == [low, high]
    assert ratio_spread([2.0], [3.0]) == [1.5, 1.5]


def test_peers_that_fail_are_left_out(demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong values, a death between two runs, a missing package, a Python that is none: each with its reason, the last
    one a warning; a peer that is right goes on, and its rows are of whole rounds."""
    spoils = {
        "right": "pass",
        "wrong": "vectors = vectors[:, ::-1]",
        "mortal": "if calls[0] > 12: print('out of memory', file=sys.stderr), os._exit(9)",
        "lacking": "import surely_not_installed",
        "elsewhere": "pass",
    }
    fakes = {name: _fake(name, tmp_path, demo_bundle, spoil) for name, spoil in spoils.items()}
    monkeypatch.setattr("claprt_bench.peers.against.choose", lambda names, pythons: [fakes[name] for name in names])
    pythons = {"elsewhere": tmp_path / "no-python"}
    options = AgainstOptions(checkpoint="demo", pythons=pythons, batches=(2,), **FEW)  # type: ignore[arg-type]
    result = run_against(demo_bundle, list(fakes), options)
    reasons = {entry["what"].removeprefix("peer "): entry["why"] for entry in result.left_out}
    assert set(reasons) == {"wrong", "mortal", "lacking", "elsewhere"}
    assert reasons["wrong"].startswith("wrong values, not timed: waveform, batch 2: worst cosine")
    assert reasons["mortal"].startswith("mortal failed: its process ended with exit code 9; last line: out of memory")
    assert reasons["lacking"].startswith("surely_not_installed is not installed here; pip install nothing")
    assert reasons["elsewhere"].startswith("elsewhere failed: it cannot be started: ")
    assert [warning.split(":")[0] for warning in result.warnings] == [
        "ratios of 3 rounds",
        "peer elsewhere is left out",
        "peer mortal is left out",
    ]
    assert {row["peer"] for row in result.rows} >= {"right"}
    for row in result.rows:
        assert row["peer"] in ("right", "mortal")
        assert len(row["ours"]) == len(row["theirs"]) == FEW["rounds"]
        assert row["accuracy"]["max_abs"] == 0.0


def test_another_checkpoint_is_refused(demo_bundle: Path) -> None:
    """Ratios of two different models would mean nothing."""
    with pytest.raises(BenchError, match="not the bundle's checkpoint: demo-fused: its weights have the SHA-256"):
        run_against(demo_bundle, ["transformers"], AgainstOptions(checkpoint="demo-fused"))
    with pytest.raises(BenchError, match=r"nothing for the peers to load: no such checkpoint: '\./nothing'"):
        run_against(demo_bundle, ["transformers"], AgainstOptions(checkpoint="./nothing"))


def test_fused_checkpoints_have_no_stock_export(demo_fused_bundle: Path) -> None:
    """Then nothing is left to compare with, and the reason is said; transformers itself runs."""
    few = AgainstOptions(batches=(2,), **FEW)  # type: ignore[arg-type]
    with pytest.raises(BenchError, match=r"nothing to compare with: peer stock: torch\.onnx\.export cannot export"):
        run_against(demo_fused_bundle, [], few)
    result = run_against(demo_fused_bundle, ["transformers"], few)
    assert {row["peer"] for row in result.rows} == {"transformers"}
    assert min(row["accuracy"]["worst_cosine"] for row in result.rows) >= 0.999999
    assert "marks a random short clip" in " ".join(result.rows[0]["notes"])


def test_a_peer_that_is_not_installed(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason has pip's command and the option that names another Python. torch.compile's names the compiler."""
    if importlib.util.find_spec("optimum") is not None:
        pytest.skip("optimum is installed here")
    monkeypatch.setenv("CXX", "no-such-compiler")
    right = _fake("right", tmp_path, demo_bundle)
    monkeypatch.setattr(
        "claprt_bench.peers.against.choose", lambda names, pythons: [*(PEERS[name] for name in names), right]
    )
    options = AgainstOptions(batches=(1,), **FEW)  # type: ignore[arg-type]
    result = run_against(demo_bundle, ["optimum", "torch-compile"], options)
    optimum, compiled = (entry["why"] for entry in result.left_out)
    assert optimum.startswith("optimum is not installed here; pip install 'optimum-onnx[onnxruntime]'")
    assert optimum.endswith("--peer-python optimum=PATH names")
    assert compiled.startswith(
        "torch-compile failed: torch.compile needs a C++ compiler, and there is no no-such-compiler"
    )


def test_a_python_may_be_named_from_here(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path, through a link as in a virtual environment; the other Python finds its own packages only."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    fakes = {"other": _fake("other", tmp_path, demo_bundle), "right": _fake("right", tmp_path, demo_bundle)}
    monkeypatch.setattr("claprt_bench.peers.against.choose", lambda names, pythons: list(fakes.values()))
    options = AgainstOptions(pythons={"other": Path("env/python")}, batches=(1,), **FEW)  # type: ignore[arg-type]
    result = run_against(demo_bundle, [], options)
    assert {row["peer"] for row in result.rows} >= {"right"}
    for entry in result.left_out:  # claprt is not installed in the bare interpreter that the link leads to
        assert entry["why"].startswith("env/python has no ")


def test_options_that_are_not_allowed(demo_bundle: Path) -> None:
    """Refused before anything is started."""
    for peers, changes, message in (
        (["tensorflow"], {}, "unknown peer: 'tensorflow'"),
        ([], {"pythons": {"laion": Path("python")}}, "a Python for a peer that was not asked for: 'laion'"),
        ([], {"pythons": {"nobody": Path("python")}}, "unknown peer: 'nobody'"),
        ([], {"precisions": ("int4",)}, "the bundle has no int4; it has fp32"),
        ([], {"rounds": 0}, "rounds and threads must be at least 1"),
        ([], {"threads": 0}, "rounds and threads must be at least 1"),
        ([], {"batches": ()}, "nothing to compare"),
    ):
        with pytest.raises(OptionError, match=message):
            run_against(demo_bundle, peers, AgainstOptions(**changes))


def test_an_interrupt_leaves_nothing(demo_bundle: Path, tmp_path: Path) -> None:
    """Ctrl-C while a side hangs: no process that works in the temporary directory is left, nor the directory."""
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time\ndef load(job):\n    open('here', 'w').close()\n    time.sleep(600)\n")
    program = (
        "import sys\nfrom pathlib import Path\nfrom claprt_bench.peers import against, catalogue\n"
        "peer = catalogue.Peer('hanging', '', '', sys.argv[2])\n"
        "against.choose = lambda names, pythons: [peer]\n"
        "try:\n    against.run_against(Path(sys.argv[1]), [], against.AgainstOptions(checkpoint='demo'))\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(scratch),
    }
    command = [sys.executable, "-c", program, str(demo_bundle), str(hanging)]
    process = subprocess.Popen(command, env=environment)
    try:
        end = time.monotonic() + 300
        while not list(scratch.glob("*/hanging/here")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        assert _working_below(scratch)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert not list(scratch.iterdir())
    assert not _working_below(scratch)


@pytest.mark.full
def test_torch_compile(demo_bundle: Path) -> None:
    """It computes the same, and how long compiling took is a note."""
    options = AgainstOptions(batches=(1,), limits=Limits(load=3600), **FEW)  # type: ignore[arg-type]
    result = run_against(demo_bundle, ["torch-compile"], options)
    rows = [row for row in result.rows if row["peer"] == "torch-compile"]
    assert [row["step"] for row in rows] == ["waveform", "text"]
    for row in rows:
        assert row["accuracy"]["worst_cosine"] >= 0.999999
        assert "torch.compile took" in " ".join(row["notes"])


def test_the_demo_is_a_directory_that_peers_load() -> None:
    """Peers of other environments cannot ask claprt for it."""
    assert (CHECKPOINTS["unfused"] / "config.json").is_file()


def _working_below(directory: Path) -> list[int]:
    """Processes whose working directory is in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = (process / "cwd").readlink()
        except OSError:  # another user's, or gone
            continue
        if place.is_relative_to(directory):
            found.append(int(process.name))
    return found
