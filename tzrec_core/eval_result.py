"""Evaluation results on disk: one JSON line per evaluated checkpoint, and the best of them."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalResult:
    """The metrics of the checkpoint saved at ``step``; a metric without a value is NaN."""

    step: int
    metrics: Mapping[str, float]


def append(path: str | os.PathLike[str], step: int, metrics: Mapping[str, float]) -> None:
    """Adds one line ``{"global_step": 1000, "auc": 0.71}``, metrics in alphabetical order.

    NaN and infinities become null, which every JSON reader understands. The half-written line
    that a killed process leaves behind is cut off first.
    """
    with open(path, "a+b") as file:
        _cut_half_line(file.fileno())
        file.write(_line(step, metrics).encode())
        file.flush()
        os.fsync(file.fileno())


def write(path: str | os.PathLike[str], results: Sequence[EvalResult]) -> None:
    """Writes lines as ``append`` does into a new file, which replaces an older one at once."""
    place = Path(path)
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    aside.write_text("".join(_line(result.step, result.metrics) for result in results))
    aside.replace(place)


def from_json(found: Mapping[str, Any]) -> EvalResult:
    """Returns what ``evaluation.results`` has described, as the evaluation had found it.

    >>> auc = {"value": 0.5, "low": 0.4, "high": 0.6, "row_coverage": 0.9}
    >>> from_json({"global_step": 10, "metrics": {"auc": auc}}).metrics
    {'auc': 0.5, 'auc_row_coverage': 0.9}
    """
    metrics = {}
    for name, described in found["metrics"].items():
        for key, value in described.items():
            if key not in ("low", "high"):
                full_name = name if key == "value" else f"{name}_{key}"
                metrics[full_name] = math.nan if value is None else float(value)
    return EvalResult(found["global_step"], metrics)


def read(path: str | os.PathLike[str]) -> list[EvalResult]:
    """Returns the results in the order of their steps; none if there is no such file.

    Of several lines with the same step the last one counts. A last line that was not written to
    its end is left out.

    Raises:
        ValueError: a complete line is not a result.
    """
    if not Path(path).exists():
        return []
    text = Path(path).read_text()
    complete, _, rest = text.rpartition("\n")
    if rest:
        log.warning("%s: the last line is incomplete and is left out", path)
    results = {}
    for number, line in enumerate(complete.splitlines(), start=1):
        if line.strip():
            result = _parse(line, where=f"{path}, line {number}")
            results[result.step] = result
    return [results[step] for step in sorted(results)]


def best(results: Sequence[EvalResult], metric: str, *, larger_is_better: bool) -> EvalResult:
    """Returns the result with the best value of ``metric``; the earliest step if several share it.

    A value that is NaN never wins.

    Raises:
        ValueError: there is no result, none has the metric, or none has a value for it.
    """
    if not results:
        raise ValueError("there are no evaluation results to choose the best checkpoint from")
    having = [result for result in results if metric in result.metrics]
    if not having:
        known = sorted(set().union(*(result.metrics for result in results)))
        raise ValueError(f"no evaluation result has the metric {metric!r}; they have {known}")
    valid = [result for result in having if not math.isnan(result.metrics[metric])]
    if not valid:
        raise ValueError(f"the metric {metric!r} has no value in any evaluation result")
    sign = -1 if larger_is_better else 1
    return min(valid, key=lambda result: (sign * result.metrics[metric], result.step))


def _line(step: int, metrics: Mapping[str, float]) -> str:
    values = {
        name: float(value) if math.isfinite(value) else None
        for name, value in sorted(metrics.items())
    }
    return json.dumps({"global_step": step, **values}, allow_nan=False) + "\n"


def _parse(line: str, *, where: str) -> EvalResult:
    try:
        values = json.loads(line)
        step = values.pop("global_step")
        metrics = {k: math.nan if v is None else float(v) for k, v in values.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where} is not an evaluation result: {line[:80]!r}") from error
    if not isinstance(step, int):
        raise ValueError(f"{where}: global_step must be an integer, got {step!r}")
    return EvalResult(step, metrics)


def _cut_half_line(file: int) -> None:
    """Cuts ``file`` back to its last line end."""
    size = os.fstat(file).st_size
    data = os.pread(file, size, 0)
    end = data.rfind(b"\n") + 1
    if end < size:
        os.ftruncate(file, end)
