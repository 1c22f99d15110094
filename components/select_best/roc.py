"""The ROC curve as KFP's page draws it."""

import numpy as np
import numpy.typing as npt

from tzrec_core.report.curves import count_above, roc_curve


def roc_points(
    scores: npt.NDArray[np.floating], labels: npt.NDArray[np.number], *, max_points: int
) -> list[dict[str, float]]:
    """Returns points of the ROC curve in KFP's words; none without a positive or a negative.

    Thresholds are finite: scikit-learn's curves begin at infinity, which KFP cannot store.

    Args:
        scores: [n], finite.
        labels: [n], positive where > 0.
        max_points: At least 2.
    """
    counts = count_above(scores, labels)
    if not counts.has_both_classes:
        return []
    curve = roc_curve(counts, max_points=max_points)
    columns = (curve.threshold.tolist(), curve.false_rate.tolist(), curve.recall.tolist())
    return [
        {"confidenceThreshold": t, "falsePositiveRate": f, "recall": r}
        for t, f, r in zip(*columns, strict=True)
    ]
