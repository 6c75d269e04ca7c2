"""The README's tables of what `claprt bench` says of a full-size bundle."""

from __future__ import annotations

from claprt_bench.figures import duration, number, size
from claprt_bench.readme_results import Node, Results
from claprt_bench.readme_text import paragraph, table

SPEED, LAION = "speed-amd-epyc-zen4.json", "against-laion-amd-epyc-zen4.json"
_PATHS = (("file", "a file"), ("waveform", "a waveform"), ("text", "a text"))
_STEPS = (("waveform", 1, "one clip"), ("waveform", 8, "8 clips"), ("text", 16, "16 texts"))
_PEERS = {
    "transformers": "transformers",
    "torch-compile": "torch.compile",
    "optimum": "optimum",
    "stock": "stock ONNX export",
}
_VERSIONS = (
    ("transformers", "torch"),
    ("transformers", "transformers"),
    ("stock", "onnxruntime"),
    ("optimum", "optimum-onnx"),
)


def speed(results: Results) -> str:
    """Whole paths of a full-size bundle on a CPU."""
    result = results.speed(SPEED)
    threads = result["method"]["threads"]
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
                    *(duration(one["summary"][f"p{percent}_ms"].known) for percent in (50, 95)),
                    number(eight["summary"]["items_per_second"].number),
                    number(eight["summary"]["real_time_factor"].known),
                    duration(one["first_call_ms"].known),
                    size(one["peak_host_bytes"].number),
                ]
            )
    header = ["to its vector", "p50", "p95", "a second, 8 at once", "times real time", "first call", "peak memory"]
    return table(header, rows) + paragraph(
        f"`claprt bench` of the full-size `clap-htsat-unfused` architecture with random weights, {_where(result)}. "
        f"[All samples](bench/results/{SPEED}), [how](docs/benchmarks.md)."
    )


def against(results: Results) -> str:
    """Ratios against peers."""
    result = results.speed(SPEED)
    rows_of = {str(row["peer"]): row for row in result["against"].items()}
    peers = [name for name in _PEERS if name in rows_of]
    rows = []
    for precision in ("fp32", "int8"):
        for step, batch, name in _STEPS:
            cells = [result["against"].find("id", f"against/{step}/{precision}/b{batch}/{peer}") for peer in peers]
            rows.append([f"{name}, {precision.upper()}", *(_interval(cell) for cell in cells)])
    versions = ", ".join(
        f"{package} {rows_of[peer]['peer_versions'][package]}" for peer, package in _VERSIONS if peer in rows_of
    )
    return table(["times as fast as", *(_PEERS[name] for name in peers)], rows) + paragraph(
        "`claprt bench` with `--against`, on the same architecture: ratio of medians with its 95 % interval, each side "
        f"in a process of its own, in turn, as it comes; {_where(result)}, {versions}. The others compute in FP32, and "
        f"pad texts to 77 tokens. {_laion(results)} [All samples](bench/results/{SPEED}), [peers and how they are set "
        "up](docs/benchmark-peers.md)."
    )


def one_clip(results: Results, precision: str) -> str:
    """How many times as fast as transformers one clip is."""
    return _interval(results.speed(SPEED)["against"].find("id", f"against/waveform/{precision}/b1/transformers"))


def _laion(results: Results) -> str:
    """laion-clap reads other files than the other peers: it has a run of its own."""
    result = results.speed(LAION)
    ratios = [
        f"{name} {_interval(result['against'].find('id', f'against/{step}/fp32/b{batch}/laion'))}"
        for step, batch, name in _STEPS
    ]
    return (
        f"LAION's own package, on a `.pt` file of that architecture, in FP32: {', '.join(ratios)} times "
        f"([another run](bench/results/{LAION}))."
    )


def _where(result: Node) -> str:
    """Clips, machine, date; and that it was not quiet."""
    machine, seconds = result["machine"], result["bundle"]["clip_seconds"].number
    reasons = "; ".join(str(reason) for reason in result["noise"]["why_noisy"].items())
    where = f"clips of {seconds:g} s, {machine['processor']}, {result['method']['threads']} threads, {machine['date']}"
    return f"{where} (not a quiet machine: {reasons})" if reasons else where


def _interval(row: Node) -> str:
    low, high = (end.number for end in row["ratio_spread"].items())
    return f"{row['ratio'].number:.2f} ({low:.2f} to {high:.2f})"
