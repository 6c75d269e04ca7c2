"""From the start of a process to its first vector, and the most memory it held: fresh processes, in turn.

The processes are started by a small launcher, `python -m claprt_bench.cold_start` with a job on stdin: Linux counts the
memory of a process that starts another into the peak of the other, so one that holds a model cannot measure. Standard
library only, for the same reason.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claprt_bench.measure import turns

# Both read a WAV file of one clip, make its vector and write it to stdout. As short as the two libraries allow.
OURS = """
import sys
import claprt
bundle, precision, sound, threads, backend, device = sys.argv[1:]
clap = claprt.load(bundle, backend=backend, precision=precision, threads=int(threads), device=int(device))
sys.stdout.buffer.write(clap.embed_audio([sound])[0].tobytes())
sys.stdout.flush()
"""
OURS_TEXT = OURS.replace("embed_audio", "embed_text")
THEIRS = """
import sys
import soundfile
import torch
from transformers import ClapFeatureExtractor, ClapModel
checkpoint, sound, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
extractor = ClapFeatureExtractor.from_pretrained(checkpoint)
model = ClapModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
waveform, rate = soundfile.read(sound, dtype="float32")
inputs = extractor(waveform, sampling_rate=rate, return_tensors="pt")
with torch.inference_mode():
    vector = model.get_audio_features(**inputs).pooler_output[0]
sys.stdout.buffer.write(vector.numpy().tobytes())
sys.stdout.flush()
"""


@dataclass(frozen=True)
class Start:
    """One process: seconds until its vector was there, peak resident memory in bytes, the vector's bytes (float32)."""

    seconds: float
    peak_bytes: int
    vector: bytes


def measure(sides: dict[str, list[str]], rounds: int, pause: float, warm_up: int = 1) -> dict[str, list[Start]]:
    """Start each side's process in every round.

    Args:
        sides: arguments of `python`, by name: `["-c", OURS, bundle, ...]`.
        rounds: samples of each.
        pause: seconds before each start.
        warm_up: rounds that do not count: they fill the file cache, and Python's cache of compiled modules.

    Raises:
        RuntimeError: a process failed; the message ends with the last line that it wrote.
    """
    job = {"sides": sides, "rounds": rounds, "pause": pause, "warm_up": warm_up}
    # A user's processes keep their compiled modules; and nothing must wait for a network.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["HF_HUB_OFFLINE"] = "1"
    command = [sys.executable, "-m", "claprt_bench.cold_start"]
    done = subprocess.run(command, input=json.dumps(job), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the launcher failed"])[-1])
    return {
        name: [Start(s["seconds"], s["peak_bytes"], base64.b64decode(s["vector"])) for s in starts]
        for name, starts in json.loads(done.stdout).items()
    }


def _launch(arguments: list[str]) -> dict[str, Any]:
    """Run one process to its end."""
    with tempfile.TemporaryFile() as messages:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages
        )
        assert process.stdout is not None
        data = os.read(process.stdout.fileno(), 1 << 16)  # returns when the vector is written, in one piece
        seconds = time.perf_counter() - start
        while more := os.read(process.stdout.fileno(), 1 << 16):
            data += more
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            messages.seek(0)
            lines = messages.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise SystemExit(f"a process ended with exit code {process.returncode}: {lines[-1]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "peak_bytes": usage.ru_maxrss * unit,
        "vector": base64.b64encode(data).decode(),
    }


def _main() -> None:
    """The launcher: a job as JSON on stdin, the samples as JSON on stdout."""
    job = json.load(sys.stdin)
    sides: dict[str, list[str]] = job["sides"]
    names = list(sides)
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for index in range(-job["warm_up"], job["rounds"]):
        for name in turns(names, index):
            time.sleep(job["pause"])
            sample = _launch(sides[name])
            if index >= 0:
                samples[name].append(sample)
    json.dump(samples, sys.stdout)


def ours(
    bundle: Path, precision: str, what: Path | str, threads: int, backend: str = "ort-cpu", device: int = 0
) -> list[str]:
    """Our side, as `measure` takes it: the vector of a sound file, or of a text where `what` is a str."""
    script = OURS_TEXT if isinstance(what, str) else OURS
    return ["-c", script, str(bundle), precision, str(what), str(threads), backend, str(device)]


def theirs(checkpoint: Path, sound: Path, threads: int) -> list[str]:
    """The side of transformers, as `measure` takes it."""
    return ["-c", THEIRS, str(checkpoint), str(sound), str(threads)]


if __name__ == "__main__":
    _main()
