import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.grouped_auc import grouped_auc_sums

WEIGHTS = {
    "groups": lambda target: 1,
    "rows": len,
    "positives": lambda target: int(target.sum()),
}


def sums_by_hand(preds, target, keys, weighting):
    """Sum of weighted AUC, of weights, and the rows of the groups that have both classes."""
    total, weights, rows = 0.0, 0, []
    for key in keys.unique():
        own = keys == key
        if key != NULL_ID and len(target[own].unique()) == 2:
            weight = WEIGHTS[weighting](target[own])
            total += weight * roc_auc_score(target[own], preds[own].double())
            weights += weight
            rows.append(int(own.sum()))
    return total, weights, rows


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("levels", [4, 1000])
def test_grouped_auc_is_the_mean_over_groups_with_both_classes(levels, weighting):
    generator = torch.Generator().manual_seed(0)
    preds = torch.randint(0, levels, (600,), generator=generator) / levels
    target = torch.randint(0, 2, (600,), generator=generator)
    # From groups of one row to groups of many; negative and huge keys; rows without a key.
    keys = (torch.rand(600, generator=generator) ** 3 * 150).long() * 2**56 - 2**62
    keys[::20] = NULL_ID

    total, weights, rows = sums_by_hand(preds, target, keys, weighting)
    sums = grouped_auc_sums(preds, target, keys, weighting=weighting)

    num_groups = len(keys.unique()) - 1
    assert 10 < len(rows) < num_groups - 10
    assert sums.value == pytest.approx(total / weights, abs=1e-12)
    assert sums.weights == weights
    assert sums.group_coverage == len(rows) / num_groups
    assert sums.row_coverage == sum(rows) / 600


ROWS = st.lists(
    st.tuples(
        st.sampled_from([-math.inf, -0.5, -0.0, 0.0, 0.1, math.inf]),
        st.booleans(),
        st.sampled_from([NULL_ID, -(2**62), -1, 5]),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_any_rows_count_each_pair_of_classes_by_hand(rows, dtype):
    preds = torch.tensor([row[0] for row in rows], dtype=dtype)
    target = torch.tensor([row[1] for row in rows], dtype=torch.bool)
    keys = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    total, used = 0.0, 0
    for key in set(keys.tolist()) - {NULL_ID}:
        positives = preds[(keys == key) & target].tolist()
        negatives = preds[(keys == key) & ~target].tolist()
        wins = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
        if wins:
            total += sum(wins) / len(wins)
            used += 1

    sums = grouped_auc_sums(preds, target, keys, weighting="groups")
    assert sums.weighted_values == pytest.approx(total, abs=1e-12)
    assert sums.weights == sums.num_groups_used == used
    assert sums.num_groups == len(set(keys.tolist()) - {NULL_ID})


@pytest.mark.parametrize(
    ("target", "keys"),
    [
        ([0, 1, 1], [1, 2, 2]),
        ([0, 1, 1], [NULL_ID] * 3),
        ([], []),
    ],
)
def test_without_a_group_of_both_classes_there_is_no_value(target, keys):
    sums = grouped_auc_sums(
        torch.rand(len(target)),
        torch.tensor(target),
        torch.tensor(keys, dtype=torch.int64),
        weighting="rows",
    )
    assert math.isnan(sums.value)
    assert (sums.weights, sums.num_groups_used, sums.num_rows) == (0, 0, len(target))


def test_nan_predictions_and_labels_other_than_0_and_1_are_refused():
    keys = torch.tensor([1, 1])
    with pytest.raises(ValueError, match="1 predictions"):
        grouped_auc_sums(
            torch.tensor([0.5, math.nan]), torch.tensor([0, 1]), keys, weighting="rows"
        )
    with pytest.raises(ValueError, match="1 targets"):
        grouped_auc_sums(torch.tensor([0.5, 0.1]), torch.tensor([0, 5]), keys, weighting="rows")


def test_an_unknown_weighting_is_refused():
    rows = torch.tensor([0.5, 0.1]), torch.tensor([0, 1]), torch.tensor([1, 1])
    with pytest.raises(ValueError, match="must be groups, rows or positives, got 'users'"):
        grouped_auc_sums(*rows, weighting="users")


@pytest.mark.gpu
def test_a_gpu_computes_what_a_cpu_does():
    generator = torch.Generator().manual_seed(0)
    preds = torch.rand(100_000, generator=generator)
    target = (torch.rand(100_000, generator=generator) < preds).long()
    keys = torch.randint(10_000, (100_000,), generator=generator)
    rows = preds, target, keys
    expected = grouped_auc_sums(*rows, weighting="rows")
    sums = grouped_auc_sums(*(column.cuda() for column in rows), weighting="rows")
    assert sums.value == pytest.approx(expected.value, abs=1e-12)
    assert sums.to_tensor()[1:].tolist() == expected.to_tensor()[1:].tolist()
