"""The gate: the chosen model and the registry's champion on the same evaluation rows."""

import logging
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from tzrec_core import config as configs
from tzrec_core import mlflow_run
from tzrec_core.evaluation.comparison import Comparison, compare
from tzrec_core.evaluation.gate import Verdict, judge
from tzrec_core.evaluation.predictions import read_predictions, read_rows
from tzrec_core.evaluation.statistics import bootstrap_key
from tzrec_core.exporting import registry
from tzrec_core.exporting.directory import DRIFT_FILE, resolve
from tzrec_core.exporting.evaluation_rows import score_evaluation_rows
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.run_dir import RunDir

log = logging.getLogger(__name__)

_NONE = "there is no champion yet"
# What a model may raise whose files are damaged, are gone or do not suit the rows. TorchScript's
# error is no RuntimeError.
_UNUSABLE = (ValueError, OSError, RuntimeError, LookupError, TypeError, torch.jit.Error)


def challenge(
    place: RunDir, config: EasyRecConfig, run: mlflow_run.Run, *, step: int, name: str
) -> tuple[Verdict, dict[str, Any]]:
    """Returns whether the checkpoint of ``step`` may be exported, and the comparison as JSON.

    A gate that cannot be evaluated blocks, and its reason says why.

    Args:
        place: The run directory.
        config: Of the run, reading prepared rows.
        run: Where the step is tracked; its store has the registry.
        step: Of the chosen checkpoint.
        name: Of the registered model.
    """
    place.champion_drift.unlink(missing_ok=True)
    if not config.export_config.gate:
        return Verdict(True, ("no gate is configured",)), {}
    if run.run_id is None:
        reason = "the champion cannot be looked up: runs are not tracked (MLFLOW_TRACKING_URI)"
        return Verdict(False, (reason,)), {}
    with tempfile.TemporaryDirectory(prefix="champion-") as folder:
        found = run.attempt(
            lambda client, _: registry.champion(client, name, Path(folder)) or _NONE
        )
        if found is None:
            return Verdict(False, ("the champion cannot be looked up: MLflow has failed",)), {}
        if isinstance(found, str):
            return Verdict(True, (found,)), {}
        version, files = found
        try:
            if (files / DRIFT_FILE).exists():
                shutil.copyfile(files / DRIFT_FILE, place.champion_drift)
            comparisons = _compare(place, config, resolve(files), version=version, step=step)
        except _UNUSABLE as error:
            log.warning("The champion cannot be compared", exc_info=True)
            reason = f"the champion, version {version}, cannot be compared: {_said(error)}"
            return Verdict(False, (reason,)), {"champion": version}
    verdict = judge(config.export_config, comparisons)
    compared = {"champion": version, "comparisons": [_as_json(found) for found in comparisons]}
    return verdict, compared


def _compare(
    place: RunDir, config: EasyRecConfig, export_dir: Path, *, version: str, step: int
) -> list[Comparison]:
    scored = place.evaluation / "predictions" / f"champion-{version}"
    for former in scored.parent.glob("champion-*"):
        shutil.rmtree(former, ignore_errors=True)
    ours = place.predictions(step)
    score_evaluation_rows(
        config,
        raw_config=configs.load(place.config),
        export_dir=export_dir,
        predictions_path=scored,
        rows=read_rows(ours) if config.eval_config.num_steps else None,
    )
    key = bootstrap_key(config)
    return compare(config, read_predictions(ours, key=key), read_predictions(scored, key=key))


def _said(error: Exception) -> str:
    """Returns what an error says, in one line unless it is a user's mistake."""
    if isinstance(error, ValueError):
        return str(error)
    # TorchScript's last line has the reason, the lines above it the model's source.
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _as_json(found: Comparison) -> dict[str, Any]:
    difference = found.difference
    numbers = {
        "candidate": found.candidate,
        "champion": found.baseline,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
    }
    place = {"metric": found.metric, "column": found.column, "slice": found.slice}
    finite = {n: value if math.isfinite(value) else None for n, value in numbers.items()}
    return {**place, "share": found.share, **finite}
