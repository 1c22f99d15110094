"""What stands in ``metrics.json``: the numbers of a report, also those without room on its page."""

import math
from collections.abc import Mapping
from typing import Any

from tzrec_core.metrics.bootstrap import Difference
from tzrec_core.report.data_drift import ColumnDrift
from tzrec_core.report.inputs import Champion, Inputs
from tzrec_core.report.pairing import Differences


def content(inputs: Inputs, differences: Differences, drifts: list[ColumnDrift]) -> dict[str, Any]:
    """Returns all numbers as JSON values; those that are not finite become None."""
    chosen = inputs.chosen
    return {
        "run": chosen.name,
        "global_step": chosen.step,
        "reason": chosen.reason,
        "results": dict(chosen.results),
        "best_possible": dict(inputs.best_possible),
        "champion": _champion(inputs.champion),
        "differences": {
            name: _finite_values(difference) for name, difference in differences.listed().items()
        },
        "slice_differences": [
            {"metric": c.metric, "column": c.column, "slice": c.slice}
            | _finite_values(c.difference)
            for c in differences.comparisons
            if c.slice is not None
        ],
        "checkpoints": {str(step): dict(found) for step, found in inputs.by_step.items()},
        "columns": _columns(inputs.stats),
        "drift": {
            column.name: {
                "eval": None if column.of_eval is None else _finite(column.of_eval.psi),
                "champion": (
                    None if column.of_champion is None else _finite(column.of_champion.psi)
                ),
            }
            for column in drifts
        },
    }


def _champion(champion: Champion | None) -> dict[str, Any] | None:
    if champion is None:
        return None
    slices = champion.results.get("slices", [])
    return {"name": champion.name, "metrics": champion.results["metrics"], "slices": slices}


def _columns(stats: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the statistics of all columns by share: ``train`` and ``eval``."""
    return {share: _json(described) for share, described in (stats or {}).items()}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json(found) for key, found in value.items()}
    if isinstance(value, list):
        return [_json(found) for found in value]
    return _finite(value) if isinstance(value, float) else value


def _finite_values(difference: Difference) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in vars(difference).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
