import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_auroc

from tzrec_core.metrics.auc import BinnedAUC, exact_auc


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


@pytest.mark.parametrize("num_thresholds", [2, 11, 200])
def test_binned_auc_is_torchmetrics(num_thresholds):
    metric = BinnedAUC(num_thresholds=num_thresholds)
    preds, target = scored(1000)
    for part in range(0, 1000, 300):
        metric.update(preds[part : part + 300], target[part : part + 300])
    expected = binary_auroc(preds, target, thresholds=num_thresholds)
    assert metric.compute().item() == pytest.approx(expected.item(), abs=1e-6)


def test_binned_auc_is_the_exact_one_of_the_binned_predictions_including_their_ends():
    preds, target = scored(400)
    preds[:100] = torch.tensor([0.0, 1.0]).repeat(50)  # saturated
    metric = BinnedAUC(num_thresholds=11)
    metric.update(preds, target)
    binned = torch.bucketize(preds, torch.linspace(0, 1, 11), right=True)
    assert metric.compute().item() == pytest.approx(roc_auc_score(target, binned), abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc_and_says_so(label):
    preds, target = torch.rand(10), torch.full((10,), label)
    metric = BinnedAUC(num_thresholds=10)
    metric.update(preds, target)
    with pytest.warns(UserWarning, match="one class only"):
        assert metric.compute().isnan()
    with pytest.warns(UserWarning, match="one class only"):
        assert exact_auc(preds, target).isnan()


def test_no_rows_have_no_auc():
    with pytest.warns(UserWarning, match="one class only"):
        assert exact_auc(torch.empty(0), torch.empty(0)).isnan()


def compute_binned(preds, target):
    metric = BinnedAUC(num_thresholds=10)
    metric.update(preds, target)
    return metric.compute()


@pytest.mark.parametrize("compute", [exact_auc, compute_binned])
def test_nan_predictions_and_labels_other_than_0_and_1_are_counted_and_refused(compute):
    preds, target = scored(20)
    with pytest.raises(ValueError, match="3 predictions"):
        compute(preds.index_fill(0, torch.tensor([1, 5, 7]), float("nan")), target)
    with pytest.raises(ValueError, match="2 targets are neither 0 nor 1"):
        compute(preds, target.index_fill(0, torch.tensor([0, 3]), 2))
