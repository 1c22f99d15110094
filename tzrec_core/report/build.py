"""Makes the report: a page, its tables as Markdown, and the numbers beside it."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tzrec_core.data.publish import set_aside
from tzrec_core.evaluation.statistics import Columns, bootstrap_key
from tzrec_core.exporting.directory import DRIFT_FILE
from tzrec_core.report import data_drift, numbers_file, result_sections, row_sections, run_sections
from tzrec_core.report.data_drift import ColumnDrift
from tzrec_core.report.headline import Headline, tone
from tzrec_core.report.inputs import Inputs, Results
from tzrec_core.report.page import (
    Page,
    Section,
    Tile,
    between,
    number,
    share,
    to_html,
    to_markdown,
)
from tzrec_core.report.pairing import Differences, paired_differences
from tzrec_core.report.per_group import per_group
from tzrec_core.report.task_view import TaskView, task_views

log = logging.getLogger(__name__)

HTML_FILE = "index.html"
SUMMARY_FILE = "summary.md"
METRICS_FILE = "metrics.json"
PER_GROUP_FILE = "per_group.parquet"


def build(inputs: Inputs, folder: Path, *, mlflow_link: str = "") -> Page:
    """Writes a report into a folder, which appears complete and replaces an older one.

    What the inputs lack is left out, with a sentence that says so.

    Args:
        inputs: What to show.
        folder: Of the report.
        mlflow_link: Address of the run in MLflow; empty if there is none.

    Raises:
        ValueError: Predictions are NaN, or labels are not what a metric takes.
    """
    reference, drifts = _drifts(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page says itself what has no value
        page, differences = _page(inputs, drifts, mlflow_link)
        tables = None
        if inputs.chosen.predictions is not None:
            views = task_views(inputs.chosen.config)
            tables = per_group(views, Columns(inputs.chosen.predictions))
    with set_aside(folder.absolute().parent) as aside:
        new = aside / "new"
        new.mkdir()
        (new / HTML_FILE).write_text(to_html(page), encoding="utf-8")
        (new / SUMMARY_FILE).write_text(to_markdown(page), encoding="utf-8")
        content = numbers_file.content(inputs, differences, drifts)
        (new / METRICS_FILE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        if tables is not None:
            pq.write_table(tables, new / PER_GROUP_FILE, compression="zstd")
        if reference is not None:
            (new / DRIFT_FILE).write_text(json.dumps(reference, default=str) + "\n")
        if folder.exists():
            folder.rename(aside / "old")
        new.rename(folder)
    return page


def _page(inputs: Inputs, drifts: list[ColumnDrift], mlflow_link: str) -> tuple[Page, Differences]:
    chosen, champion = inputs.chosen, inputs.champion
    config, results = chosen.config, chosen.results
    level = results["confidence_level"]
    differences, notes = _differences(inputs)
    rows = None if chosen.predictions is None else Columns(chosen.predictions)
    sections: list[Section] = []
    main = _main_metric(config.export_config.best_exporter_metric, results)
    if inputs.gate is not None:
        reasons = [_sentence(reason) for reason in inputs.gate["reasons"]]
        if inputs.gate["verdict"] != "pass" or "comparisons" in inputs.gate:
            sections.append(Section(f"Gate: {inputs.gate['verdict']}", notes=reasons))
        else:
            notes += [f"Gate: {reason}" for reason in reasons]
    for task in task_views(config):
        headlines = _headlines(task, inputs, differences)
        name = "" if champion is None else champion.name
        sections.append(
            result_sections.headline_section(task, headlines, level=level, champion=name)
        )
        sections += _of_rows(task, rows, _comparable(task, inputs), bootstrap_key(config), level)
        sections.append(
            result_sections.checkpoint_section(
                task, inputs.by_step, chosen.step, inputs.best_possible
            )
        )
        of_champion = None if champion is None else champion.results
        slices = result_sections.slice_section(task, results, of_champion, differences, main)
        if slices is not None:
            sections.append(slices)
    if not results["slices"]:
        notes.append("eval_config.slices is empty: there are no slices.")
    sections.append(
        run_sections.data_section(
            inputs.stats,
            drifts,
            sample_rows={name: len(table) for name, table in inputs.samples.items()},
            has_champion=champion is not None,
        )
    )
    metric_names = [name for task in task_views(config) for name in task.metric_names]
    sections.append(
        run_sections.training_section(inputs.evaluations, inputs.log_lines, metric_names)
    )
    if notes:
        sections.append(Section("Left out", notes=notes))
    page = Page(
        title=chosen.name,
        subtitle=f"Checkpoint of step {chosen.step}: {chosen.reason}.",
        link=mlflow_link,
        tiles=_tiles(inputs, main, differences, drifts),
        sections=sections,
        numbers_file=METRICS_FILE,
    )
    return page, differences


def _of_rows(
    task: TaskView, rows: Columns | None, champion: Columns | None, key: str | None, level: float
) -> list[Section]:
    """Returns the sections that need scored rows."""
    if rows is None:
        note = "The predictions of this checkpoint are not on disk: there are no curves."
        return [Section(task.heading("Ranking"), notes=[note])]
    sections = [row_sections.group_section(task, rows)]
    if not task.is_number:
        note = f"{task.label} has more than two classes: there is no ROC curve of it."
        return [Section(task.heading("Ranking"), notes=[note]), *sections]
    return [
        row_sections.ranking_section(task, rows, champion),
        row_sections.score_section(task, rows, champion, key=key, level=level),
        *sections,
    ]


def _comparable(task: TaskView, inputs: Inputs) -> Columns | None:
    """Returns the champion's scored rows, if they have what the task's curves need."""
    if inputs.champion is None or inputs.champion.predictions is None:
        return None
    predictions = inputs.champion.predictions
    if not {task.output, task.label} <= set(predictions.table.column_names):
        return None
    return Columns(predictions)


def _headlines(task: TaskView, inputs: Inputs, differences: Differences) -> list[Headline]:
    found = inputs.chosen.results["metrics"]
    other = {} if inputs.champion is None else inputs.champion.results["metrics"]
    keys = {m.name: m.key for m in task.metrics}
    return [
        Headline(
            name=name,
            found=found[name],
            champion=other.get(name),
            difference=differences.of_all(name),
            best_possible=inputs.best_possible.get(name),
            key=keys.get(name),
        )
        for name in task.metric_names
        if name in found
    ]


def _differences(inputs: Inputs) -> tuple[Differences, list[str]]:
    """Returns the metrics' differences from the champion, and why there are none."""
    if inputs.champion is None:
        return Differences([]), ["There is no champion to compare with."]
    if inputs.champion.why_not:
        return Differences([]), [inputs.champion.why_not]
    return paired_differences(
        inputs.chosen.config,
        inputs.chosen.predictions,
        inputs.champion.predictions,
        with_slices=True,
    )


