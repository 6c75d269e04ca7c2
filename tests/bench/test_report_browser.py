"""The report in a real browser: nothing empty, cut, overlapping or too faint; light, dark, on phones, on paper.

Takes Debian's packages chromium and chromium-driver. CLAPRT_REQUIRE_BROWSER=1 makes their absence a failure.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from claprt_bench.report import write_report
from tests.bench import results
from tests.bench.test_report import HOSTILE, poisoned

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and os.environ.get("CLAPRT_REQUIRE_BROWSER") != "1",
    reason="Chromium or its driver is missing: apt-get install chromium chromium-driver",
)

A4 = 688  # pixels between the margins
MODES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"), (320, "light")]

# Of all elements that match: those that a reader does not see.
UNSEEN = """
return [...document.querySelectorAll(arguments[0])].filter(e => {
  const box = e.getBoundingClientRect();
  return !(box.width > 0 && box.height > 0 && e.checkVisibility());
}).map(e => e.tagName + ' ' + e.outerHTML.slice(0, 200));
"""

# Texts of plots that are cut off, run into each other, or are smaller than can be read.
UNREADABLE = """
const found = [];
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect(), scale = frame.width / svg.viewBox.baseVal.width;
  const name = svg.querySelector('title').textContent + ': ';
  const texts = [...svg.querySelectorAll('text')].map(e => [e, e.getBoundingClientRect()]);
  for (const [e, box] of texts) {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
        box.bottom > frame.bottom + 1) found.push(name + 'cut: ' + e.textContent);
    if (parseFloat(getComputedStyle(e).fontSize) * scale < 9.5) found.push(name + 'small: ' + e.textContent);
  }
  // Boxes have the line's full height, so those of two lines touch.
  texts.forEach(([a, one], i) => texts.slice(i + 1).forEach(([b, two]) => {
    const wide = Math.min(one.right, two.right) - Math.max(one.left, two.left);
    const high = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
    if (wide > 1 && high > 3 * scale) found.push(name + 'overlap: ' + a.textContent + ' | ' + b.textContent);
  }));
}
return found;
"""

# Texts, and colours of series, with less contrast than WCAG's level AA asks for. Colours are composed as painted.
FAINT = """
const context = Object.assign(document.createElement('canvas'), {width: 1, height: 1})
  .getContext('2d', {willReadFrequently: true});
function paint(layers) {
  for (const colour of layers) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
  const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const known = new Map(), found = [];
const contrast = (under, over) => (Math.max(under, over) + 0.05) / (Math.min(under, over) + 0.05);
const root = getComputedStyle(document.documentElement);
for (const name of [0, 1, 2, 3, 4, 5].map(i => '--series-' + i).concat('--warn', '--muted')) {
  const ratio = contrast(paint([root.getPropertyValue('--page')]), paint([root.getPropertyValue(name)]));
  if (!(ratio >= 4.5)) found.push(ratio.toFixed(2) + ' ' + name);
}
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  if (['TITLE', 'DESC'].includes(e.tagName.toUpperCase())) continue;
  const layers = [e.tagName === 'text' ? getComputedStyle(e).fill : getComputedStyle(e).color];
  for (let up = e; up instanceof Element; up = up.parentElement) layers.unshift(getComputedStyle(up).backgroundColor);
  const key = layers.join();
  if (!known.has(key)) {
    known.set(key, contrast(paint(layers.slice(0, -1)), paint(layers)));
  }
  if (!(known.get(key) >= 4.5)) found.push(known.get(key).toFixed(2) + ' ' + e.textContent.slice(0, 40));
}
return [found, [...known.values()].length];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser without a network that keeps what pages report."""
    from selenium import webdriver

    assert CHROMIUM, "Chromium is missing: apt-get install chromium"
    assert DRIVER, "Chromium's driver is missing: apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"),
        *("disable-background-networking", "host-resolver-rules=MAP * ~NOTFOUND", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def show(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Open a page, written once, at a width and in a colour scheme; returns what runs scripts in it."""
    written: dict[str, Path] = {}
    make: dict[str, Callable[[], list[dict[str, Any]]]] = {
        # Everything that a page may have; names as long as they get; the most classes that a matrix is drawn for.
        "full": lambda: [
            results.speed(noisy=True, gpu=True),
            results.evaluation(classes=20),
            results.evaluation(1, "retrieval"),
            results.evaluation(2, "probe", 30),
        ],
        "hostile": lambda: [poisoned(_few(results.speed())), poisoned(results.evaluation(task="probe"))],
    }

    def run(name: str, width: int, scheme: str, media: str = "screen") -> Any:
        if name not in written:
            written[name] = tmp_path_factory.mktemp("page") / "report.html"
            write_report(make[name](), written[name])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        browser.get(written[name].as_uri())
        return browser.execute_script

    return run


