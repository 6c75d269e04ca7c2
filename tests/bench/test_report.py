"""The report's page: complete, self-contained, safe from what stands in a result, the same for the same results."""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from claprt.cli.bench_report import run_report
from claprt.errors import MissingExtraError, OptionError
from claprt_bench.document import write_document
from claprt_bench.errors import ResultError
from claprt_bench.report import write_report
from claprt_bench.report.page import render
from tests.bench import results

Document = dict[str, Any]
Element = ElementTree.Element

SPEED_LISTS = ("measurements", "cold_start", "open_loop", "scaling", "against", "checks", "left_out")
TITLES = {
    "measurements": ["Whole paths", "Latency distributions", "Stages"],
    "cold_start": ["Cold start"],
    "open_loop": ["Open loop"],
    "scaling": ["Scaling"],
    "against": ["Against other libraries"],
    "checks": ["Checks"],
    "left_out": ["Left out"],
}
# What decides how a document is read; everything else in it is text from somewhere.
STRUCTURE = {"format", "kind", "task", "group", "step", "axis", "unit"}


@pytest.fixture(scope="module")
def text() -> str:
    """A page of two speed documents, the second one from a noisy machine, and of an evaluation."""
    return render(documents())


@pytest.fixture(scope="module")
def page(text: str) -> Element:
    return parse(text)


def documents() -> list[Document]:
    noisy = results.speed(1, noisy=True)
    noisy["measurements"] = [m for m in noisy["measurements"] if m["batch"] == 1 and m["precision"] != "int8"]
    noisy |= {"scaling": noisy["scaling"][:2], "against": noisy["against"][:3]}
    return [results.speed(), results.evaluation(), noisy]


def parse(text: str) -> Element:
    """A page that must be well-formed."""
    doctype, _, rest = text.partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


def words(element: Element) -> str:
    """An element's text."""
    return " ".join("".join(element.itertext()).split())


def headings(page: Element) -> list[str]:
    return [words(element) for element in page.iter("h3")]


def only(document: Document, *kept: str) -> Document:
    """A speed document with all lists empty but some."""
    return document | {key: [] for key in (*SPEED_LISTS, "warnings") if key not in kept}


