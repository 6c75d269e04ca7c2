"""One side of a comparison, in a process of its own: `python serve.py SIDE.py`, executed by its path.

It runs on any environment's Python: it needs the standard library and NumPy, and SIDE.py that side's packages. SIDE.py
has `load(job)`, which returns the side's functions by step and its facts (versions, notes). A function takes a list of
inputs and returns vectors (n, dim) float32.

Requests come as lines of JSON on stdin, answers go as lines of JSON to stdout; what libraries print goes to stderr.
The process ends when stdin does, so that none is left when its parent dies.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Server:
    """What a side has loaded, and how it answers."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._functions: dict[str, Callable[[list[Any]], Any]] = {}
        self._inputs: dict[str, list[Any]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load, or run a step once. A run's seconds are those of the side's function alone."""
        if request["do"] == "load":
            return self._load(request["job"])
        function = self._functions["text" if request["step"] == "text" else "waveform"]
        inputs = self._inputs[request["step"]]
        picked = [inputs[index] for index in request["indices"]]
        start = time.perf_counter()
        vectors = function(picked)
        answer: dict[str, Any] = {"seconds": time.perf_counter() - start}
        if request["vectors"]:
            import numpy as np

            found = np.ascontiguousarray(vectors, dtype="<f4")
            answer |= {"vectors": base64.b64encode(found.tobytes()).decode(), "shape": found.shape}
        return answer

    def _load(self, job: dict[str, Any]) -> dict[str, Any]:
        if "clips" in job:
            import numpy as np

            self._inputs = {name: list(np.load(file, allow_pickle=False)) for name, file in job["clips"].items()}
            self._inputs["text"] = job["texts"]
        spec = importlib.util.spec_from_file_location("claprt_bench_side", self._side)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._functions, facts = module.load(job)
        return dict(facts)


def main() -> None:
    """Answer until stdin ends."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    here = str(Path(__file__).parent)
    sys.path[:] = [path for path in sys.path if path != here]  # no file of ours must hide a library
    server = Server(sys.argv[1])
    for line in requests:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:
            message = next((text.strip() for text in str(error).splitlines() if text.strip()), "no message")
            answer = {"error": message, "kind": type(error).__name__}
            if isinstance(error, ImportError):
                answer["missing"] = error.name or message
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
