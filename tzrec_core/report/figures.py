"""The figures of a report, each from a few hundred numbers at most."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tzrec_core.report.bins import CalibrationBins, Floats
from tzrec_core.report.curves import Curve, RocCurve
from tzrec_core.report.svg import GRID, INK, LIMIT, MODEL, MUTED, OTHER, draw
from tzrec_core.report.target_parts import TargetPart
from tzrec_core.report.within_groups import Distribution, SizeClass

_DASHED: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (4, 3))}
_ROUND = [1, 2, 2.5, 5, 10]
_Corner = Literal["lower right", "upper right", "upper left"]


@dataclass(frozen=True)
class Point:
    """A value with an interval, whose ends may be NaN, and what it is the value of."""

    name: str
    value: float
    low: float
    high: float


def roc(curve: RocCurve, champion: RocCurve | None, *, name: str) -> str:
    """Draws recall by the false positive rate."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], **_DASHED)
        axes.plot(curve.false_rate, curve.recall, color=MODEL, label="this model", zorder=3)
        if champion is not None:
            axes.plot(champion.false_rate, champion.recall, color=OTHER, label="champion")
        axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="false positive rate", ylabel="recall")
        _legend(axes, champion, loc="lower right")

    return draw(paint, name=name, label="ROC curve")


def precision_recall(curve: Curve, champion: Curve | None, base_rate: float, *, name: str) -> str:
    """Draws precision by recall, and the share of positives, which scoring at random has."""

    def paint(axes: Axes) -> None:
        axes.axhline(base_rate, **_DASHED)
        axes.plot(curve.x, curve.y, color=MODEL, label="this model", zorder=3)
        if champion is not None:
            axes.plot(champion.x, champion.y, color=OTHER, label="champion")
        axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="recall", ylabel="precision")
        _legend(axes, champion, loc="upper right")

    return draw(paint, name=name, label="Precision by recall")


def calibration(
    bins: CalibrationBins, champion: CalibrationBins | None, *, observed: str, name: str
) -> str:
    """Draws the mean target by the mean prediction of each bin."""

    def paint(axes: Axes) -> None:
        shown = [bins.predicted, bins.observed, bins.low, bins.high]
        if champion is not None:
            shown += [champion.predicted, champion.observed]
        low, high = float(np.nanmin(np.concatenate(shown))), float(np.nanmax(np.concatenate(shown)))
        space = 0.04 * (high - low) or 0.05
        ends = (low - space, high + space)
        axes.plot(ends, ends, **_DASHED)
        _whiskers(axes, bins.predicted, bins.observed, bins.low, bins.high, label="this model")
        if champion is not None:
            axes.plot(
                champion.predicted, champion.observed, color=OTHER, marker=".", label="champion"
            )
        axes.set(xlim=ends, ylim=ends, xlabel="mean prediction", ylabel=observed)
        _legend(axes, champion, loc="upper left")

    return draw(paint, name=name, label=f"{observed} by mean prediction")


def two_histograms(
    edges: Floats, first: Floats, second: Floats, *, names: tuple[str, str], x: str, name: str
) -> str:
    """Draws where two kinds of rows have their scores."""

    def paint(axes: Axes) -> None:
        for shares, color, kind in ((first, OTHER, names[0]), (second, MODEL, names[1])):
            if shares.sum() > 0:
                axes.stairs(shares, edges, color=color, alpha=0.25, fill=True)
                axes.stairs(shares, edges, color=color, linewidth=1.4, label=kind)
        axes.set(xlabel=x, ylabel="share of rows", ylim=(0, None), xlim=(edges[0], edges[-1]))
        axes.legend(loc="best")

    return draw(paint, name=name, label=f"Histogram of {x}: {names[0]}, {names[1]}")


def by_target(parts: Sequence[TargetPart], overall: float, *, target: str, name: str) -> str:
    """Draws X-AUC by ranges of the target."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(parts))
        axes.axhline(overall, **_DASHED)
        axes.bar(places, [part.xauc for part in parts], color=MODEL, width=0.66)
        labels = [_span(part.low, part.high) for part in parts]
        rotation = 40 if max(map(len, labels)) * len(labels) > 36 else 0
        axes.set_xticks(places, labels, rotation=rotation, ha="right" if rotation else "center")
        axes.grid(axis="x", visible=False)
        values = [part.xauc for part in parts if math.isfinite(part.xauc)]
        top = max([*values, overall, 0.5])
        axes.set(xlabel=target, ylabel="X-AUC", ylim=(0, min(1, top * 1.08)))

    return draw(paint, name=name, label=f"X-AUC by {target}")


def by_group_size(
    classes: Sequence[SizeClass], overall: float, *, metric: str, key: str, name: str
) -> str:
    """Draws a metric by the number of a group's rows, and how many groups there are."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(classes), dtype=np.float64)
        numbers = axes.twinx()
        numbers.bar(places, [c.num_groups for c in classes], color=GRID, width=0.72)
        numbers.set_ylabel("groups", color=MUTED)
        numbers.grid(visible=False)
        numbers.spines["left"].set_visible(False)
        numbers.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_zorder(numbers.get_zorder() + 1)
        values = np.array([c.value for c in classes])
        spread = 1.96 * np.array([c.error for c in classes])
        axes.axhline(overall, **_DASHED)
        _whiskers(axes, places, values, values - spread, values + spread, label=metric)
        many = len(classes) > 6
        axes.set_xticks(places, [f"{c.smallest}+" if many else c.name for c in classes])
        axes.grid(axis="x", visible=False)
        axes.set(xlabel=f"rows of a {key}", ylabel=metric)

    return draw(paint, name=name, label=f"{metric} by the number of rows of a {key}")


