"""AUC within groups, for example of one user's rows."""

import torch
from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.auc import auc_by_group
from tzrec_core.metrics.group_sums import GroupSums, GroupValues
from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import number_groups
from tzrec_core.metrics.validity import refuse_nan, refuse_not_binary


def grouped_auc_sums(preds: Tensor, target: Tensor, keys: Tensor, *, weighting: str) -> GroupSums:
    """Returns sum_g w_g AUC_g and sum_g w_g; arguments and errors as ``grouped_auc_values``."""
    return grouped_auc_values(preds, target, keys, weighting=weighting).add_up()


@one_thread()
def grouped_auc_values(
    preds: Tensor, target: Tensor, keys: Tensor, *, weighting: str
) -> GroupValues:
    """Returns AUC_g, and w_g, of the groups that have both classes.

    Grouped AUC is sum_g w_g AUC_g / sum_g w_g over them (Zhu et al., Optimized Cost per Click in
    Taobao Display Advertising, KDD 2017); a tie counts 1/2. Rows whose key is ``NULL_ID`` are in no
    group. Takes about 100 bytes of memory a row.

    Args:
        preds: [n] scores.
        target: [n], 0 or 1.
        keys: [n] int64, any values; equal ones are a group.
        weighting: What w_g is: ``groups``: 1, ``rows`` or ``positives``: their number.

    Raises:
        ValueError: NaN predictions, or targets other than 0 and 1.
    """
    refuse_nan("grouped_auc", preds.isnan().sum())
    refuse_not_binary("grouped_auc", ((target != 0) & (target != 1)).sum())
    known = (keys != NULL_ID).nonzero().flatten()
    num_rows = len(keys)
    preds, target, keys = (column.gather(0, known) for column in (preds, target, keys))
    group, sizes = number_groups(keys)
    auc, has_both = auc_by_group(preds, target, group, num_groups=len(sizes))
    match weighting:
        case "groups":
            weight = torch.ones_like(auc)
        case "rows":
            weight = sizes.double()
        case "positives":
            weight = torch.zeros_like(auc).index_add_(0, group, target.double())
        case _:
            raise ValueError(f"weighting must be groups, rows or positives, got {weighting!r}")
    return GroupValues(auc, weight.where(has_both, 0), sizes, num_rows)
