"""What every document has: machine, bundle, method, whether the machine was quiet, checks, what was left out."""

from __future__ import annotations

from collections.abc import Sequence

from claprt_bench import figures
from claprt_bench.figures import UNKNOWN
from claprt_bench.report.fields import Record
from claprt_bench.report.html import EMPTY, Html, bullets, details, element, facts, join, paragraph, table, warning
from claprt_bench.report.series import named, plural
from claprt_bench.report.sheet import Sheet

_UNITS = {"_s": " s", "_ms": " ms", "_bytes": " bytes"}


def doubts(document: Record) -> list[str]:
    """Why a document's figures are in doubt: its warnings, what made the machine noisy, checks that failed."""
    noise = document.record("noise")
    found = [*document.texts("warnings"), *noise.texts("why_noisy")]
    if noise.flag("quiet") is False and not found:
        found.append("the machine was not quiet")
    for check in document.records("checks"):
        if check.flag("passed") is False:
            value, bound = (_measure(check.number(key)) for key in ("value", "bound"))
            found.append(f"a check failed: {named(check.text('what'))}: {value}, bound {bound}")
    unique = dict.fromkeys(found)
    return [one for one in unique if not any(one != other and one in other for other in unique)]


def noisy(document: Record) -> bool:
    """Whether the document says that its machine was not quiet."""
    noise = document.record("noise")
    return noise.flag("quiet") is False or bool(noise.texts("why_noisy"))


def doubt_box(document: Record) -> Html:
    """The visible box with every doubt."""
    return warning("Read these figures with care", doubts(document))


def circumstances(document: Record, sheet: Sheet) -> Html:
    """Machine, bundle, dataset, method, noise."""
    parts = [
        ("Machine", _machine(document.record("machine"))),
        ("Bundle", _bundle(document.record("bundle"))),
        ("Dataset", _dataset(document.record("dataset"))),
        ("Method", _free(document.record("method"))),
        ("Quiet or noisy", _noise(document)),
    ]
    blocks = [element("section", element("h4", title), facts(pairs), class_="facts") for title, pairs in parts if pairs]
    return join([element("div", *blocks, class_="columns"), _skipped(document.record("dataset"))])


def checks(document: Record, sheet: Sheet) -> Html:
    """Values that were checked before anything was timed."""
    found = document.records("checks")
    if not found:
        return EMPTY
    failed = sum(check.flag("passed") is not True for check in found)
    rows = [
        (
            named(check.text("what")),
            _measure(check.number("value")),
            _measure(check.number("bound")),
            {True: "passed", False: "FAILED", None: UNKNOWN}[check.flag("passed")],
        )
        for check in found
    ]
    said = f"All {plural(len(found), 'check')} passed." if len(found) > 1 else "The check passed."
    if failed:
        said = f"{failed} of {plural(len(found), 'check')} did not pass."
    listing = table("Values checked", ("what", "value", "bound", "result"), rows, left=(3,))
    lead = paragraph("Values are checked before times are taken: a fast wrong answer is no result. ", said)
    return join([lead, details(plural(len(found), "check"), listing, open_=bool(failed))])


def left_out(document: Record, sheet: Sheet) -> Html:
    """What was not measured, and why."""
    rows = [(named(item.text("what")), named(item.text("why"))) for item in document.records("left_out")]
    return table("Not measured", ("what", "why"), rows, left=(1,)) if rows else EMPTY


def _measure(value: float | None) -> str:
    """A checked value or its bound: near one, where cosines are, with all the digits that tell."""
    return figures.cosine(value) if value is not None and 0.9 < value < 1 else plain(value)


def _machine(machine: Record) -> list[tuple[str, str]]:
    if not machine:
        return []
    gpu = machine.record("gpu")
    cores = machine.number("usable_cores", 0)
    pairs = [
        ("processor", named(machine.text("processor"))),
        ("instruction sets", ", ".join(machine.texts("cpu_flags")) or UNKNOWN),
        ("usable cores", figures.count(cores)),
        ("governor", machine.text("governor") or f"{UNKNOWN} (the system does not say)"),
        ("GPU", ", ".join(_gpu(gpu)) if gpu else "none used"),
        ("system", named(machine.text("system"))),
        ("Python", named(machine.text("python"))),
    ]
    pairs += [(name, plain(version)) for name, version in machine.record("versions").free().items()]
    return [*pairs, ("date", named(machine.text("date")))]


