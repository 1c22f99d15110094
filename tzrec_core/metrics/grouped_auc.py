"""AUC within groups, for example of one user's rows."""

from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.auc import auc_by_group
from tzrec_core.metrics.validity import refuse_nan, refuse_not_binary, warn_if_nan


def grouped_auc(preds: Tensor, target: Tensor, keys: Tensor) -> Tensor:
    """Returns the mean over groups of AUC_g, over the groups that have both classes.

    A tie counts 1/2. Rows whose key is ``NULL_ID`` are in no group.

    Args:
        preds: [n] scores.
        target: [n], 0 or 1.
        keys: [n] int64, any values; equal ones are a group.

    Returns:
        0-d float64; NaN, with a warning, if no group has both classes.

    Raises:
        ValueError: NaN predictions, or targets other than 0 and 1.
    """
    refuse_nan("grouped_auc", preds.isnan().sum())
    refuse_not_binary("grouped_auc", ((target != 0) & (target != 1)).sum())
    known = keys != NULL_ID
    ids, group = keys[known].unique(return_inverse=True)
    auc, has_both = auc_by_group(preds[known], target[known], group, num_groups=len(ids))
    return warn_if_nan("grouped_auc", auc[has_both].mean(), "no group has both classes")
