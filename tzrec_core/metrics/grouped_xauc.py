"""X-AUC within groups, for example of one user's rows."""

from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.group_sums import GroupSums, GroupValues
from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import count_concordant_pairs, count_tied_pairs, number_groups
from tzrec_core.metrics.validity import refuse_nan


def grouped_xauc_sums(
    preds: Tensor, target: Tensor, keys: Tensor, *, exclude_tied_targets: bool = False
) -> GroupSums:
    """Returns sum_g |g| xauc_g and sum_g |g|; arguments and errors as ``grouped_xauc_values``."""
    return grouped_xauc_values(
        preds, target, keys, exclude_tied_targets=exclude_tied_targets
    ).add_up()


@one_thread()
def grouped_xauc_values(
    preds: Tensor, target: Tensor, keys: Tensor, *, exclude_tied_targets: bool = False
) -> GroupValues:
    """Returns xauc_g, and |g|, of the groups that have a pair.

    Grouped X-AUC is sum_g |g| xauc_g / sum_g |g| over them; ``xauc`` says what xauc_g is. Rows
    whose key is ``NULL_ID`` are in no group. Takes about 100 bytes of memory a row.

    Args:
        preds: [n].
        target: [n].
        keys: [n] int64, any values; equal ones are a group.
        exclude_tied_targets: Whether pairs with equal targets are left out.

    Raises:
        ValueError: NaN predictions or targets.
    """
    refuse_nan("grouped_xauc", (preds.isnan() | target.isnan()).sum())
    known = (keys != NULL_ID).nonzero().flatten()
    num_rows = len(keys)
    preds, target, keys = (column.gather(0, known) for column in (preds, target, keys))
    group, sizes = number_groups(keys)
    concordant = count_concordant_pairs(preds, target, group, num_groups=len(sizes))
    num_pairs = sizes * (sizes - 1) // 2
    if exclude_tied_targets:
        num_pairs -= count_tied_pairs(target, group, num_groups=len(sizes))
    weights = sizes.double().where(num_pairs > 0, 0)
    return GroupValues(concordant.double() / num_pairs, weights, sizes, num_rows)
