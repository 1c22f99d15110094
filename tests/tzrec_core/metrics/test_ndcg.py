import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.ndcg import ndcg_sums


def rows(size=300, levels=40):
    preds = torch.randint(0, levels, (size,)) / 8 - 1
    gains = torch.randint(0, 4, (size,)).float()
    keys = (torch.rand(size) ** 2 * 40).long() - 7
    gains[keys == -7] = 0  # a large group without a relevant row
    keys[::13] = NULL_ID
    return preds, gains, keys


def by_hand(preds, gains, keys, top_k):
    values = []
    for key in keys[keys != NULL_ID].unique():
        group = keys == key
        if gains[group].sum() > 0:
            # sklearn refuses one row, whose order is always the best.
            one = group.sum() == 1
            value = 1.0 if one else ndcg_score(gains[None, group], preds[None, group], k=top_k)
            values.append(value)
    return values


@pytest.mark.parametrize("top_k", [1, 3, 10, 1000])
@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_groups_have_sklearns_ndcg_and_count_alike(top_k, levels):
    columns = rows(levels=levels)
    expected = by_hand(*columns, top_k)
    sums = ndcg_sums(*columns, top_k=top_k)
    assert sums.value == pytest.approx(sum(expected) / len(expected), abs=1e-12)
    assert sums.num_groups_used == len(expected) < sums.num_groups


def test_binary_targets_of_any_dtype():
    preds, gains, keys = rows()
    target = (gains > 1).long()
    expected = by_hand(preds, target, keys, 5)
    sums = ndcg_sums(preds.bfloat16(), target, keys, top_k=5)
    assert sums.value == pytest.approx(sum(expected) / len(expected), abs=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=6),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_tied_predictions_give_the_mean_over_their_orders(group, top_k):
    def dcg(gains):
        return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:top_k]))

    preds, gains = (torch.tensor(column).float() for column in zip(*group, strict=True))
    sums = ndcg_sums(preds, gains, torch.zeros(len(group)).long(), top_k=top_k)
    best = dcg(sorted((gain for _, gain in group), reverse=True))
    if best == 0:
        assert math.isnan(sums.value)
        return
    # sorted() keeps the order of what is tied.
    orders = [sorted(order, key=lambda row: -row[0]) for order in permutations(group)]
    mean = sum(dcg([gain for _, gain in order]) for order in orders) / len(orders)
    assert sums.value == pytest.approx(mean / best)


def test_coverage_is_of_the_groups_with_a_positive_target():
    keys = torch.tensor([1, 1, 2, 2, 2, NULL_ID])
    sums = ndcg_sums(torch.rand(6), torch.tensor([0, 1, 0, 0, 0, 1]), keys, top_k=3)
    assert (sums.group_coverage, sums.row_coverage) == (1 / 2, 2 / 6)


def test_without_rows_there_is_no_value():
    none = torch.zeros(0)
    assert math.isnan(ndcg_sums(none, none, none.long(), top_k=3).value)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        ([0.1, float("nan")], [0, 1], "1 predictions or targets are NaN"),
        ([0.1, 0.2], [-1, float("inf")], "2 targets are negative or infinite"),
    ],
)
def test_what_has_no_gain_is_counted_and_refused(preds, target, message):
    with pytest.raises(ValueError, match=f"ndcg_at_k: {message}"):
        ndcg_sums(torch.tensor(preds), torch.tensor(target), torch.zeros(2).long(), top_k=1)