def _few(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"measurements": document["measurements"][8:13], "scaling": [], "open_loop": []}


def _open_all(script: Any) -> None:
    script("document.querySelectorAll('details').forEach(e => e.open = true)")


def _overflow(script: Any) -> list[int]:
    """Width of the content, of the window."""
    found: list[int] = script("return [document.documentElement.scrollWidth, innerWidth]")
    return found


@pytest.mark.parametrize(("width", "scheme"), MODES)
def test_everything_is_seen_and_readable(width: int, scheme: str, show: Callable[..., Any], browser: Any) -> None:
    """With everything unfolded: sizes, contrast, texts of plots, no wider than the window, no complaints."""
    script = show("full", width, scheme)
    assert _overflow(script) == [width, width]
    assert script(UNSEEN, "section, h1, h2, h3, .cards li, .warning, nav, nav summary") == []
    _open_all(script)
    assert _overflow(script) == [width, width]
    assert script(UNSEEN, "section, figure, svg, svg text, table, th, td, caption, dt, dd, li, h4, p") == []
    assert script("return document.querySelectorAll('svg').length") > 25
    assert script("return document.querySelectorAll('table').length") > 40
    assert script(UNREADABLE) == []
    faint, pairs = script(FAINT)
    assert faint == []
    assert pairs > 8  # pairs of colours
    assert browser.get_log("browser") == []
    assert script("return performance.getEntriesByType('resource').length") == 0


def test_schemes_differ(show: Callable[..., Any]) -> None:
    """Page and plots follow the reader's colour scheme."""
    look = "const p = document.querySelector('svg text'); return [getComputedStyle(document.body).backgroundColor, "
    look += "getComputedStyle(p).fill, getComputedStyle(document.querySelector('svg path[style*=series]')).stroke]"
    light, dark = (show("full", 1280, scheme)(look) for scheme in ("light", "dark"))
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert max(int(part) for part in re.findall(r"\d+", dark[0])) < 60
    assert min(int(part) for part in re.findall(r"\d+", dark[1])) > 200


def test_wide_tables_scroll_by_themselves(show: Callable[..., Any]) -> None:
    """On a phone their last column can be reached, and the first one stays in sight."""
    script = show("full", 390, "light")
    found = script("""
      const frame = [...document.querySelectorAll('.scroll')].find(e => e.scrollWidth > e.clientWidth + 200);
      const head = frame.querySelector('tbody th'), cell = frame.querySelector('tbody tr').lastElementChild;
      const before = head.getBoundingClientRect().left;
      frame.scrollLeft = 1e6;
      return [before, head.getBoundingClientRect().left, cell.getBoundingClientRect().right, innerWidth];
    """)
    assert found[0] == found[1]
    assert found[2] <= found[3]


def test_paper(show: Callable[..., Any], browser: Any) -> None:
    """Print: black on white in the dark too, what is folded away unfolded, no table wider than the sheet, pages."""
    script = show("full", A4, "dark", "print")
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    assert script(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    assert script(
        "return document.querySelectorAll('details[open]').length < document.querySelectorAll('details').length"
    )
    assert script(UNSEEN, "main table, main td, svg, svg text") == []
    wide = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => "
    assert script(wide + "e.textContent.slice(0, 80))") == []
    faint, _ = script(FAINT)
    assert faint == []
    options = {"printBackground": True, "preferCSSPageSize": True}
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", options)["data"])
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 10


def test_hostile_texts_do_nothing(show: Callable[..., Any], browser: Any) -> None:
    """They are shown, run nothing, add nothing, and make the page no wider, even without a space to break at."""
    script = show("hostile", 320, "light")
    assert script("return document.querySelectorAll('script, img, iframe, form, style ~ style').length") == 0
    _open_all(script)
    assert _overflow(script) == [320, 320]
    assert script(UNREADABLE) == []
    assert HOSTILE[:40] in script("return document.querySelector('main').textContent")
    assert browser.get_log("browser") == []