def _drifts(inputs: Inputs) -> tuple[dict[str, Any] | None, list[ColumnDrift]]:
    if inputs.stats is None:
        return None, []
    if "train" not in inputs.samples:
        return None, data_drift.without_rows(inputs.stats)
    train = inputs.samples["train"]
    reference = data_drift.references(train, inputs.stats)
    of_champion = None if inputs.champion is None else inputs.champion.drift
    return reference, data_drift.compare(reference, train, inputs.samples.get("eval"), of_champion)


def _main_metric(exporter_metric: str, results: Results) -> str | None:
    names = list(results["metrics"])
    return exporter_metric if exporter_metric in names else next(iter(names), None)


def _tiles(
    inputs: Inputs,
    main: str | None,
    differences: Differences,
    drifts: list[ColumnDrift],
) -> list[Tile]:
    results = inputs.chosen.results
    tiles = []
    if main is not None:
        found = results["metrics"][main]
        tiles.append(Tile(main, number(found["value"]), between(found["low"], found["high"])))
    difference = None if main is None else differences.of_all(main)
    if main is not None and difference is not None:
        interval = between(difference.low, difference.high, signed=True)
        color = tone(main, difference, results["confidence_level"])
        value = number(difference.value, signed=True)
        tiles.append(Tile("against the champion", value, interval, color))
    of_all = results.get("share_of_rows", 1)
    detail = "all of them" if of_all == 1 else f"{share(of_all)} of all"
    tiles.append(Tile("evaluation rows", f"{results['num_rows']:,}", detail))
    steps = len(inputs.by_step)
    detail = "the only one evaluated" if steps == 1 else f"of {steps} evaluated"
    tiles.append(Tile("checkpoint", f"{inputs.chosen.step:,}", detail))
    if any(column.of_eval or column.of_champion for column in drifts):
        drifted = [c for c in drifts if any(d and d.size != "none" for d in _both(c))]
        names = ", ".join(column.name for column in drifted[:3])
        color = "warn" if drifted else ""
        tiles.append(Tile("columns with drift", f"{len(drifted)} of {len(drifts)}", names, color))
    return tiles


def _both(column: ColumnDrift) -> tuple[Any, Any]:
    return column.of_eval, column.of_champion


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
