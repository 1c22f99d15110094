"""The gate: the chosen model and the registry's champion on the same evaluation rows."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tzrec_core import config as configs
from tzrec_core import mlflow_run
from tzrec_core.evaluation.comparison import Comparison, compare
from tzrec_core.evaluation.gate import Verdict, judge
from tzrec_core.evaluation.predictions import read_predictions
from tzrec_core.evaluation.statistics import bootstrap_key
from tzrec_core.exporting import registry
from tzrec_core.exporting.evaluation_rows import score_evaluation_rows
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.run_dir import RunDir

_NONE = "there is no champion yet"


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
    if not config.export_config.gate:
        return Verdict(True, ("no gate is configured",)), {}
    if run.run_id is None:
        reason = "the champion cannot be looked up: runs are not tracked (MLFLOW_TRACKING_URI)"
        return Verdict(False, (reason,)), {}
    with tempfile.TemporaryDirectory(prefix="champion-") as folder:
        found = run.attempt(lambda client, _: _found(client, name, Path(folder)))
        if found is None:
            return Verdict(False, ("the champion cannot be looked up: MLflow has failed",)), {}
        if isinstance(found, str):
            return Verdict(found == _NONE, (found,)), {}
        version, export_dir = found
        try:
            comparisons = _compare(place, config, export_dir, version=version, step=step)
        except ValueError as error:
            reason = f"the champion, version {version}, cannot be compared: {error}"
            return Verdict(False, (reason,)), {}
    verdict = judge(config.export_config, comparisons)
    compared = {"champion": version, "comparisons": [_as_json(found) for found in comparisons]}
    return verdict, compared


def _found(client: Any, name: str, folder: Path) -> tuple[str, Path] | str:
    """Returns the champion's version and export, or in words why there is none."""
    try:
        return registry.champion(client, name, folder) or _NONE
    except ValueError as error:
        return f"the champion cannot be loaded: {error}"


def _compare(
    place: RunDir, config: EasyRecConfig, export_dir: Path, *, version: str, step: int
) -> list[Comparison]:
    scored = place.evaluation / "predictions" / f"champion-{version}"
    shutil.rmtree(scored, ignore_errors=True)
    score_evaluation_rows(
        config,
        raw_config=configs.load(place.config),
        export_dir=export_dir,
        predictions_path=scored,
    )
    key = bootstrap_key(config)
    ours = read_predictions(place.predictions(step), key=key)
    return compare(config, ours, read_predictions(scored, key=key))


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
