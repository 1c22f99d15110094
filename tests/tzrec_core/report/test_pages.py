"""Opens reports in headless Chromium; ``make test-pages`` installs it, and then none is skipped."""

import numpy as np
import pyarrow as pa
import pytest

from tests.tzrec_core.report import runs
from tzrec_core import tracking
from tzrec_core.report.build import build
from tzrec_core.report.compare import compare
from tzrec_core.report.inputs import gather, read_champion, read_scored

pytestmark = pytest.mark.pages

WIDTHS = (375, 1280)

OVERLAPS = """
() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
  const found = [];
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (x > 2 && y > 4 && !svg.querySelector('text[transform*="rotate(-40"]'))
      found.push(`${svg.getAttribute('aria-label')}: ${boxes[i][0]} / ${boxes[j][0]}`);
  }
  return found;
})
"""
CUT_OFF = """
() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => {
    const box = t.getBoundingClientRect();
    return box.left < frame.left - 2 || box.right > frame.right + 2
      || box.bottom > frame.bottom + 2;
  }).map(t => `${svg.getAttribute('aria-label')}: ${t.textContent}`);
})
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages by name."""
    folder = tmp_path_factory.mktemp("pages")
    champion = runs.write_run(folder / "old", noises=(1.8,), seed=3, eval_rows=1500)
    build(gather(champion), champion.report)
    place = runs.write_run(folder / "20261121-140758-4128", eval_rows=1500)
    logger = tracking.TensorBoardLogger(place.checkpoints, first_step=1)
    for step in range(10, 400, 10):
        values = {"loss/total": 0.5 + 1 / step, "metric/auc": 0.7 - 1 / step}
        logger.log(values | {"samples_per_second": 4e4, "data_wait_share": 0.02}, step)
    logger.close()
    limits = {"auc": 0.86, "grouped_auc": 0.85}
    build(gather(place, champion=read_champion(champion), best_possible=limits), place.report)
    compare([read_scored(run) for run in (champion, place)], folder)
    found = {"full": place.report / "index.html", "compare": folder / "compare.html"}
    for name, change in {
        "one group": lambda t: replaced(t, "user_id@id", np.ones(len(t), np.int64)),
        "no usable group": lambda t: replaced(t, "user_id@id", t["@row"].to_numpy()),
        "one class": lambda t: replaced(t, "click", np.zeros(len(t), np.int64)),
    }.items():
        run = runs.write_run(folder / name, noises=(1,), eval_rows=300, data=False, change=change)
        build(gather(run), run.report)
        found[name] = run.report / "index.html"
    run = runs.write_run(
        folder / "value", config=runs.value_config(), noises=(1,), eval_rows=500, data=False
    )
    build(gather(run), run.report)
    found["value"] = run.report / "index.html"
    config = runs.binary_config()
    del config.eval_config.slices[:]  # their intervals would take the test's time
    run = runs.write_run(
        folder / "million", config=config, noises=(1,), eval_rows=10**6, num_users=10**5,
        data=False,
    )  # fmt: skip
    build(gather(run), run.report)
    return found | {"a million rows": run.report / "index.html"}


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.fixture(params=[(w, s) for w in WIDTHS for s in ("light", "dark")], ids=str)
def open_page(request, browser, pages, tmp_path):
    """Opens a page by its name; what goes wrong in it fails the test."""
    width, scheme = request.param
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    ) as context:
        problems = []

        def open_(name):
            page = context.new_page()
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda sent: problems.append(sent.url))
            page.goto(pages[name].as_uri())
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            return page

        yield open_
        assert [problem for problem in problems if not problem.startswith("file://")] == []


CONTENT = {
    "full": ["grouped_auc", "against the champion", "columns with drift", "price", "Throughput"],
    "compare": ["2 runs side by side", "difference", "Config"],
    "one group": ["100.0\xa0% of user_id"],
    "no usable group": ["No user_id has a value of grouped_auc"],
    "one class": ["All rows are negative"],
    "value": ["Predictions and targets", "has no two classes"],
    "a million rows": ["1,000,000", "Calibration"],
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_page_shows_its_content_within_its_width(open_page, name):
    page = open_page(name)
    text = page.inner_text("body")

    for words in CONTENT[name]:
        assert words in text
    scroll_width, width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert scroll_width <= width
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(CUT_OFF) == []
    drawn = page.evaluate(
        "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert len(drawn) > 1
    assert min(drawn) > 60


def luminance(color):
    channels = [int(part) / 255 for part in color[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_in_light_and_dark(open_page):
    """WCAG 2: 4.5 to 1."""
    page = open_page("full")
    colors = page.evaluate(
        """() => ['h2', 'td', 'small', '.caption', '.good', '.warn', 'figure svg text', 'summary']
          .map(s => document.querySelector('section ' + s) || document.querySelector(s))
          .map(e => getComputedStyle(e)[e.namespaceURI.endsWith('svg') ? 'fill' : 'color'])"""
    )
    panel = page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    for color in colors:
        low, high = sorted((luminance(color), luminance(panel)))
        assert (high + 0.05) / (low + 0.05) > 4.5, (color, panel)


def test_folded_tables_unfold(open_page):
    page = open_page("full")
    cell = page.locator("details td").first
    assert not cell.is_visible()
    page.locator("summary").first.click()
    assert cell.is_visible()
