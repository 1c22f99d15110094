"""The sections on one task that need results only: metrics, checkpoints and slices."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tzrec_core.report import figures, headline
from tzrec_core.report.figures import Point
from tzrec_core.report.headline import Headline, difference_cells
from tzrec_core.report.inputs import Results
from tzrec_core.report.page import MISSING, Cell, Figure, Section, Table, between, number
from tzrec_core.report.pairing import Differences
from tzrec_core.report.task_view import TaskView

_MAX_CHECKPOINT_FIGURES = 6
_MAX_SLICES_DRAWN = 24
_MAX_SLICE_METRICS = 5


def headline_section(
    task: TaskView, headlines: Sequence[Headline], *, level: float, champion: str
) -> Section:
    """Returns the table of all metrics of a task."""
    return Section(
        task.heading("Metrics"), [headline.table(headlines, level=level, champion=champion)]
    )


def checkpoint_section(
    task: TaskView,
    by_step: Mapping[int, Results],
    chosen: int,
    best_possible: Mapping[str, float | None],
) -> Section:
    """Returns the metrics over checkpoints."""
    drawn, notes = [], []
    if len(by_step) == 1:
        notes.append("One checkpoint is evaluated: there are no curves over checkpoints.")
    else:
        names = task.metric_names[:_MAX_CHECKPOINT_FIGURES]
        drawn = [figure for name in names for figure in _over(by_step, name, chosen, best_possible)]
    rows = [
        [
            Cell(f"{step}", "chosen" if step == chosen else ""),
            *(_value_cell(results["metrics"].get(name)) for name in task.metric_names),
        ]
        for step, results in by_step.items()
    ]
    table = Table(["step", *task.metric_names], rows)
    return Section(task.heading("Checkpoints"), [table], drawn, notes)


def _over(
    by_step: Mapping[int, Results],
    name: str,
    chosen: int,
    best_possible: Mapping[str, float | None],
) -> Iterator[Figure]:
    """Yields the figure of a metric, none if no checkpoint has a value."""
    points = {
        step: _point(str(step), results["metrics"][name])
        for step, results in by_step.items()
        if results["metrics"].get(name, {}).get("value") is not None
    }
    if points:
        limit = best_possible.get(name)
        caption = "" if limit is None else f"The best possible value is {number(limit)}."
        svg = figures.over_steps(points, chosen, metric=name, name=f"s-{name}")
        yield Figure(name, svg, caption)


def slice_section(
    task: TaskView,
    results: Results,
    champion: Results | None,
    differences: Differences,
    main: str | None,
) -> Section | None:
    """Returns the metrics of slices; None if the config asks for none.

    Args:
        task: The task.
        results: Of the chosen checkpoint.
        champion: Its results, if there is one.
        differences: From the champion.
        main: The metric to draw; None: the first.
    """
    names = [
        name
        for name in task.metric_names
        if any(name in part["metrics"] for part in results["slices"])
    ]
    if not names:
        return None
    main = main if main in names else names[0]
    names = [main, *(name for name in names if name != main)][:_MAX_SLICE_METRICS]
    others = {} if champion is None else _by_name(champion)
    tables: list[Table] = []
    drawn: list[Figure] = []
    for column in dict.fromkeys(part["column"] for part in results["slices"]):
        parts = [part for part in results["slices"] if part["column"] == column]
        rows = []
        for part in parts:
            cells = [Cell(part["slice"]), Cell(f"{part['rows']:,}")]
            cells += [_value_cell(part["metrics"].get(name)) for name in names]
            if others:
                other = others.get((column, part["slice"]), {}).get(main)
                difference = differences.of_slice(main, column, part["slice"])
                cells.append(Cell(number(None if other is None else other["value"])))
                cells += difference_cells(main, difference, results["confidence_level"])
            rows.append(cells)
        columns = [column, "rows", *names]
        if others:
            columns += [f"champion's {main}", "difference", "p"]
        tables.append(Table(columns, rows))
        points = [
            _point(part["slice"], part["metrics"][main])
            for part in parts
            if part["metrics"].get(main, {}).get("value") is not None
        ][:_MAX_SLICES_DRAWN]
        if points:
            overall = results["metrics"].get(main, {}).get("value")
            svg = figures.forest(points, overall, metric=main, name=f"slices-{main}-{len(drawn)}")
            drawn.append(Figure(f"{main} by {column}", svg, "Dashed: all rows."))
    return Section(task.heading("Slices"), tables, drawn)


def _by_name(results: Results) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(part["column"], part["slice"]): part["metrics"] for part in results["slices"]}


def _point(name: str, found: Mapping[str, Any]) -> Point:
    value, low, high = (
        math.nan if found[what] is None else float(found[what]) for what in ("value", "low", "high")
    )
    return Point(name, value, low, high)


def _value_cell(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(MISSING)
    return Cell(number(found["value"]), between(found["low"], found["high"]))
