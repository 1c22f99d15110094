"""What a training left on disk of its course: evaluations, and TensorBoard's event files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tzrec_core import eval_result
from tzrec_core.report.curves import Curve

_PREFIXES = ("loss/", "metric/", "memory/")
_NAMES = ("samples_per_second", "data_wait_share")


def evaluations(path: Path) -> dict[str, Curve]:
    """Returns each metric of ``train_eval_result.txt`` over steps; none if there is no file."""
    results = eval_result.read(path)
    names = dict.fromkeys(name for result in results for name in result.metrics)
    curves = {}
    for name in names:
        points = [(r.step, r.metrics[name]) for r in results if name in r.metrics]
        curve = _finite(points)
        if len(curve.x):
            curves[name] = curve
    return curves


def log_lines(model_dir: Path) -> dict[str, Curve]:
    """Returns losses, metrics, speed and memory over the steps of a training's log lines.

    They are in TensorBoard's event files, which a training writes unless ``use_tensorboard`` is
    off. Of a step that was trained twice, after a restart, the last time counts.

    Args:
        model_dir: Of the training.
    """
    if not any(model_dir.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # 0: every value, not a sample of them.
    events = EventAccumulator(str(model_dir), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        if tag.startswith(_PREFIXES) or tag in _NAMES:
            last = {event.step: event.value for event in events.Scalars(tag)}
            curves[tag] = _finite(sorted(last.items()))
    if not curves:  # they were written as tensors
        for tag in events.Tags()["tensors"]:
            if tag.startswith(_PREFIXES) or tag in _NAMES:
                values = {e.step: float(e.tensor_proto.float_val[0]) for e in events.Tensors(tag)}
                curves[tag] = _finite(sorted(values.items()))
    return {name: curve for name, curve in curves.items() if len(curve.x)}


def summary(curves: Mapping[str, Curve]) -> dict[str, float]:
    """Returns the median speed, share of waiting for data, and peak memory, as far as known."""
    found = {}
    for name in _NAMES:
        if name in curves:
            found[name] = float(np.median(curves[name].y))
    for name, curve in curves.items():
        if name.startswith("memory/") and name.endswith("_peak_gib"):
            found[name] = float(curve.y.max())
    return found


def _finite(points: list[tuple[int, float]]) -> Curve:
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    kept = np.isfinite(values)
    return Curve(steps[kept], values[kept])
