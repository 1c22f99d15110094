import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_auroc

from tests.tzrec_core.metrics.batches import in_batches
from tzrec_core.metrics.binned_auc import binned_auc


def scored(size=500):
    """Predictions in (0, 1) and targets that they say something about."""
    preds = torch.rand(size) * 0.998 + 0.001
    return preds, (torch.rand(size) < preds).long()


@pytest.mark.parametrize("num_thresholds", [2, 11, 200])
def test_binned_auc_is_torchmetrics(num_thresholds):
    preds, target = scored(1000)
    expected = binary_auroc(preds, target, thresholds=num_thresholds)
    value = in_batches(binned_auc(num_thresholds=num_thresholds), preds, target)
    assert value == pytest.approx(expected.item(), abs=1e-6)


def test_binned_auc_is_the_exact_one_of_the_binned_predictions_including_their_ends():
    preds, target = scored(400)
    preds[:100] = torch.tensor([0.0, 1.0]).repeat(50)  # saturated
    binned = torch.bucketize(preds, torch.linspace(0, 1, 11), right=True)
    value = in_batches(binned_auc(num_thresholds=11), preds, target)
    assert value == pytest.approx(roc_auc_score(target, binned), abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc_and_says_so(label):
    with pytest.warns(UserWarning, match="auc is NaN: one class only"):
        value = in_batches(binned_auc(num_thresholds=9), torch.rand(10), torch.full((10,), label))
    assert math.isnan(value)


def test_nan_predictions_and_labels_other_than_0_and_1_are_counted_and_refused():
    preds, target = scored(20)
    formula = binned_auc(num_thresholds=10)
    with pytest.raises(ValueError, match="2 targets are neither 0 nor 1"):
        in_batches(formula, preds, target.index_fill(0, torch.tensor([0, 3]), 2))
    preds[[1, 5, 7]] = float("nan")
    with pytest.raises(ValueError, match="3 predictions"):
        in_batches(formula, preds, target)
