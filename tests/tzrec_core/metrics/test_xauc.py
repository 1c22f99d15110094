from itertools import combinations

import pytest
import torch

from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.xauc import xauc


def xauc_by_hand(preds, target, *, exclude_tied_targets=False):
    """None if there is no pair."""
    pairs = [
        (i, j)
        for i, j in combinations(range(len(preds)), 2)
        if not (exclude_tied_targets and target[i] == target[j])
    ]
    in_order = sum((target[i] - target[j]) * (preds[i] - preds[j]) > 0 for i, j in pairs)
    return in_order / len(pairs) if pairs else None


def sample(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randint(0, 8, (size,), generator=generator) / 8  # few values: ties
    target = preds + torch.randint(0, 8, (size,), generator=generator)
    return preds, target


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_xauc_is_the_share_of_pairs_in_order(dtype, exclude):
    preds, target = sample(60)
    expected = xauc_by_hand(preds.tolist(), target.tolist(), exclude_tied_targets=exclude)
    value = xauc(preds.to(dtype), target, exclude_tied_targets=exclude)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_ties_are_not_in_order():
    assert xauc(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1, 2, 3])).item() == pytest.approx(
        2 / 3
    )
    assert xauc(torch.zeros(4), torch.arange(4)).item() == 0


def test_tied_targets_are_pairs_unless_they_are_left_out():
    preds, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1])
    assert xauc(preds, target).item() == pytest.approx(2 / 3)
    assert xauc(preds, target, exclude_tied_targets=True).item() == 1


def test_without_tied_targets_and_predictions_two_classes_have_their_auc():
    preds, target = torch.rand(500, dtype=torch.float64), torch.randint(0, 2, (500,))
    value = xauc(preds, target, exclude_tied_targets=True)
    assert value.item() == pytest.approx(exact_auc(preds, target).item(), abs=1e-12)


def test_infinite_values_are_ordered_like_others():
    preds = torch.tensor([-torch.inf, 0.0, torch.inf, torch.inf])
    target = torch.tensor([-torch.inf, torch.inf, torch.inf, 5.0])
    # (0, 1), (0, 2) and (0, 3) of 6: 1 and 2 tie in the target, 2 and 3 in the prediction.
    assert xauc(preds, target).item() == 3 / 6


def test_the_number_of_pairs_does_not_overflow_32_bits():
    target = torch.arange(200_000)
    assert xauc(target.float(), target).item() == 1


@pytest.mark.parametrize("size", [0, 1])
def test_fewer_than_two_rows_have_no_xauc(size):
    with pytest.warns(UserWarning, match="fewer than two rows"):
        assert xauc(torch.zeros(size), torch.zeros(size)).isnan()


def test_equal_targets_have_no_xauc_without_ties():
    assert xauc(torch.rand(3), torch.ones(3)).item() == 0
    with pytest.warns(UserWarning, match="no two rows of different targets"):
        assert xauc(torch.rand(3), torch.ones(3), exclude_tied_targets=True).isnan()


def test_nan_is_counted_and_refused():
    preds, target = torch.tensor([0.1, torch.nan, 0.3]), torch.rand(3)
    with pytest.raises(ValueError, match="xauc: 1 predictions or targets are NaN"):
        xauc(preds, target)
    with pytest.raises(ValueError, match="xauc: 2 predictions or targets are NaN"):
        xauc(preds, target.index_fill(0, torch.tensor([0]), torch.nan))