def _gpu(gpu: Record) -> list[str]:
    parts = [gpu.text("name")]
    named_parts = (("compute capability", "compute_capability"), ("driver", "driver"), ("CUDA", "cuda"))
    parts += [f"{title} {plain(gpu.free().get(key))}" for title, key in named_parts if gpu.free().get(key) is not None]
    memory = gpu.number("memory_bytes", 0)
    return [part for part in (*parts, figures.size(memory) if memory else None) if part]


def _bundle(bundle: Record) -> list[tuple[str, str]]:
    if not bundle:
        return []
    seconds = bundle.number("clip_seconds", 0)
    return [
        ("source", named(bundle.text("source"))),
        ("vectors", plural(dim, "number") if (dim := bundle.number("embedding_dim", 0)) is not None else UNKNOWN),
        ("clips", UNKNOWN if seconds is None else f"{seconds:g} s"),
        ("space", named(bundle.text("space_id"))),
        ("weights' sha256", named(bundle.text("weights_sha256"))),
    ]


def _dataset(dataset: Record) -> list[tuple[str, str]]:
    if not dataset:
        return []
    seconds = dataset.number("seconds", 0)
    pairs = [
        ("name", named(dataset.text("name"))),
        ("items", figures.count(dataset.number("items", 0))),
        ("classes", figures.count(dataset.number("classes", 0))),
        ("captions", figures.count(dataset.number("captions", 0))),
        ("sound", UNKNOWN if seconds is None else f"{figures.number(seconds)} s in all"),
        ("skipped", plural(len(dataset.records("skipped")), "item")),
        ("sha256", named(dataset.text("sha256"))),
    ]
    return [(name, value) for name, value in pairs if name not in ("classes", "captions") or value != UNKNOWN]


def _skipped(dataset: Record) -> Html:
    rows = [(named(item.text("path")), named(item.text("why"))) for item in dataset.records("skipped")]
    if not rows:
        return EMPTY
    listing = table("Not used, and why", ("item", "why"), rows, left=(1,))
    return details(f"{plural(len(rows), 'item')} of the dataset not used", listing)


def _noise(document: Record) -> list[tuple[str, str]]:
    noise = document.record("noise")
    if not noise:
        return []
    quiet, load = noise.flag("quiet"), noise.record("load_average")

    def cores(key: str) -> str:
        used = noise.number(key, 0)
        return f"{UNKNOWN} (the system does not say)" if used is None else f"{plain(used)} cores"

    def average(key: str) -> str:
        return ", ".join(map(plain, load.numbers(key))) or UNKNOWN

    verdict = {True: "quiet", False: "⚠ noisy", None: f"{UNKNOWN} (not known)"}[quiet]
    pairs = [
        ("verdict", verdict),
        ("other processes", cores("others")),
        ("taken by the host", cores("stolen")),
        ("load average before", average("before")),
        ("load average after", average("after")),
    ]
    reasons = noise.texts("why_noisy")
    return [*pairs, ("why noisy", bullets(reasons))] if reasons else pairs


def _free(record: Record) -> list[tuple[str, str]]:
    """Fields that no schema fixes."""
    pairs = []
    for key, value in record.free().items():
        unit = next((unit for ending, unit in _UNITS.items() if key.endswith(ending)), "")
        name = key.removesuffix(next((ending for ending in _UNITS if key.endswith(ending)), "")).replace("_", " ")
        shown = plain(value)
        pairs.append((name, shown + unit if isinstance(value, (int, float)) else shown))
    return pairs


def plain(value: object, depth: int = 0) -> str:
    """Any JSON value in words."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) < 10**15:
        return str(value)
    if isinstance(value, (int, float)):
        return f"{float(value):.4g}" if abs(value) < 1e300 else "huge"
    if isinstance(value, str):
        return value
    if depth >= 3:
        return "…"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {plain(each, depth + 1)}" for key, each in value.items()) or UNKNOWN
    items: Sequence[object] = value if isinstance(value, list) else [str(value)]
    return ", ".join(plain(each, depth + 1) for each in items) or UNKNOWN