def distribution(
    found: Distribution, *, metric: str, key: str, at_random: float | None, name: str
) -> str:
    """Draws the histogram of a metric over groups, and what an order at random has on average."""

    def paint(axes: Axes) -> None:
        axes.stairs(found.of_groups, found.edges, color=MODEL, alpha=0.25, fill=True)
        axes.stairs(
            found.of_groups, found.edges, color=MODEL, linewidth=1.4, label="share of groups"
        )
        axes.stairs(
            found.of_rows, found.edges, color=OTHER, linewidth=1.4, label="share of their rows"
        )
        if at_random is not None:
            axes.axvline(at_random, **_DASHED)
        axes.set(xlim=(0, 1), ylim=(0, None), xlabel=f"{metric} of one {key}", ylabel="share")
        axes.legend(loc="best")

    return draw(paint, name=name, label=f"Distribution of {metric} over {key}")


def over_steps(points: Mapping[int, Point], chosen: int, *, metric: str, name: str) -> str:
    """Draws a metric over checkpoints with the chosen one marked."""

    def paint(axes: Axes) -> None:
        steps = np.array(list(points))
        value, low, high = (
            np.array([getattr(point, what) for point in points.values()])
            for what in ("value", "low", "high")
        )
        axes.fill_between(steps, low, high, color=MODEL, alpha=0.18)
        axes.plot(steps, value, color=MODEL, marker="o", markersize=3.2)
        if len(steps) == 1:
            _whiskers(axes, steps, value, low, high, label=None)
        if chosen in points:
            axes.plot(
                [chosen],
                [points[chosen].value],
                marker="o",
                markersize=8.5,
                markerfacecolor="none",
                markeredgecolor=OTHER,
                markeredgewidth=1.6,
                linestyle="none",
                label="chosen",
            )
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.06, y=0.14)
        axes.set(xlabel="step", ylabel=metric)
        axes.legend(loc="best")

    return draw(paint, name=name, label=f"{metric} over checkpoints", height=2.2)


def lines(curves: Mapping[str, Curve], *, y: str, name: str, from_zero: bool = False) -> str:
    """Draws curves over steps."""
    colors = (MODEL, OTHER, LIMIT, INK)

    def paint(axes: Axes) -> None:
        for index, (label, curve) in enumerate(curves.items()):
            style = "-" if index < len(colors) else (0, (4, 2))
            marker = "o" if len(curve.x) < 12 else None
            axes.plot(
                curve.x,
                curve.y,
                color=colors[index % len(colors)],
                label=label,
                linestyle=style,
                marker=marker,
                markersize=3,
                linewidth=1.3,
            )
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_ROUND))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="step", ylabel=y)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            axes.legend(loc="best")

    return draw(paint, name=name, label=f"{y} over steps", height=2.2)


def forest(points: Sequence[Point], overall: float | None, *, metric: str, name: str) -> str:
    """Draws values with their intervals below each other."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(points))[::-1]
        if overall is not None:
            axes.axvline(overall, **_DASHED)
        values, low, high = (
            np.array([getattr(point, what) for point in points])
            for what in ("value", "low", "high")
        )
        errors = np.nan_to_num(np.stack([values - low, high - values]).clip(0))
        axes.errorbar(
            values, places, xerr=errors, fmt="o", color=MODEL, markersize=4, elinewidth=1.4
        )
        axes.set_yticks(places, [_cut(point.name) for point in points])
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel=metric, ylim=(-0.6, len(points) - 0.4))

    height = 0.75 + 0.21 * len(points)
    return draw(paint, name=name, label=f"{metric} by slice", height=height)


def _whiskers(axes: Axes, x: Any, y: Any, low: Any, high: Any, *, label: str | None) -> None:
    """Draws points with intervals; an end that is NaN is left out."""
    errors = np.nan_to_num(np.stack([np.subtract(y, low), np.subtract(high, y)]).clip(0))
    axes.errorbar(
        x, y, yerr=errors, fmt="o-", color=MODEL, markersize=3.6, elinewidth=1.2, label=label
    )


def _legend(axes: Axes, champion: object | None, *, loc: _Corner) -> None:
    if champion is not None:
        axes.legend(loc=loc)


def _span(low: float, high: float) -> str:
    return _short(low) if low == high else f"{_short(low)}\N{EN DASH}{_short(high)}"


def _short(value: float) -> str:
    """Returns three digits; thousands as ``74.1k``."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _cut(text: str, length: int = 24) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
