"""The headline table: each metric with its interval, against the champion and the best possible."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tzrec_core.evaluation.gate import is_better_when_larger
from tzrec_core.metrics.bootstrap import Difference
from tzrec_core.report.page import MISSING, Cell, Table, between, number, share
from tzrec_core.report.reached import share_reached


@dataclass(frozen=True)
class Headline:
    """A metric of all evaluation rows.

    Attributes:
        name: Of the metric.
        found: Its entry in the results.
        champion: The champion's; None if it has none.
        difference: From it; None if the two models were not compared row by row.
        best_possible: None if nobody knows it.
        key: What groups rows, None if nothing does.
    """

    name: str
    found: Mapping[str, Any]
    champion: Mapping[str, Any] | None = None
    difference: Difference | None = None
    best_possible: float | None = None
    key: str | None = None


def table(headlines: Sequence[Headline], *, level: float, champion: str) -> Table:
    """Returns a row for each metric, and a column for whatever one of them has.

    Args:
        headlines: Of a task.
        level: Of the intervals.
        champion: Its name.
    """
    has_coverage = any(h.key for h in headlines)
    has_champion = any(h.champion for h in headlines)
    has_difference = any(h.difference for h in headlines)
    has_best = any(h.best_possible is not None for h in headlines)
    columns = ["metric", "value", f"{level:.0%} interval".replace("%", "\N{NO-BREAK SPACE}%")]
    columns += ["coverage"] * has_coverage + ["champion"] * has_champion
    columns += ["difference", "p"] * has_difference + ["best possible", "reached"] * has_best
    rows = []
    for h in headlines:
        row = [Cell(h.name), Cell(number(h.found["value"])), Cell(_interval(h.found))]
        if has_coverage:
            row.append(_coverage(h))
        if has_champion:
            row.append(Cell(number(h.champion["value"] if h.champion else None)))
        if has_difference:
            row += difference_cells(h.name, h.difference, level)
        if has_best:
            reached = MISSING
            if h.best_possible is not None:
                reached = share(share_reached(h.found["value"], h.best_possible))
            row += [Cell(number(h.best_possible)), Cell(reached)]
        rows.append(row)
    return Table(columns, rows, _caption(headlines, champion, has_coverage, has_best))


def tone(metric: str, difference: Difference, level: float) -> str:
    """Returns whether a difference is good or bad news; nothing where it may be chance."""
    of_ratio = metric.startswith("calibration") and not metric.startswith("calibration_error")
    if of_ratio or not difference.p_value < 1 - level or difference.value == 0:
        return ""
    return "good" if (difference.value > 0) == is_better_when_larger(metric) else "bad"


def p_text(p_value: float) -> str:
    """Returns three decimals."""
    if not math.isfinite(p_value):
        return MISSING
    return "< 0.001" if p_value < 0.0005 else f"{p_value:.3f}"


def _interval(found: Mapping[str, Any]) -> str:
    return between(found["low"], found["high"]) or MISSING


def _coverage(h: Headline) -> Cell:
    if not h.key:
        return Cell("")
    groups, rows = h.found.get("group_coverage"), h.found.get("row_coverage")
    return Cell(f"{share(groups)} of {h.key}", f"{share(rows)} of rows")


def difference_cells(metric: str, found: Difference | None, level: float) -> list[Cell]:
    """Returns a difference with its interval, and its p-value."""
    if found is None:
        return [Cell(MISSING), Cell(MISSING)]
    interval = between(found.low, found.high, signed=True)
    color = tone(metric, found, level)
    return [Cell(number(found.value, signed=True), interval, color), Cell(p_text(found.p_value))]


def _caption(headlines: Sequence[Headline], champion: str, coverage: bool, best: bool) -> str:
    parts = ["Intervals are of a bootstrap over groups, or over rows where no key groups them."]
    if coverage:
        parts.append("Coverage: the groups, and their rows, that have a value of the metric.")
    if any(h.champion for h in headlines):
        parts.append(f"The champion is {champion}.")
    if any(h.difference for h in headlines):
        parts.append("p is two-sided, of the hypothesis that both models are equal.")
    if best:
        parts.append("Reached: the way from 0.5, knowing nothing, to the best possible value.")
    return " ".join(parts)
