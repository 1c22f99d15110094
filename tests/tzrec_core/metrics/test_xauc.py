from itertools import combinations

import pytest
import torch

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.grouped_xauc import grouped_xauc
from tzrec_core.metrics.xauc import xauc


def xauc_by_hand(preds, target):
    pairs = list(combinations(range(len(preds)), 2))
    in_order = sum((target[i] - target[j]) * (preds[i] - preds[j]) > 0 for i, j in pairs)
    return in_order / len(pairs)


def sample(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randint(0, 8, (size,), generator=generator) / 8  # few values: ties
    target = preds + torch.randint(0, 8, (size,), generator=generator)
    return preds, target


def test_xauc_is_the_share_of_pairs_in_order():
    preds, target = sample(60)
    expected = xauc_by_hand(preds.tolist(), target.tolist())
    assert xauc(preds, target).item() == pytest.approx(expected, abs=1e-12)


def test_ties_are_not_in_order():
    assert xauc(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1, 2, 3])).item() == pytest.approx(
        2 / 3
    )
    assert xauc(torch.zeros(4), torch.arange(4)).item() == 0


@pytest.mark.parametrize("size", [0, 1])
def test_fewer_than_two_rows_have_no_xauc(size):
    with pytest.warns(UserWarning, match="fewer than two rows"):
        assert xauc(torch.zeros(size), torch.zeros(size)).isnan()


def test_grouped_xauc_weights_groups_of_two_rows_and_more_by_their_rows():
    preds, target = sample(200)
    keys = (torch.rand(200, generator=torch.Generator().manual_seed(1)) ** 3 * 80).long() - 40
    keys[::15] = NULL_ID
    rows, total = 0, 0.0
    for key in keys[keys != NULL_ID].unique():
        members = keys == key
        size = int(members.sum())
        if size > 1:
            rows += size
            total += size * xauc_by_hand(preds[members].tolist(), target[members].tolist())

    assert 0 < rows < 186  # some groups have one row only
    assert grouped_xauc(preds, target, keys).item() == pytest.approx(total / rows, abs=1e-12)


def test_groups_of_one_row_only_have_no_grouped_xauc():
    with pytest.warns(UserWarning, match="no group has two rows"):
        assert grouped_xauc(torch.rand(3), torch.rand(3), torch.tensor([1, 2, NULL_ID])).isnan()


def test_nan_is_counted_and_refused():
    preds, target, keys = (
        torch.tensor([0.1, float("nan"), 0.3]),
        torch.rand(3),
        torch.zeros(3).long(),
    )
    with pytest.raises(ValueError, match="1 predictions or targets are NaN"):
        xauc(preds, target)
    with pytest.raises(ValueError, match="2 predictions or targets are NaN"):
        grouped_xauc(preds, target.index_fill(0, torch.tensor([0]), float("nan")), keys)
