"""The sections on a run as a whole: its data and its training."""

from collections.abc import Mapping, Sequence
from typing import Any

from tzrec_core.report import figures, training_curves
from tzrec_core.report.curves import Curve, thin
from tzrec_core.report.data_drift import ColumnDrift
from tzrec_core.report.drift import LARGE, MODERATE, Drift
from tzrec_core.report.page import MISSING, Cell, Figure, Section, Table, number, share

_TONES = {"none": "", "moderate": "warn", "large": "bad"}
_MAX_CURVES = 4


def data_section(
    stats: Mapping[str, Any] | None,
    drifts: Sequence[ColumnDrift],
    *,
    sample_rows: Mapping[str, int],
    has_champion: bool,
) -> Section:
    """Returns statistics and drift of each column.

    Args:
        stats: Content of ``_stats.json``; None if there is no prepared data.
        drifts: Of all columns.
        sample_rows: How many rows of each share were looked at for them.
        has_champion: Whether there is a champion whose data this one is compared with.
    """
    if stats is None:
        note = "There is no prepared data in the run directory: no statistics and no drift."
        return Section("Data", notes=[note])
    compared = any(column.of_champion is not None for column in drifts)
    rows = [[*_described(stats, column), *_drifts(column, compared)] for column in drifts]
    columns = ["column", "missing in train", "missing in eval", "different", "mean", "unknown"]
    columns += ["PSI eval", *(["PSI champion"] if compared else [])]
    caption = (
        "PSI = Σ (a \N{MINUS SIGN} e) ln(a / e) over the shares a of evaluation rows and e of "
        "training rows in the deciles of training, or its 20 most frequent ids and all others "
        "(Siddiqi 2006); "
        f"moderate from {MODERATE}, large from {LARGE}, unless chance would do as much. "
        "Unknown: the share of values outside the vocabulary or the range."
    )
    if sample_rows:
        rows_of = (f"{count:,} rows of {name}" for name, count in sample_rows.items())
        caption += f" PSI is of {' and '.join(rows_of)}."
    if compared:
        caption += " PSI champion: training rows against the champion's."
    notes = []
    if not sample_rows:
        notes.append("The prepared rows are not on disk: no drift.")
    elif has_champion and not compared:
        notes.append("The champion's data has left no drift_reference.json to compare with.")
    counts = ", ".join(f"{found['rows']:,} rows of {name}" for name, found in stats.items())
    return Section("Data", [Table(columns, rows, f"{counts}. {caption}")], notes=notes)


def training_section(
    evaluations: Mapping[str, Curve], log_lines: Mapping[str, Curve], metrics: Sequence[str]
) -> Section:
    """Returns learning curves and speed.

    Args:
        evaluations: Metrics that the training itself has evaluated.
        log_lines: From TensorBoard's event files.
        metrics: The metrics to draw first.
    """
    drawn, notes = [], []
    losses = _named(log_lines, "loss/")
    if losses:
        svg = figures.lines(losses, y="loss", name="losses")
        drawn.append(Figure("Training loss", svg, "Means since the log line before."))
    of_training = _named(log_lines, "metric/")
    if of_training:
        svg = figures.lines(of_training, y="metric", name="train-metrics")
        drawn.append(Figure("Training metrics", svg, "Of rows before they were trained on."))
    names = [name for name in metrics if name in evaluations and len(evaluations[name].x) > 1]
    for name in names[:_MAX_CURVES]:
        curve = {name: thin(evaluations[name])}
        drawn.append(
            Figure(f"{name} while training", figures.lines(curve, y=name, name=f"e-{name}"), "")
        )
    speed = log_lines.get("samples_per_second")
    tables = []
    if speed is not None:
        curve = {"samples per second": thin(speed)}
        svg = figures.lines(curve, y="samples per second", name="speed", from_zero=True)
        drawn.append(Figure("Throughput", svg, "Of all ranks."))
        tables.append(_speeds(training_curves.summary(log_lines)))
    if not log_lines:
        notes.append(
            "The checkpoints' folder has no log lines in TensorBoard's event files "
            "(train_config.use_tensorboard): no training loss and no throughput."
        )
    if not names:
        notes.append("The training has not evaluated twice while it ran: no curve of that.")
    return Section("Training", tables, drawn, notes)


def _described(stats: Mapping[str, Any], column: ColumnDrift) -> list[Cell]:
    name = column.name
    train, evaluation = (stats[s]["columns"].get(name, {}) for s in ("train", "eval"))
    different = MISSING
    if "distinct" in train:
        exactly = "" if train.get("distinct_is_exact") else "≈ "
        different = f"{exactly}{train['distinct']:,}"
    mean = Cell("")
    if train.get("mean") is not None:
        mean = Cell(number(train["mean"]), f"± {number(train.get('std'))}")
    unknown = train.get("out_of_vocabulary_share")
    return [
        Cell(name, "number" if column.is_number else "category"),
        Cell(share(train.get("null_share"))),
        Cell(share(evaluation.get("null_share"))),
        Cell(different),
        mean,
        Cell("" if unknown is None else share(unknown)),
    ]


def _drifts(column: ColumnDrift, compared: bool) -> list[Cell]:
    cells = [_drift(column.of_eval)]
    return [*cells, _drift(column.of_champion)] if compared else cells


def _drift(found: Drift | None) -> Cell:
    if found is None or found.psi != found.psi:
        return Cell(MISSING)
    detail = "" if found.size == "none" else found.size
    return Cell(f"{found.psi:.3f}", detail, _TONES[found.size])


def _named(curves: Mapping[str, Curve], prefix: str) -> dict[str, Curve]:
    names = [name for name in curves if name.startswith(prefix)]
    # The total of a single loss is that loss.
    if prefix == "loss/" and len(names) == 2 and "loss/total" in names:
        names.remove("loss/total")
    return {name.removeprefix(prefix): thin(curves[name]) for name in names[:_MAX_CURVES]}


def _speeds(found: Mapping[str, float]) -> Table:
    rows = []
    for name, value in found.items():
        match name:
            case "samples_per_second":
                rows.append([Cell("samples per second, median"), Cell(f"{value:,.0f}")])
            case "data_wait_share":
                rows.append([Cell("time spent waiting for data, median"), Cell(share(value))])
            case _:
                device = name.removeprefix("memory/").removesuffix("_peak_gib")
                rows.append([Cell(f"peak memory, {device}"), Cell(f"{value:.2f} GiB")])
    return Table(["measure", "value"], rows)