def test_elements_are_closed_as_browsers_see_it(text: str) -> None:
    """XML is more lenient than HTML with `<p/>`; a browser would leave the element open."""

    class Strict(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.empty: set[str] = set()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            if "svg" not in self.open:
                self.empty.add(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert parser.empty == {"meta"}


def test_nothing_comes_from_elsewhere(text: str, page: Element) -> None:
    """No address, no script, no file beside it: what is referred to is on the page, once."""
    assert re.search(r"https?:|//|@import|url\((?!#)|<(script|link|img|iframe|object|embed)\b| on\w+=", text) is None
    found = [element.attrib["id"] for element in page.iter() if "id" in element.attrib]
    assert len(found) == len(set(found))
    wanted = set(re.findall(r"url\(#([^)]+)\)", text))
    for element in page.iter():
        wanted |= set(element.get("aria-labelledby", "").split())
        if (target := element.get("href")) is not None:
            assert target.startswith("#")
            wanted.add(target[1:])
    assert wanted <= set(found)
    assert len(wanted) > 50


def test_every_plot_says_what_it_shows(page: Element) -> None:
    """A name, a description, something drawn, and only colours that follow the page."""
    plots = list(page.iter("svg"))
    assert len(plots) == 22 + 11 + 1
    for plot in plots:
        title, description = plot.find("title"), plot.find("desc")
        assert title is not None
        assert description is not None
        assert words(title)
        assert words(description)
        assert plot.get("role") == "img"
        paths = [path.get("d", "") for path in plot.iter("path")]
        assert len(paths) > 8
        assert all(paths)
        assert len([element for element in plot.iter("text") if words(element)]) > 4
        for element in plot.iter():
            assert "#" not in element.get("style", "").replace("url(#", "")
            assert not {"fill", "stroke"} & set(element.attrib)


def test_every_plot_has_its_data_as_text(page: Element) -> None:
    """In a table under it, or in one of the same section."""
    for section in page.iter("section"):
        if section.find(".//svg") is not None:
            assert section.find(".//tbody/tr/td") is not None


def test_tables_can_be_read_aloud(page: Element) -> None:
    """A caption, heads with scopes, as many cells in each row as heads, and none without text."""
    tables = list(page.iter("table"))
    assert len(tables) > 40
    for table in tables:
        caption = table.find("caption")
        assert caption is not None
        assert words(caption)
        heads = table.findall("thead/tr/*")
        rows = table.findall("tbody/tr")
        assert rows
        for head in heads:
            assert words(head)
            assert head.get("scope") == "col" or "corner" in head.get("class", "")
        for row in rows:
            assert len(row) == len(heads)
            assert row[0].tag == "th"
            assert row[0].get("scope") == "row"
            assert words(row[0])


def test_headings_are_in_order(page: Element) -> None:
    levels = [int(element.tag[1]) for element in page.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_summary_has_the_figures_that_matter() -> None:
    """The best of each kind, as they follow from the document."""
    document = only(results.speed(), "measurements", "cold_start", "against")
    document["measurements"] = [m | {"samples_ms": []} for m in document["measurements"] if m["group"] == "path"]
    wave = [m for m in document["measurements"] if m["group"] == "path" and m["step"] == "waveform"]
    fastest = min(m["summary"]["p50_ms"] for m in wave if m["batch"] == 1)
    most = max(m["summary"]["items_per_second"] for m in document["measurements"] if m["step"] in ("waveform", "file"))
    start = min(s["median_ms"] for s in document["cold_start"])
    peer = next(a for a in document["against"] if a["peer"] == "torch-compile" and a["step"] == "waveform")
    found = {}
    for card in parse(render([document])).iter("li"):
        if len(card) == 3:
            what, figure, condition = (words(part) for part in card)
            found[what] = (figure, condition)
    assert found["waveform → vector, fastest p50"][0] == f"{fastest:.1f}ms"
    assert found["highest throughput"][0] == f"{most:.1f}items/s"
    assert found["fastest cold start"][0] == f"{start:.0f}ms"
    assert found["peak memory of that"][0] == "138MB"
    figure, condition = found["speed against torch-compile"]
    assert 0 <= peer["ratio"] - float(figure.removesuffix("×")) < 0.001  # rounded down
    assert condition.startswith("slower, waveform → vector, fp32, batch 1, 95 % interval ")


def test_a_noisy_machine_does_not_look_clean(page: Element) -> None:
    """A box in the summary and over the chapter, and a mark on every section of timings; none for the quiet one."""
    quiet, noisy, evaluation = (page.find(f".//section[@id='result-{i}']") for i in (1, 2, 3))
    assert quiet is not None
    assert noisy is not None
    assert evaluation is not None
    for chapter in (quiet, evaluation):
        assert chapter.find(".//*[@class='warning']") is None
        assert chapter.find(".//*[@class='doubt']") is None
    box = noisy.find("div[@class='warning']")
    assert box is not None
    assert "other processes used 0.83 cores" in words(box)
    marked = {section.get("id") for section in noisy.iter("section") if section.find("p[@class='doubt']") is not None}
    places = ("whole-paths", "latency-distributions", "stages", "cold-start", "open-loop", "scaling")
    assert marked == {f"result-2-{place}" for place in (*places, "against-other-libraries")}
    summary = page.find(".//section[@id='summary']")
    assert summary is not None
    assert len(summary.findall(".//div[@class='warning']")) == 1
    assert "⚠ noisy" in words(summary)


def test_a_check_that_failed_is_a_warning() -> None:
    document = only(results.speed(), "checks")
    document["checks"] = [document["checks"][0], {"what": "vectors", "value": 0.5, "bound": 0.9, "passed": False}]
    page = parse(render([document]))
    box = page.find(".//div[@class='warning']")
    assert box is not None
    assert "a check failed: vectors: 0.5, bound 0.9" in words(box)
    assert "1 of 2 checks did not pass" in words(page)
    assert page.find(".//details[@open='open']") is not None


@pytest.mark.parametrize("kept", SPEED_LISTS)
def test_a_section_is_there_when_its_data_is(kept: str) -> None:
    document = only(results.speed(), kept)
    document[kept] = document[kept][:20]
    assert headings(parse(render([document]))) == ["Where and how", *TITLES[kept]]


def test_sections_of_an_evaluation() -> None:
    """Each task has its own; a part that a document does not have leaves no trace."""
    whole = ["Where and how", "Metrics", "Variants in pairs", "Confusion", "Per class"]
    probe = results.evaluation(task="probe")
    assert headings(parse(render([probe]))) == [*whole, "Per fold"]
    assert headings(parse(render([results.evaluation(task="retrieval")]))) == whole[:2]
    for variant in probe["variants"]:
        variant.update(per_class=None, confusion=None, per_fold=None)
    assert headings(parse(render([probe | {"comparisons": []}]))) == whole[:2]


def test_a_document_without_measurements_says_so() -> None:
    page = parse(render([{"format": "claprt-result", "schema_version": 1, "kind": "speed"}]))
    assert "This result has no measurements." in words(page)
    assert "Whether the machine was quiet is not known." in words(page)


def test_a_confusion_matrix_shows_its_counts() -> None:
    """All of them up to 20 classes."""
    document = results.evaluation(classes=20)
    table = next(t for t in parse(render([document])).iter("table") if t.get("class") == "confusion")
    counts = document["variants"][0]["confusion"]["counts"]
    shown = [[0 if words(cell) == "·" else int(words(cell)) for cell in row[1:]] for row in table.findall("tbody/tr")]
    assert shown == counts


def test_many_classes_show_what_is_confused_most() -> None:
    """Above 20 classes: the largest counts off the diagonal, with their share of the class."""
    document = results.evaluation(classes=21)
    block = document["variants"][0]["confusion"]
    counts = block["counts"] = [[0] * 21 for _ in range(21)]
    counts[3][3], counts[3][5], counts[7][1] = 15, 5, 9
    table = next(t for t in parse(render([document])).iter("table") if "Most frequent" in words(t))
    rows = [[words(cell) for cell in row] for row in table.findall("tbody/tr")]
    assert rows == [["seven", "one", "9", "100.0 %"], ["three", "five", "5", "25.0 %"]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "No difference was shown; a loss of more than 2.0 points is unlikely."),
        ({"p_value": 0.01, "difference": {"value": -0.03, "low": -0.05, "high": -0.01}}, "int8 is worse."),
        ({"p_value": 0.01, "difference": {"value": 0.03, "low": 0.01, "high": 0.05}}, "int8 is better."),
        ({"p_value": None, "difference": {"value": -0.03, "low": -0.05, "high": -0.01}}, "int8 is worse."),
        ({"p_value": None, "difference": {"value": 0.0, "low": 0.0, "high": 0.0}}, "No difference was shown."),
        ({"p_value": None, "difference": None}, "No difference was shown."),
    ],
)
def test_comparisons_in_words(fields: Document, said: str) -> None:
    """What is said follows from the test, or without one from the interval; never "the same"."""
    document = results.evaluation()
    document["comparisons"] = [document["comparisons"][0] | fields]
    page = parse(render([document]))
    assert [words(element) for element in page.findall(".//main//li/strong") if words(element).endswith(".")] == [
        said
    ] * 2


def test_what_is_missing_is_a_dash() -> None:
    """Any field may be null: the page says –, and why where the document tells."""

    def without(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: without(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [without(each, key) for each in value] if value and isinstance(value[0], dict) else None
        return value if key in STRUCTURE | {"what", "schema_version"} else None

    for document in (results.speed(), results.evaluation(task="probe")):
        page = parse(render([without(document)]))
        assert "– (the system does not say)" in words(page)
        assert "None" not in words(page)
        assert "nan" not in words(page)


def test_percentiles_without_calls_enough_are_not_shown() -> None:
    """Not in the data of a plot either, where they could be computed; and the reason is given."""
    document = only(results.speed(), "measurements")
    document["measurements"] = [m for m in document["measurements"] if m["step"] == "text" and m["batch"] == 8]
    page = parse(render([document]))
    assert "p99: –, or no column, where calls were too few for it." in words(page)
    table = next(table for table in page.iter("table") if "so many calls took at most" in words(table))
    rows = {words(row[0]): [words(cell) for cell in row[1:]] for row in table.findall("tbody/tr")}
    assert rows["99 %"] == ["–", "–"]
    assert "–" not in rows["95 %"] + rows["100 %"]


def test_checks_have_the_digits_that_tell() -> None:
    """A cosine just below one is not one."""
    document = only(results.speed(), "checks")
    document["checks"] = [{"what": "cosine", "value": 1 - 3e-10, "bound": 0.999999, "passed": True}]
    row = next(row for row in parse(render([document])).iter("tr") if words(row[0]) == "cosine")
    assert [words(cell) for cell in row] == ["cosine", "1 − 3e-10", "0.9999990", "passed"]


HOSTILE = "$\\frac{a}$<script>alert('x')</script>\"> &amp; ]]> --> \x00\x1b[31m\ud800\u202e %s {x} \n```" + "w" * 200


def poisoned(value: Any, key: str = "") -> Any:
    """A document with that in place of every text that comes from somewhere."""
    if isinstance(value, dict):
        return {name if key != "versions" else HOSTILE: poisoned(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, key) for each in value]
    return HOSTILE if isinstance(value, str) and key not in STRUCTURE else value


def test_text_from_a_document_stays_text(page: Element, tmp_path: Path) -> None:
    """Labels, paths and names may come from anywhere: none becomes an element, an attribute or a formula."""

    known = {element.tag for element in page.iter()}
    write_report([poisoned(results.speed()), poisoned(results.evaluation(task="probe"))], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = parse(text)
    assert {element.tag for element in found.iter()} == known
    assert "<script" not in text
    assert re.search("[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", text) is None
    assert text.count("&lt;script&gt;alert(") > 100
    assert any("$\\frac" in words(element) for element in found.iter("text"))


def _set(*path: str | int, to: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        value: Any = document
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        ("speed", _set("machine", to=[]), "machine is a list of 0, not an object"),
        ("speed", _set("machine", "processor", to=7), "machine.processor is 7, not a text"),
        ("speed", _set("measurements", to={}), "measurements is a dict of 0, not a list"),
        ("speed", _set("measurements", 3, to="x"), "measurements[3] is 'x', not an object"),
        (
            "speed",
            _set("measurements", 0, "batch", to="1"),
            "measurements[0].batch is '1', not a finite number",
        ),
        (
            "speed",
            _set("measurements", 10, "batch", to=0),
            "measurements[10].batch is 0, not a finite number of at least 1",
        ),
        (
            "speed",
            _set("measurements", 11, "summary", "p50_ms", to=True),
            "measurements[11].summary.p50_ms is True, not a",
        ),
        (
            "speed",
            _set("measurements", 11, "summary", "p90_ms", to=-1.0),
            "measurements[11].summary.p90_ms is -1.0, not",
        ),
        (
            "speed",
            _set("measurements", 11, "samples_ms", to=[[1.0], ["2"]]),
            "measurements[11].samples_ms[1] is '2', not",
        ),
        (
            "speed",
            _set("measurements", 11, "samples_ms", to=[[1e999]]),
            "measurements[11].samples_ms[0] is inf, not a f",
        ),
        ("speed", _set("cold_start", 0, "median_ms", to=10**5000), "cold_start[0].median_ms is a huge integer, not a"),
        ("speed", _set("noise", "quiet", to="yes"), "noise.quiet is 'yes', not true or false"),
        (
            "speed",
            _set("against", 0, "ratio_spread", to=[3.0, 2.0]),
            "against[0].ratio_spread is a list of 2, not a pair",
        ),
        (
            "evaluation",
            _set("variants", 0, "metrics", "top1", "value", to=1.2),
            "variants[0].metrics.top1.value is 1.2, not",
        ),
        (
            "evaluation",
            _set("variants", 0, "confusion", "counts", 0, to=[1]),
            "variants[0].confusion.counts is a list",
        ),
        (
            "evaluation",
            _set("variants", 0, "confusion", "counts", 0, 0, to=-1),
            "variants[0].confusion.counts is -1, not",
        ),
        (
            "evaluation",
            _set("variants", 0, "confusion", "labels", 2, to=5),
            "variants[0].confusion.labels[2] is 5, not a",
        ),
        ("evaluation", _set("dataset", "skipped", to=[None]), "dataset.skipped[0] is None, not an object"),
    ],
)
def test_wrong_types_are_errors(kind: str, change: Callable[[Document], None], named: str, tmp_path: Path) -> None:
    """One line that names the document, the field and the value; no page is left behind."""
    part = named.partition("[")[0].partition(":")[0]
    document = only(results.speed(), part) if kind == "speed" else results.evaluation()
    change(document)
    with pytest.raises(ResultError) as raised:
        write_report([document], tmp_path / "report.html")
    message = str(raised.value)
    assert message.startswith(f"a damaged result: result 1 ({kind}): {named}")
    assert message.endswith("; measure again")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_errors_count_documents_as_they_were_given(tmp_path: Path) -> None:
    """The page has speed first; an error says which file."""
    wrong = only(results.speed(), "checks")
    wrong["checks"] = 1
    with pytest.raises(ResultError, match=re.escape("result 2 (speed): checks is 1, not a list")):
        write_report([results.evaluation(), wrong], tmp_path / "report.html")


@pytest.mark.parametrize("kind", ["parity", None, 3, "<b>"])
def test_other_kinds_are_errors(kind: object, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=re.escape(f"a result of another kind: result 1: {kind!r}")):
        write_report([{"kind": kind}], tmp_path / "report.html")


def test_the_same_results_make_the_same_page() -> None:
    """Also where the user set up matplotlib otherwise, whose settings stay as they are."""
    import matplotlib as mpl

    few = [results.evaluation(), only(results.speed(), "open_loop", "against")]
    first = render(few)
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": None, "svg.fonttype": "path"}):
        before = {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}  # reading that would choose one
        again = render(copy.deepcopy(few))
        assert {key: mpl.rcParams[key] for key in before} == before
    assert again == first


def test_documents_are_not_changed() -> None:
    document = results.evaluation()
    before = copy.deepcopy(document)
    render([document])
    assert document == before


def test_plots_are_only_loaded_when_drawn() -> None:
    """What writes no report runs without matplotlib; and what does has no use for its state of open figures."""
    code = "import sys, claprt_bench.report.page as p; print('matplotlib' in sys.modules)\n"
    code += (
        "from tests.bench import results; p.render([results.evaluation()]); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'claprt[bench]'")):
        write_report([results.evaluation()], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`claprt bench report`: what it wrote, as text and as JSON."""
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for seed, path in enumerate(paths):
        write_document(results.evaluation(seed), path)
    output = tmp_path / "report.html"
    assert run_report(argparse.Namespace(documents=paths, output=output, json=False)) == 0
    assert capsys.readouterr().out == f"{output}: 2 results\n"
    assert output.read_text(encoding="utf-8") == render([results.evaluation(0), results.evaluation(1)])
    assert run_report(argparse.Namespace(documents=paths[:1], output=output, json=True)) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(output), "results": [str(paths[0])]}
    assert output.read_text(encoding="utf-8") == render([results.evaluation(0)])


def test_command_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    """Also what cannot be compared is refused: an interval that its value's upper end is below, a field that lacks."""
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    write_document(results.speed(), good)
    crossed = results.evaluation()
    metric = next(iter(crossed["variants"][0]["metrics"].values()))
    metric |= {"low": 0.9, "high": 0.1}
    lacking = results.evaluation()
    del lacking["dataset"]["items"]
    wrong = results.speed()
    wrong["measurements"][0]["batch"] = "many"
    for document in (crossed, lacking, wrong):
        write_document(document, bad)
        with pytest.raises(ResultError) as caught:
            run_report(argparse.Namespace(documents=[good, bad], output=tmp_path / "r.html", json=False))
        assert str(bad) in str(caught.value)
        assert "result 2" not in str(caught.value)
    assert not (tmp_path / "r.html").exists()


def test_command_never_replaces_a_result(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_document(results.evaluation(), path)
    before = path.read_bytes()
    for output in (path, tmp_path / "." / "a.json", tmp_path / "missing" / "r.html", tmp_path):
        with pytest.raises(OptionError):
            run_report(argparse.Namespace(documents=[path], output=output, json=False))
    with pytest.raises(ResultError, match="check the path"):
        run_report(argparse.Namespace(documents=[tmp_path / "b.json"], output=tmp_path / "r.html", json=False))
    with pytest.raises(OptionError, match="none were given"):
        write_report([], tmp_path / "r.html")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
