"""What a report is made of, gathered from a run directory."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tzrec_core import config as configs
from tzrec_core.data.prepare import STATS_FILE
from tzrec_core.eval_result import EvalResult
from tzrec_core.evaluation.predictions import Predictions, read_predictions
from tzrec_core.evaluation.statistics import bootstrap_key
from tzrec_core.exporting.directory import DRIFT_FILE
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.report import training_curves
from tzrec_core.report.curves import Curve
from tzrec_core.run_dir import RunDir
from tzrec_core.selection import choose

log = logging.getLogger(__name__)

SAMPLE_ROWS = 100_000
Results = Mapping[str, Any]
"""As ``evaluation.results`` has them."""


@dataclass(frozen=True)
class Scored:
    """A checkpoint and what its evaluation found.

    Attributes:
        name: What the report calls it.
        config: Of its run.
        step: Of the checkpoint.
        reason: Why it is this one.
        results: As ``evaluation.results`` has them.
        predictions: Its scored rows; None if they are gone.
    """

    name: str
    config: EasyRecConfig
    step: int
    reason: str
    results: Results
    predictions: Predictions | None


@dataclass(frozen=True)
class Champion:
    """What the report compares with.

    Attributes:
        name: What the report calls it.
        results: Its metrics, as ``evaluation.results`` has them.
        predictions: Its scored rows; None if they are gone.
        drift: The bins of its training data (``drift_reference.json``); None if unknown.
        why_not: Why it has neither results nor rows; empty if it has.
    """

    name: str
    results: Results
    predictions: Predictions | None
    drift: Mapping[str, Any] | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Inputs:
    """All that a report shows; what is missing is left out of it.

    Attributes:
        chosen: The checkpoint that it is about.
        by_step: The results of every evaluated checkpoint, the chosen one too.
        evaluations: Metrics over steps that the training itself has evaluated.
        log_lines: Losses, speed and so on over steps.
        stats: Content of ``_stats.json``.
        samples: Encoded rows by share: ``train`` and ``eval``.
        champion: None if there is nothing to compare with.
        gate: Content of ``gate.json``; None if no gate has judged this checkpoint.
        best_possible: Metrics that no model can surpass on these rows, of made-up data.
    """

    chosen: Scored
    by_step: Mapping[int, Results]
    evaluations: Mapping[str, Curve] = field(default_factory=dict)
    log_lines: Mapping[str, Curve] = field(default_factory=dict)
    stats: Mapping[str, Any] | None = None
    samples: Mapping[str, pa.Table] = field(default_factory=dict)
    champion: Champion | None = None
    gate: Mapping[str, Any] | None = None
    best_possible: Mapping[str, float | None] = field(default_factory=dict)


def gather(
    run_dir: RunDir,
    *,
    step: int | None = None,
    champion: Champion | None = None,
    best_possible: Mapping[str, float | None] | None = None,
) -> Inputs:
    """Reads what there is in a run directory.

    Args:
        run_dir: That evaluate has filled.
        step: The checkpoint to report on; None: the chosen one, or if none is chosen yet, the one
            that would be.
        champion: See ``read_champion``; None: the one that the gate has compared with, if any.
        best_possible: See ``Inputs``.

    Raises:
        ValueError: There is no evaluation, or none of ``step``.
    """
    by_step = read_results(run_dir)
    chosen = read_scored(run_dir, step=step)
    gate = _gate(run_dir, chosen.step)
    stats, samples = None, {}
    has_data = run_dir.has_info() and run_dir.read_info().data
    if has_data and (run_dir.prepared_data() / STATS_FILE).exists():
        data = run_dir.prepared_data()
        stats = json.loads((data / STATS_FILE).read_text())
        shares = [name for name in ("train", "eval") if any((data / name).glob("*.parquet"))]
        samples = {name: read_sample(data / name) for name in shares}
    return Inputs(
        chosen=chosen,
        by_step=by_step,
        evaluations=training_curves.evaluations(run_dir.train_eval_result),
        log_lines=training_curves.log_lines(run_dir.checkpoints),
        stats=stats,
        samples=samples,
        champion=champion or _of_gate(run_dir, chosen, gate),
        gate=gate,
        best_possible=best_possible or {},
    )


def read_champion(run_dir: RunDir, *, step: int | None = None) -> Champion:
    """Reads what the report of another run needs of this one.

    Raises:
        ValueError: There is no evaluation, or none of ``step``.
    """
    scored = read_scored(run_dir, step=step)
    name = f"{scored.name}, step {scored.step}"
    drift = _drift(run_dir.report / DRIFT_FILE)
    return Champion(name, scored.results, scored.predictions, drift)


def read_scored(run_dir: RunDir, *, step: int | None = None) -> Scored:
    """Reads one checkpoint's evaluation.

    Args:
        run_dir: That evaluate has filled.
        step: Of the checkpoint; None: the chosen one, or if none is chosen yet, the one that would
            be.

    Raises:
        ValueError: There is no evaluation, or none of ``step``.
    """
    config = configs.load(run_dir.config)
    by_step = read_results(run_dir)
    if step is None:
        step, reason = _chosen(run_dir, config, by_step)
    else:
        reason = "as asked for"
    if step not in by_step:
        raise ValueError(
            f"{run_dir.evaluation} has no result of step {step}; "
            f"it has {', '.join(map(str, by_step))}; run evaluate first"
        )
    predictions = _predictions(run_dir.predictions(step), config)
    return Scored(run_dir.path.name, config, step, reason, by_step[step], predictions)


def read_results(run_dir: RunDir) -> dict[int, Results]:
    """Returns the results of all evaluated checkpoints by step, ascending.

    Where there are checkpoints, only theirs count.

    Raises:
        ValueError: There are none.
    """
    names = [path.name for path in run_dir.evaluation.glob("step-*.json")]
    matches = [re.fullmatch(r"step-(\d+)\.json", name) for name in names]
    steps = sorted(int(match[1]) for match in matches if match)
    read = {step: run_dir.read_result(step) for step in steps}
    found: dict[int, Results] = {step: result for step, result in read.items() if result}
    if not found:
        of = " of the checkpoints that are there" if steps else ""
        raise ValueError(f"{run_dir.evaluation} has no results{of}; run evaluate first")
    return found


def read_sample(folder: Path, *, max_rows: int = SAMPLE_ROWS) -> pa.Table:
    """Returns the first rows of prepared data, which are in random order.

    Raises:
        ValueError: There are no files.
    """
    tables: list[pa.Table] = []
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                tables.append(file.read_row_group(index))
                if sum(map(len, tables)) >= max_rows:
                    return pa.concat_tables(tables).slice(0, max_rows)
    if not tables:
        raise ValueError(f"{folder} has no rows")
    return pa.concat_tables(tables)


def _predictions(folder: Path, config: EasyRecConfig) -> Predictions | None:
    if not any(folder.glob("*.parquet")):
        return None
    return read_predictions(folder, key=bootstrap_key(config))


def _gate(run_dir: RunDir, step: int) -> Mapping[str, Any] | None:
    """Returns what the gate has found, if it has judged this checkpoint."""
    gate = run_dir.read_gate()
    return gate if gate is not None and gate["global_step"] == step else None


def _of_gate(run_dir: RunDir, chosen: Scored, gate: Mapping[str, Any] | None) -> Champion | None:
    """Returns the registry's champion as the gate has scored it on this run's rows, if it has."""
    if gate is None or "champion" not in gate:
        return None
    slices: dict[tuple[str, str], dict[str, Any]] = {}
    metrics: dict[str, Any] = {}
    for found in gate.get("comparisons", []):
        of_part = metrics
        if found["slice"] is not None:
            of_part = slices.setdefault((found["column"], found["slice"]), {})
        of_part[found["metric"]] = {"value": found["champion"], "low": None, "high": None}
    parts = [{"column": c, "slice": s, "metrics": values} for (c, s), values in slices.items()]
    version, why_not = gate["champion"], ""
    if "comparisons" not in gate:
        why_not = f"Metrics of the champion, version {version}, are missing for the gate's reason."
    folder = run_dir.evaluation / "predictions" / f"champion-{version}"
    return Champion(
        f"version {version} of the registered model",
        {"metrics": metrics, "slices": parts},
        _predictions(folder, chosen.config) if "comparisons" in gate else None,
        _drift(run_dir.champion_drift),
        why_not,
    )


def _drift(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _chosen(
    run_dir: RunDir, config: EasyRecConfig, by_step: Mapping[int, Results]
) -> tuple[int, str]:
    best = run_dir.read_best()
    if best is not None:
        return int(best["global_step"]), str(best["reason"])
    nan = float("nan")
    results = [
        EvalResult(step, {name: _of(v["value"], nan) for name, v in found["metrics"].items()})
        for step, found in by_step.items()
    ]
    try:
        result, reason = choose(config.export_config, results, list(by_step))
    except ValueError as error:
        log.warning("the report is about the last checkpoint: %s", error)
        return max(by_step), "the last one, as none can be chosen yet"
    return result.step, f"{reason}; nothing is chosen yet"


def _of(value: float | None, missing: float) -> float:
    return missing if value is None else value
