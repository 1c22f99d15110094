"""The ROC curve as KFP's page draws it."""

import numpy as np
import numpy.typing as npt


def roc_points(
    scores: npt.NDArray[np.floating], labels: npt.NDArray[np.number], *, max_points: int
) -> list[dict[str, float]]:
    """Returns points of the ROC curve from (0, 0) to (1, 1), in KFP's words.

    Thresholds are finite: scikit-learn's curves begin at infinity, which KFP cannot store. Where
    there are more distinct scores than ``max_points``, points are kept at even distances along
    the curve. Without a positive or without a negative there is no curve, and no point.

    Args:
        scores: [N], finite.
        labels: [N], positive where > 0.
        max_points: At least 2.
    """
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order].astype(float), labels[order] > 0
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return []
    last_of_score = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    recall = np.append(0.0, np.cumsum(positive)[last_of_score] / num_positive)
    false_rate = np.append(0.0, np.cumsum(~positive)[last_of_score] / num_negative)
    threshold = np.append(np.nextafter(scores[0], np.inf), scores[last_of_score])
    if len(recall) > max_points:
        # A curve that only rises has length recall + false_rate in steps along the axes.
        marks = np.linspace(0, 2, max_points)
        kept = np.unique(np.searchsorted(recall + false_rate, marks - 1e-9))
        recall, false_rate, threshold = recall[kept], false_rate[kept], threshold[kept]
    return [
        {"confidenceThreshold": t, "falsePositiveRate": f, "recall": r}
        for t, f, r in zip(threshold.tolist(), false_rate.tolist(), recall.tolist(), strict=True)
    ]
