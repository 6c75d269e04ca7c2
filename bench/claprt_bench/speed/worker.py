"""`python -m claprt_bench.speed.worker`: a fresh process that times some steps. A job on stdin, its result on stdout.

A process of its own for each repeat and side: it has the memory of what it runs and of nothing else, its first call is
a first call, and what changes from process to process (addresses, threads, pages) is part of the spread.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claprt.errors import ClaprtError
from claprt_bench.speed.inputs import read_inputs
from claprt_bench.speed.memory import peak_bytes
from claprt_bench.speed.steps import Call, Side, Steps, Task

# A GPU's third run of a shape is captured as a graph.
_WARM_UP_CALLS, _WARM_UP_SECONDS = 3, 0.2
# Warming up ends here however few calls there were: calls that long warm up by themselves.
_WARM_UP_LIMIT = 2.0
# Of one block: the calls of cheap steps are enough then, and the result stays a file that can be sent around.
_MOST_CALLS = 2000
# An open loop that cannot keep up is ended after so many times the time that it should have taken.
_PATIENCE = 2.0


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job: {"kind", "side", "folder", ...}.

    | kind | takes | gives |
    |---|---|---|
    | blocks | tasks, seconds, pause, least | samples_ms, cpu_ms of each task |
    | first | task | load_ms, first_call_ms, peak_host_bytes, peak_device_bytes |
    | vectors | tasks, output | nothing: (n, dim) arrays, by the task's number, in the output's .npz |
    | open-loop | task, due (seconds from the start), seconds | latency_ms, service_ms, unfinished, elapsed |

    Returns:
        With "yardstick_ms": what a fixed piece of arithmetic took, which tells whether the machine itself got slower.
    """
    yardstick = measure_yardstick()
    side = Side(**job["side"])
    steps = Steps(side, read_inputs(Path(job["folder"])))
    kinds: dict[str, Callable[[Steps, dict[str, Any]], dict[str, Any]]] = {
        "blocks": blocks,
        "first": first_call,
        "vectors": vectors,
        "open-loop": open_loop,
    }
    return {"yardstick_ms": yardstick, **kinds[job["kind"]](steps, job)}


def blocks(steps: Steps, job: dict[str, Any]) -> dict[str, Any]:
    """A block of calls for each task, after warming up."""
    found = []
    for task in (Task(**one) for one in job["tasks"]):
        call = steps.call(task)
        if task.warm_up:
            warm_up(call)
        time.sleep(job["pause"])
        samples, cpu = block(call, job["seconds"], job["least"])
        found.append({"samples_ms": samples, "cpu_ms": cpu})
    return {"tasks": found}


def block(call: Call, seconds: float, least: int) -> tuple[list[float], float]:
    """Milliseconds of each of the calls that fit into `seconds`, at least `least`; and their processor time."""
    samples: list[float] = []
    cpu = time.process_time()
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        call(len(samples))
        end = time.perf_counter()
        samples.append((end - start) * 1000)
        if len(samples) >= _MOST_CALLS or (len(samples) >= least and end - begin >= seconds):
            return samples, (time.process_time() - cpu) * 1000


def warm_up(call: Call) -> None:
    """Call until nothing is done for the first time any more."""
    begin, calls, gone = time.perf_counter(), 0, 0.0
    while gone < _WARM_UP_LIMIT and (calls < _WARM_UP_CALLS or gone < _WARM_UP_SECONDS):
        call(calls)
        calls += 1
        gone = time.perf_counter() - begin


def first_call(steps: Steps, job: dict[str, Any]) -> dict[str, Any]:
    """Loading the bundle, the first call of a task with the tower's loading in it, and the memory that it all takes."""
    free = _device_memory(steps.side)
    start = time.perf_counter()
    call = steps.call(Task(**job["task"]))
    _ = steps.clap
    loaded = time.perf_counter()
    call(0)
    first = time.perf_counter()
    warm_up(call)  # more threads, captured graphs: memory that the first call does not take
    now = _device_memory(steps.side)
    return {
        "load_ms": (loaded - start) * 1000,
        "first_call_ms": (first - loaded) * 1000,
        "peak_host_bytes": peak_bytes(),
        "peak_device_bytes": max(0, free - now) if free is not None and now is not None else None,
    }


def vectors(steps: Steps, job: dict[str, Any]) -> dict[str, Any]:
    """What tasks compute on every input, for checks: as many calls as there are inputs, their results together."""
    arrays = {}
    for number, task in enumerate(Task(**one) for one in job["tasks"]):
        call = steps.call(task)
        count = len(steps.inputs.texts if task.step in ("text", "text-tower", "tokenizer") else steps.inputs.clips)
        found = np.concatenate([np.asarray(call(index)) for index in range(0, count, task.batch)])
        arrays[str(number)] = found[:count]  # the last batch begins again
    np.savez(job["output"], **arrays)  # type: ignore[arg-type]  # a name is not taken for allow_pickle
    return {}


def open_loop(steps: Steps, job: dict[str, Any]) -> dict[str, Any]:
    """Serve requests that come when they come, one after the other, in the order in which they are due.

    A request's latency runs from when it was due, not from when its turn came: the wait behind slow ones counts. (The
    other way round, a stall would delay the requests behind it and hide itself: "coordinated omission".)
    """
    call = steps.call(Task(**job["task"]))
    warm_up(call)
    time.sleep(job["pause"])
    due: list[float] = job["due"]
    limit = _PATIENCE * job["seconds"]
    latency, service = [], []
    begin = time.perf_counter()
    for index, at in enumerate(due):
        while (wait := at - (time.perf_counter() - begin)) > 0:
            time.sleep(wait)
        start = time.perf_counter() - begin
        if start > limit:
            break
        call(index)
        end = time.perf_counter() - begin
        latency.append((end - at) * 1000)
        service.append((end - start) * 1000)
    elapsed = time.perf_counter() - begin
    # Who still waits has waited at least so long.
    waiting = [(elapsed - at) * 1000 for at in due[len(latency) :]]
    return {
        "latency_ms": latency + waiting,
        "service_ms": service,
        "unfinished": len(waiting),
        "elapsed_s": elapsed,
    }


def measure_yardstick() -> float:
    """Milliseconds of a fixed piece of one-threaded work, the best of some."""
    numbers: NDArray[np.float64] = np.random.default_rng(0).standard_normal(1 << 16)
    best = float("inf")
    for _ in range(7):
        start = time.perf_counter()
        np.sort(numbers)
        best = min(best, time.perf_counter() - start)
    return best * 1000


def _device_memory(side: Side) -> int | None:
    """Bytes of the GPU that are free; None where nothing runs there."""
    if side.backend == "ort-cpu":
        return None
    from claprt_kernels import open_launcher

    return open_launcher(side.device).free_memory()[0]


def main() -> None:
    """The process: what libraries print goes to stderr, so that stdout has the result alone."""
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    try:
        found = run_job(json.load(sys.stdin))
    except ClaprtError as error:
        found = {"error": " ".join(str(error).split())}
    with result, contextlib.suppress(BrokenPipeError):
        json.dump(found, result)


if __name__ == "__main__":
    main()
