import pytest
import torch
from sklearn.metrics import roc_auc_score

from tzrec_core.metrics.auc import exact_auc


def scored(size=500, *, levels=None, seed=0):
    """Predictions in (0, 1) and targets that they say something about."""
    generator = torch.Generator().manual_seed(seed)
    preds = torch.rand(size, generator=generator) * 0.998 + 0.001
    if levels:
        preds = (preds * levels).floor() / levels
    return preds, (torch.rand(size, generator=generator) < preds).long()


@pytest.mark.parametrize("levels", [None, 5])
def test_exact_auc_is_sklearns(levels):
    preds, target = scored(levels=levels)
    assert exact_auc(preds, target).item() == pytest.approx(roc_auc_score(target, preds), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_type_is_compared_as_it_is(dtype):
    preds, target = scored()
    preds = preds.to(dtype)
    expected = roc_auc_score(target, preds.double())
    assert exact_auc(preds, target).item() == pytest.approx(expected, abs=1e-12)


def test_predictions_may_be_infinite_and_targets_bool():
    preds = torch.tensor([-torch.inf, -torch.inf, 0.0, -0.0, torch.inf, torch.inf])
    target = torch.tensor([0, 1, 0, 1, 0, 1]).bool()
    # Ties in their thirds 1/2; every positive beats the negatives of lower thirds.
    assert exact_auc(preds, target).item() == pytest.approx((3 * 0.5 + 3) / 9)


def test_constant_predictions_have_auc_one_half():
    _, target = scored()
    assert exact_auc(torch.full((500,), 0.3), target).item() == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc_and_says_so(label):
    preds, target = torch.rand(10), torch.full((10,), label)
    with pytest.warns(UserWarning, match="one class only"):
        assert exact_auc(preds, target).isnan()


def test_no_rows_have_no_auc():
    with pytest.warns(UserWarning, match="one class only"):
        assert exact_auc(torch.empty(0), torch.empty(0)).isnan()


def test_nan_predictions_and_labels_other_than_0_and_1_are_counted_and_refused():
    preds, target = scored(20)
    with pytest.raises(ValueError, match="3 predictions"):
        exact_auc(preds.index_fill(0, torch.tensor([1, 5, 7]), float("nan")), target)
    with pytest.raises(ValueError, match="2 targets are neither 0 nor 1"):
        exact_auc(preds, target.index_fill(0, torch.tensor([0, 3]), 2))
