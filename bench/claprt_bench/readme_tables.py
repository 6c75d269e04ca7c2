"""The tables of the README and of docs/, each made of committed results.

Figures are rounded as a reader expects, but a worst cosine is cut off, never rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from claprt_bench.errors import ResultError
from claprt_bench.readme_results import Node, Results
from claprt_bench.readme_speed import one_clip
from claprt_bench.readme_text import paragraph, table

_FULL_SIZE = "clap-htsat-unfused (random weights)"
_NUMBERS = {1: "one", 2: "two", 4: "four", 8: "eight"}


def parity(results: Results) -> str:
    """How far FP32 bundles are from transformers."""
    result = results.read("parity-cpu.json")
    machine, versions = result["machine"], result["machine"]["versions"]
    names = {
        "demo (trained)": "`demo`, trained",
        "demo-fused (trained)": "`demo-fused`, trained",
        _FULL_SIZE: "`clap-htsat-unfused`, full size, random weights",
        "clap-htsat-fused (random weights)": "`clap-htsat-fused`, full size, random weights",
        "larger_clap_* (random weights)": "`larger_clap_*`, full size, random weights",
    }
    rows = []
    for checkpoint, name in names.items():
        fp32 = result["rows"].find("checkpoint", checkpoint)["variants"]["fp32"]
        towers = (fp32[tower] for tower in ("audio", "text"))
        rows.append([name, *(f"{_cosine(tower['worst_cosine'])}, {tower['max_abs'].number:.1e}" for tower in towers)])
    inputs = result["rows"].find("checkpoint", _FULL_SIZE)["variants"]["fp32"]["inputs"]
    return table(
        ["checkpoint", "audio: worst cosine, max abs error", "text: worst cosine, max abs error"], rows
    ) + paragraph(
        f"FP32 bundle on ONNX Runtime against transformers, waveform and text to unit vector. {inputs} (recordings of "
        f"speech, a bird, a trumpet, an orchestra and a celesta); {machine['processor']}, {machine['usable_cores']} "
        f"cores; torch {versions['torch']}, transformers {versions['transformers']}, onnxruntime "
        f"{versions['onnxruntime']}; {machine['date']}. The random weights have unit gain, so that different sounds "
        "get different vectors. [Results](bench/results/parity-cpu.json), again with `python -m claprt_bench.parity`."
    )


def variants(results: Results) -> str:
    """What each variant is worth: size, exactness, accuracy, speed."""
    checkpoints = results.read("parity-cpu.json")["rows"]
    demo, full = (checkpoints.find("checkpoint", name)["variants"] for name in ("demo (trained)", _FULL_SIZE))
    uses = {
        "fp32": one_clip(results, "fp32"),
        "fp16": "for GPUs, not measured yet",
        "int8": "for TensorRT, not measured yet",
        "int8-cpu": one_clip(results, "int8"),
    }
    rows = [
        [
            f"`{name}`",
            ", ".join(_megabytes(side[name]["bytes"]) for side in (demo, full)),
            *(
                ", ".join(_cosine(side[name][tower]["worst_cosine"]) for side in (demo, full))
                for tower in ("audio", "text")
            ),
            _percent(demo[name]["agreement"]["top1"], 0),
            _percent(demo[name]["demo_accuracy"], 2),
            use,
        ]
        for name, use in uses.items()
    ]
    same = {name: _percent(full[name]["agreement"]["top1"], 0) for name in ("int8", "int8-cpu")}
    header = [
        "variant", "size: demo, full size", "worst cosine, audio: demo, full size",
        "worst cosine, text: demo, full size", "demo: same top-1", "demo: accuracy",
        "one clip on two CPU cores: times as fast as transformers",
    ]  # fmt: skip
    return table(header, rows) + paragraph(
        "Full size is `clap-htsat-unfused` with random weights; accuracy is zero-shot on 256 labelled sounds. The "
        "first five columns are from the same [results](bench/results/parity-cpu.json), the last is [more of "
        "below](#speed-on-a-cpu). Random weights give texts nearly parallel vectors, so there "
        f"INT8 picks another of two labels that hardly differ: top-1 is the same for {same['int8']} (`int8`) and "
        f"{same['int8-cpu']} (`int8-cpu`) of the sounds. What it is for the released weights their builds will say."
    )


def cpu(results: Results) -> str:
    """How fast, on a CPU, against transformers and the stock export."""
    result = results.read("cpu-amd-epyc-zen4.json")
    machine, measured, floor = result["machine"], result["rows"], result["fp32_floor"]
    cores = _NUMBERS.get(int(machine["usable_cores"].number), str(machine["usable_cores"]))
    rows = []
    for label, other, name in (
        ("FP32, one clip", "transformers ", "waveform -> vector, FP32, batch 1"),
        ("FP32, each of 8 clips", "transformers ", "waveform -> vector, FP32, batch 8"),
        ("INT8, one clip", "transformers ", "waveform -> vector, INT8, batch 1"),
        ("INT8, each of 8 clips", "transformers ", "waveform -> vector, INT8, batch 8"),
        ("FP32 audio graph alone, one clip", "stock ONNX export ", "audio graph alone, FP32, batch 1"),
        ("FP32 audio graph alone, each of 8 clips", "stock ONNX export ", "audio graph alone, FP32, batch 8"),
        ("log-Mel alone", "ClapFeatureExtractor ", "log-Mel alone"),
        ("16 short texts, FP32", "transformers, padded to 77, ", "16 texts -> vectors, FP32"),
        ("16 short texts, INT8", "the same", "16 texts -> vectors, INT8"),
    ):
        row = measured.find("what", name)
        theirs = other + (_figure(row["theirs"]["median"], "ms") if other.endswith(" ") else "")
        rows.append([label, _figure(row["ours"]["median"], "ms"), theirs, _ratio(row["ratio"]), _wanted([row])])
    for label, name, unit in (
        ("cold start to the first vector, FP32; INT8", "cold start to first vector", "s"),
        ("peak memory of that, FP32; INT8", "peak memory of that", "MB"),
    ):
        both = [measured.find("what", f"{name}, {precision}") for precision in ("FP32", "INT8")]
        ours = "; ".join(_figure(row["ours"]["median"], unit) for row in both)
        theirs = f"transformers {_figure(both[0]['theirs']['median'], unit)}"
        rows.append([label, ours, theirs, "; ".join(_ratio(row["ratio"]) for row in both), _wanted(both)])
    rows.append(_install(results.read("install-size.json")))
    slow = measured.find("what", "waveform -> vector, FP32, batch 8")
    peak, least = floor["peak_gflop_per_s"], floor["floor_ms_per_clip"]
    needed = floor["needed_ms_per_clip"]["waveform -> vector, FP32, batch 8"].number
    return "\n\n".join(
        (
            paragraph(
                f"`make bench-cpu`, here on {cores} shared cores of an {machine['processor']} (Zen 4), "
                f"{machine['date']}: the full-size `clap-htsat-unfused` architecture, clips of 10 s, waveform to "
                "vector, sides in turn, medians. transformers runs with its defaults on two threads."
            ).strip(),
            table(["", "claprt", "the other side", "ratio", "wanted"], rows),
            paragraph(
                f"Why what is missed is missed: a clip's products are {floor['gflop_per_clip'].number:.1f} GFLOP, and "
                f"the fastest FP32 product here runs at {peak['median'].number:.0f} GFLOP/s (best "
                f"{peak['best'].number:.0f}), so {least['at_median_peak'].number:.0f} ms of the "
                f"{slow['ours']['median'].number:.0f} are products at full speed ({least['at_best_peak'].number:.0f} "
                f"at best) and {needed:.0f} ms would be needed for a ratio of "
                f"{slow['target']['ratio_at_least'].number:g}. The stock export's products are the same; all that is "
                "left to win over it is around them. Most of the log-Mel is NumPy's FFT in float64, which float32 "
                "would make inaccurate. The ratios of one row differ by a tenth from run to run on these shared "
                "cores. [All samples, profiles, versions](bench/results/cpu-amd-epyc-zen4.json)."
            ).strip(),
        )
    )


def evaluation(results: Results) -> str:
    """How accurate each precision of the demo is on spoken digits, and whether the precisions differ."""
    zero_shot, probe = (results.evaluation(f"eval-fsdd-{task}.json") for task in ("zero-shot", "probe"))
    machine, data, method = zero_shot["machine"], zero_shot["dataset"], zero_shot["method"]
    rows = []
    for variant in zero_shot["variants"].items():
        precision = str(variant["precision"])
        trained = probe["variants"].find("precision", precision)
        rows.append(
            [
                f"`{variant['variant']}`",
                *(_interval(variant["metrics"][metric]) for metric in ("top1", "top5", "map")),
                _interval(trained["metrics"]["accuracy"]),
                *(_against_fp32(one, precision) for one in (zero_shot, probe)),
            ]
        )
    header = ["variant", "zero-shot top-1", "top-5", "mAP", "probe", "zero-shot, beside `fp32`", "probe, beside `fp32`"]
    return table(header, rows) + paragraph(
        f"`claprt eval` of `{zero_shot['bundle']['source']}` on {data['items']} recordings of {data['classes']} spoken "
        f"digits that it was not trained on ({data['name']}, test split), {machine['processor']}, onnxruntime "
        f"{machine['versions']['onnxruntime']}, {machine['date']}. Zero-shot with “{method['templates'][0]}”; the "
        f"probe is logistic regression on the vectors, each of {len(probe['method']['folds'].items())} folds held out "
        f"in turn. In brackets {_percent(method['confidence'], 0)} intervals. Beside `fp32`: sounds that only `fp32` "
        "gets right, that only the variant gets right, and the p-value of McNemar's exact test. Results: "
        "[zero-shot](bench/results/eval-fsdd-zero-shot.json), [probe](bench/results/eval-fsdd-probe.json)."
    )


def log_mel_resources(results: Results) -> str:
    """Registers and spills of the kernels on each target."""
    result = results.read("log-mel-resources.json")
    kernels = result["kernels"].items()
    groups = {"log-Mel, narrow": ("log_mel", "narrow"), "wide": ("log_mel", "wide"), "resample": ("resample", "")}
    rows = []
    for target in dict.fromkeys(str(kernel["target"]) for kernel in kernels):
        cells = [target]
        mine = [kernel for kernel in kernels if str(kernel["target"]) == target]
        for prefix, suffix in groups.values():
            chosen = [one["registers"].number for one in mine if _is_named(one, prefix, suffix)]
            cells.append(_span(chosen, f"{prefix} {suffix} on {target}"))
        rows.append([*cells, _span([kernel["spill_bytes"].number for kernel in mine], f"spills on {target}")])
    shared = {
        prefix: _span([one["shared_bytes"].number for one in kernels if _is_named(one, prefix, "")], prefix)
        for prefix in ("log_mel", "resample")
    }
    header = ["target", "registers: log-Mel, narrow", "log-Mel, wide", "resample", "spills"]
    return (
        table(header, rows)
        + paragraph(
            f"nvcc {result['nvcc']}, `{result['flags'][0]}`. [For each "
            "kernel](../bench/results/log-mel-resources.json), again with `python -m claprt_kernels.compile "
            "--resources`."
        )
        + paragraph(
            f"A block takes {shared['log_mel']} bytes of shared memory (resample: {shared['resample']}). Four blocks "
            "of four warps fit a multiprocessor, three one of Turing, which has 64 KB of shared memory. Narrow "
            "kernels compute bins up to 15 kHz, which all released models stay below; wide ones all 513."
        )
    )


def _is_named(kernel: Node, prefix: str, suffix: str) -> bool:
    name = str(kernel["kernel"])
    return name.startswith(prefix) and name.endswith(suffix)


def _span(values: Sequence[float], what: str) -> str:
    if not values:
        raise ResultError(f"a result lacks a figure: bench/results/log-mel-resources.json has no {what}; measure again")
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _install(result: Node) -> list[str]:
    ours, theirs, ratio = result["claprt[cpu]_mb"], result["torch_transformers_soundfile_mb"], result["ratio"]
    target, below = result["target_ratio"].number, result["target_mb"].number
    missed = "" if ratio.number <= target and ours.number < below else ", missed"
    build = "torch (CPU)" if "+cpu" in str(result["torch"]) else "torch"
    return [
        "[install size](bench/results/install-size.json)",
        f"{ours.number:.1f} MB",
        f"{build}, transformers: {theirs.number:.0f} MB",
        f"{ratio.number:.3f}",
        f"{target:.3f} and < {below:.0f} MB{missed}",
    ]


def _against_fp32(result: Node, precision: str) -> str:
    if precision == "fp32":
        return ""
    pairs = [one for one in result["comparisons"].items() if str(one["a"]) == "fp32" and str(one["b"]) == precision]
    if len(pairs) != 1:
        raise ResultError(
            f"a result lacks a figure: {result.where} does not compare fp32 with {precision}; measure again"
        )
    one = pairs[0]
    return f"{one['only_a']}, {one['only_b']}; p = {one['p_value'].number:.2g}"


def _wanted(rows: Sequence[Node]) -> str:
    target = rows[0]["target"]
    known = target.value if isinstance(target.value, dict) else {}
    limit = target["ratio_at_most" if "ratio_at_most" in known else "ratio_at_least"].number
    bound = f"{limit:.2f}" if limit < 1 else f"{limit:g}"
    return bound if all(row["met"].value is True for row in rows) else f"{bound}, missed"


def _cosine(value: Node) -> str:
    """As many digits as show the error's first one, at least 5, cut off; very near to 1 the distance from it."""
    distance = 1 - value.number
    if distance < 1e-9:
        mantissa, exponent = f"{max(distance, 1e-16):.0e}".split("e")
        return f"1 − {mantissa}e{int(exponent)}"
    digits = max(5, math.ceil(-math.log10(distance)))
    return f"{math.floor(value.number * 10**digits) / 10**digits:.{digits}f}"


def _ratio(value: Node) -> str:
    number = value.number
    return f"{number:.{0 if number >= 10 else 1 if number >= 1.5 else 2}f}"


def _figure(value: Node, unit: str) -> str:
    number = value.number
    return f"{number:.{0 if number >= 10 else 1 if number >= 1 else 2}f} {unit}"


def _megabytes(towers: Node) -> str:
    size = (towers["audio"].number + towers["text"].number) / 1e6
    return f"{size:.{1 if size < 100 else 0}f} MB"


def _percent(value: Node, digits: int) -> str:
    return f"{100 * value.number:.{digits}f} %"


def _interval(metric: Node) -> str:
    return f"{_percent(metric['value'], 1)} ({100 * metric['low'].number:.1f} to {100 * metric['high'].number:.1f})"
