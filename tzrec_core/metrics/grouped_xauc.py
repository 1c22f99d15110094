"""X-AUC within groups, for example of one user's rows."""

from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.pairs import count_concordant_pairs
from tzrec_core.metrics.validity import refuse_nan, warn_if_nan


def grouped_xauc(preds: Tensor, target: Tensor, keys: Tensor) -> Tensor:
    """Returns sum_g |g| xauc_g / sum_g |g| over the groups of two rows and more.

    Rows whose key is ``NULL_ID`` are in no group; ``xauc`` says what xauc_g is.

    Args:
        preds: [n].
        target: [n].
        keys: [n] int64, any values; equal ones are a group.

    Returns:
        0-d float64; NaN, with a warning, if no group has two rows.

    Raises:
        ValueError: NaN predictions or targets.
    """
    refuse_nan("grouped_xauc", (preds.isnan() | target.isnan()).sum())
    known = keys != NULL_ID
    _, group, sizes = keys[known].unique(return_inverse=True, return_counts=True)
    concordant = count_concordant_pairs(preds[known], target[known], group, num_groups=len(sizes))
    has_pairs = sizes >= 2
    rows, concordant = sizes[has_pairs].double(), concordant[has_pairs].double()
    value = (rows * (concordant / (rows * (rows - 1) / 2))).sum() / rows.sum()
    return warn_if_nan("grouped_xauc", value, "no group has two rows")
