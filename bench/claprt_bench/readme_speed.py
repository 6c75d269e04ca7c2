"""The README's table of what `claprt bench` says of a full-size bundle."""

from __future__ import annotations

from claprt_bench.figures import UNKNOWN, duration, number, size
from claprt_bench.readme_results import Node, Results
from claprt_bench.readme_text import paragraph, table

RESULT = "speed-amd-epyc-zen4.json"
_PATHS = (("file", "a file"), ("waveform", "a waveform"), ("text", "a text"))
_PEERS = {
    "transformers": "transformers",
    "torch-compile": "torch.compile",
    "stock": "stock ONNX export",
}


def speed(results: Results) -> str:
    """Whole paths of a full-size bundle on a CPU, and ratios against peers."""
    result = results.speed(RESULT)
    machine, method = result["machine"], result["method"]
    threads = method["threads"]
    rows = []
    for precision in ("fp32", "int8"):
        for step, name in _PATHS:
            one, eight = (
                result["measurements"].find("id", f"path/{step}/{precision}/ort-cpu/b{batch}/t{threads}")
                for batch in (1, 8)
            )
            rows.append(
                [
                    f"{name}, {precision.upper()}",
                    *(_time(one["summary"][f"p{percent}_ms"]) for percent in (50, 95)),
                    number(eight["summary"]["items_per_second"].number),
                    _real_time(eight["summary"]["real_time_factor"]),
                    _time(one["first_call_ms"]),
                    size(one["peak_host_bytes"].number),
                ]
            )
    header = ["to its vector", "p50", "p95", "a second, 8 at once", "times real time", "first call", "peak memory"]
    quiet = "" if result["noise"]["quiet"].value is True else f" Not a quiet machine: {_why(result)}."
    return (
        table(header, rows)
        + paragraph(
            f"`claprt bench` of the full-size `clap-htsat-unfused` architecture with random weights, clips of "
            f"{result['bundle']['clip_seconds'].number:g} s, {machine['processor']}, {threads} threads, onnxruntime "
            f"{machine['versions']['onnxruntime']}, {machine['date']}.{quiet}"
        )
        + "\n\n"
        + _against(result)
        + paragraph(
            "How many times as fast claprt is, with the 95 % interval of the ratio; each side in a process of its own, "
            f"in turn, as it comes, FP32 but for claprt's INT8. Texts: 16 short ones, which the others pad to 77 "
            f"tokens. [All samples](bench/results/{RESULT}), [how](docs/benchmarks.md), [other "
            "peers](docs/benchmark-peers.md)."
        )
    )


def _against(result: Node) -> str:
    known = {str(row["peer"]) for row in result["against"].items()}
    peers = [name for name in _PEERS if name in known]
    rows = []
    for precision in ("fp32", "int8"):
        for step, batch, name in (("waveform", 1, "one clip"), ("waveform", 8, "8 clips"), ("text", 16, "16 texts")):
            cells = [result["against"].find("id", f"against/{step}/{precision}/b{batch}/{peer}") for peer in peers]
            rows.append([f"{name}, {precision.upper()}", *(_interval(cell) for cell in cells)])
    return table(["against", *(_PEERS[name] for name in peers)], rows)


def _interval(row: Node) -> str:
    low, high = (end.number for end in row["ratio_spread"].items())
    return f"{row['ratio'].number:.2f} ({low:.2f} to {high:.2f})"


def _time(value: Node) -> str:
    return UNKNOWN if value.value is None else duration(value.number)


def _real_time(value: Node) -> str:
    return UNKNOWN if value.value is None else number(value.number)


def _why(result: Node) -> str:
    return "; ".join(str(reason) for reason in result["noise"]["why_noisy"].items())
