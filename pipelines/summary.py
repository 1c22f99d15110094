"""What a finished run prints: its metrics, and where everything is."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.steps import StepFailedError
from tzrec_core import mlflow_run
from tzrec_core.report.reached import share_reached
from tzrec_core.run_dir import RunDir


def metrics_table(run_dir: RunDir, *, best_possible: Mapping[str, float | None]) -> str:
    """Returns the metrics of the chosen checkpoint, best possible values beside those known."""
    best = read_json(run_dir.best)
    rows: list[tuple[str, ...]] = [
        ("metric", "value", *(("best possible", "share reached") if best_possible else ()))
    ]
    for name, value in best["metrics"].items():
        row: tuple[str, ...] = (name, f"{value:.4f}")
        limit = best_possible.get(name)
        if limit is not None:
            row = (*row, f"{limit:.4f}", _per_cent(share_reached(value, limit)))
        rows.append(row)
    title = f"{best['checkpoint']}, {best['reason']}:"
    return "\n".join(["", title, *_aligned(rows)])


def require_share(
    metrics: Mapping[str, float], best_possible: Mapping[str, float | None], *, min_share: float
) -> None:
    """Checks the AUC of the chosen checkpoint.

    Raises:
        StepFailedError: It has none, or its share of the best possible is below ``min_share``.
    """
    if "auc" not in metrics:
        raise StepFailedError("the chosen checkpoint has no auc")
    limit = best_possible.get("auc")
    share = share_reached(metrics["auc"], limit)
    if limit is None or math.isnan(share):
        raise StepFailedError(f"--min_share has no meaning: the best possible auc is {limit}")
    if not share >= min_share:
        raise StepFailedError(
            f"auc {metrics['auc']:.4f} is {share:.1%} of the way to the best possible "
            f"{limit:.4f}, --min_share asks for {min_share:.1%}"
        )


def places(run_dir: RunDir, tracking_uri: str) -> str:
    """Returns where the run's files are and how to look at its numbers."""
    gate = read_json(run_dir.gate)
    exported = _shown(run_dir.export)
    if gate["verdict"] != "pass":
        exported = f"none, the gate blocks it: {'; '.join(gate['reasons'])}"
    rows = [
        ("report", _shown(run_dir.report / "index.html")),
        ("exported model", exported),
        ("checkpoints", _shown(run_dir.checkpoints)),
        ("results", _shown(run_dir.eval_result)),
        ("config", _shown(run_dir.config)),
    ]
    info = run_dir.read_info()
    server = mlflow_run.web_address(tracking_uri)
    if info.mlflow_page and server:
        rows.append(("MLflow", f"{server}/{info.mlflow_page}"))
    elif info.mlflow_page:
        page = f"http://127.0.0.1:5000/{info.mlflow_page}"
        rows.append(("MLflow", f"make mlflow-ui, then {page}"))
    lines = [f"  {what:<14}  {where}" for what, where in rows]
    return "\n".join(["", f"everything is in {_shown(run_dir.path)}", *lines])


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file."""
    return json.loads(path.read_text())


def _per_cent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.1%}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Returns one line a row, its first column to the left and others to the right."""
    num_columns = max(len(row) for row in rows)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(num_columns)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=False)]
        lines.append("  " + "  ".join(cells))
    return lines


def _shown(path: Path) -> str:
    """Returns a path as seen from here, if that is inside this folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
