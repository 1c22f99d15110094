"""X-AUC by how large the target is: which rows a model puts in order, and which it does not."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import concordant_by_row
from tzrec_core.report.bins import equal_parts


@dataclass(frozen=True)
class TargetPart:
    """The rows of a range of targets.

    Attributes:
        low: Their smallest target.
        high: Their largest.
        num_rows: How many they are.
        xauc: The share of pairs in order among those of one of these rows and any other row, NaN
            if there is no pair that counts.
    """

    low: float
    high: float
    num_rows: int
    xauc: float


@one_thread()
def xauc_by_target(
    preds: Tensor, target: Tensor, *, num_parts: int = 10, exclude_tied_targets: bool
) -> list[TargetPart]:
    """Returns the X-AUC of ranges of targets with about equal numbers of rows, ascending.

    A pair of rows counts for the ranges of both. Without tied targets in the count of pairs, and
    also with all of them, the mean over ranges, weighted by their pairs, is the X-AUC of all rows.

    Args:
        preds: [n], n > 1.
        target: [n].
        num_parts: The most ranges; equal targets stay in one.
        exclude_tied_targets: Whether pairs of equal targets are left out of the count.
    """
    group = torch.zeros(len(preds), dtype=torch.int64)
    concordant = concordant_by_row(preds, target, group).numpy()
    partners = np.full(len(preds), len(preds) - 1, np.int64)
    values = target.double().numpy()
    if exclude_tied_targets:
        _, number, tied = np.unique(values, return_inverse=True, return_counts=True)
        partners -= tied[number] - 1
    part, edges = equal_parts(values, num_parts)
    parts = []
    for index in range(len(edges) + 1):
        here = part == index
        num_pairs = partners[here].sum()
        value = float(concordant[here].sum() / num_pairs) if num_pairs else float("nan")
        low, high = float(values[here].min()), float(values[here].max())
        parts.append(TargetPart(low, high, int(here.sum()), value))
    return parts
