"""Two or more runs side by side, with tests of their differences on the same rows."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from tzrec_core import config as configs
from tzrec_core.report import figures
from tzrec_core.report.figures import Point
from tzrec_core.report.headline import difference_cells
from tzrec_core.report.inputs import Scored
from tzrec_core.report.page import (
    MISSING,
    Cell,
    Figure,
    Page,
    Section,
    Table,
    between,
    number,
    to_html,
    to_markdown,
    to_text,
)
from tzrec_core.report.pairing import Differences, paired_differences
from tzrec_core.report.task_view import TaskView, task_views

HTML_FILE = "compare.html"
MARKDOWN_FILE = "compare.md"
_MAX_CONFIG_LINES = 60


def compare(runs: Sequence[Scored], folder: Path) -> str:
    """Writes ``compare.html`` and ``compare.md`` into a folder; returns them as text.

    The first run is the baseline of all differences. Where another one has scored other rows,
    its metrics stand beside the others' without a test, and a sentence says so.

    Args:
        runs: At least two.
        folder: Made if it is not there.

    Raises:
        ValueError: Predictions are NaN, or labels are not what a metric takes.
    """
    assert len(runs) > 1
    names = _names(runs)
    sections, differences, notes = [], [], []
    for run, name in zip(runs[1:], names[1:], strict=True):
        found, why = paired_differences(
            run.config, run.predictions, runs[0].predictions, with_slices=False
        )
        differences.append(found)
        notes += [f"{name}: {sentence}" for sentence in why]
    listed = {name for task in task_views(runs[0].config) for name in task.metric_names}
    for run, name in zip(runs[1:], names[1:], strict=True):
        if others := [metric for metric in run.results["metrics"] if metric not in listed]:
            notes.append(f"{name}: {names[0]} has no {', '.join(others)}.")
    for task in task_views(runs[0].config):
        sections.append(_task_section(task, runs, names, differences))
    if notes:
        sections.append(Section("Not compared", notes=notes))
    sections.append(_config_section(runs, names))
    page = Page(
        title=f"{len(runs)} runs side by side",
        subtitle=f"Differences are from {names[0]}; checkpoints: "
        + ", ".join(f"{n}, step {run.step}" for n, run in zip(names, runs, strict=True)),
        link="",
        tiles=(),
        sections=sections,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HTML_FILE).write_text(to_html(page), encoding="utf-8")
    (folder / MARKDOWN_FILE).write_text(to_markdown(page), encoding="utf-8")
    return to_text(page)


def _task_section(
    task: TaskView,
    runs: Sequence[Scored],
    names: Sequence[str],
    differences: Sequence[Differences],
) -> Section:
    level = runs[0].results["confidence_level"]
    columns = ["metric", names[0]]
    for name in names[1:]:
        columns += [name, "difference", "p"]
    rows, drawn = [], []
    for metric in task.metric_names:
        found = [run.results["metrics"].get(metric) for run in runs]
        if not any(found):
            continue
        cells = [Cell(metric)]
        points = []
        for index, (name, values) in enumerate(zip(names, found, strict=True)):
            if values is None:
                cells.append(Cell(MISSING))
            else:
                cells.append(Cell(number(values["value"]), between(values["low"], values["high"])))
                value, low, high = (_known(values[w]) for w in ("value", "low", "high"))
                if value == value:
                    points.append(Point(name, value, low, high))
            if index:
                difference = differences[index - 1].of_all(metric)
                cells += difference_cells(metric, difference, level)
        rows.append(cells)
        if metric not in task.losses and len(points) > 1:
            svg = figures.forest(points, None, metric=metric, name=f"runs-{metric}")
            drawn.append(Figure(metric, svg, ""))
    caption = (
        "Values with intervals of each run by itself; differences from the first run are paired: "
        "both models see the same groups in each bootstrap replicate, so that they can be certain "
        "where the intervals of the values overlap. p is two-sided."
    )
    return Section(task.heading("Metrics"), [Table(columns, rows, caption)], drawn)


def _config_section(runs: Sequence[Scored], names: Sequence[str]) -> Section:
    """Returns the lines in which configs differ from the first one's."""
    tables, notes = [], []
    first = configs.dumps(runs[0].config).splitlines()
    for run, name in zip(runs[1:], names[1:], strict=True):
        lines = difflib.ndiff(first, configs.dumps(run.config).splitlines())
        changes = [line for line in lines if line.startswith(("+ ", "- "))]
        rows = [[Cell(f"{line[0]} {line[2:].strip()}")] for line in changes[:_MAX_CONFIG_LINES]]
        if not rows:
            notes.append(f"The config of {name} is that of {names[0]}.")
            continue
        if len(changes) > len(rows):
            notes.append(f"{name}: {len(changes) - len(rows)} more lines of the config differ.")
        tables.append(Table([f"{name} (+) against {names[0]} (-)"], rows))
    return Section("Config", tables, notes=notes)


def _names(runs: Sequence[Scored]) -> list[str]:
    """Returns the runs' names, with a number where two are the same."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} #{index + 1}"
        for index, name in enumerate(names)
    ]


def _known(value: float | None) -> float:
    return float("nan") if value is None else float(value)
