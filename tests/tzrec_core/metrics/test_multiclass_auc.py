import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.tzrec_core.metrics.batches import in_batches
from tzrec_core.metrics.multiclass_auc import (
    ExactMulticlassAUC,
    binned_multiclass_auc,
    exact_multiclass_auc,
)
from tzrec_core.metrics.streaming import StreamingMetric

AVERAGES = ["macro", "weighted"]


def rows(size=300, num_class=4):
    target = torch.randint(0, num_class, (size,))
    target[: size // 2] = 0  # unequal classes
    logits = torch.randn(size, num_class)
    logits[torch.arange(size), target] += 0.7
    return logits.softmax(1), target


def one_against_rest(preds, target, average):
    probabilities = preds.double() / preds.double().sum(1, keepdim=True)
    return roc_auc_score(target, probabilities, multi_class="ovr", average=average)


@pytest.mark.parametrize("average", AVERAGES)
def test_exact_is_sklearns_one_against_the_rest(average):
    preds, target = rows()
    expected = one_against_rest(preds, target, average)
    assert exact_multiclass_auc(preds, target, average=average).item() == pytest.approx(expected)

    metric = ExactMulticlassAUC(num_class=4, average=average)
    for start, end in ((0, 40), (40, 40), (40, 300)):
        metric.update(preds[start:end], target[start:end])
    assert metric.compute().item() == pytest.approx(expected)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("num_thresholds", [2, 11, 200])
def test_binned_is_exact_of_the_bins(num_thresholds, average):
    preds, target = rows()
    bins = torch.bucketize(preds, torch.linspace(0, 1, num_thresholds), right=True)
    expected = exact_multiclass_auc(bins.double(), target, average=average).item()
    formula = binned_multiclass_auc(num_class=4, num_thresholds=num_thresholds, average=average)
    assert in_batches(formula, preds, target) == pytest.approx(expected)


@pytest.mark.parametrize("average", AVERAGES)
def test_a_class_without_rows_is_left_out_and_said(average):
    preds, target = rows()
    preds = torch.cat([preds, torch.rand(300, 1)], dim=1)  # nobody is of class 4
    by_class = [roc_auc_score(target == c, preds[:, c]) for c in range(4)]
    weights = target.bincount().double() if average == "weighted" else torch.ones(4).double()
    expected = (torch.tensor(by_class) * weights).sum() / weights.sum()
    with pytest.warns(UserWarning, match="leaves out 1 of 5 classes"):
        value = exact_multiclass_auc(preds, target, average=average)
    assert value.item() == pytest.approx(expected.item())
    formula = binned_multiclass_auc(num_class=5, num_thresholds=10001, average=average)
    with pytest.warns(UserWarning, match="leaves out 1 of 5 classes"):
        assert in_batches(formula, preds, target) == pytest.approx(expected.item(), abs=1e-3)


def test_one_class_only_has_no_value():
    preds, target = torch.rand(5, 3), torch.ones(5)
    with pytest.warns(UserWarning, match="all rows have one class"):
        assert exact_multiclass_auc(preds, target, average="macro").isnan()
    formula = binned_multiclass_auc(num_class=3, num_thresholds=9, average="macro")
    with pytest.warns(UserWarning, match="all rows have one class"):
        assert math.isnan(in_batches(formula, preds, target))


def test_bad_rows_are_counted_and_refused():
    preds, target = torch.rand(4, 3), torch.tensor([0, 1, 3, -1])
    metric = StreamingMetric(binned_multiclass_auc(num_class=3, num_thresholds=9, average="macro"))
    metric.update(preds, target)
    for compute in (
        metric.compute,
        lambda: exact_multiclass_auc(preds, target, average="macro"),
    ):
        with pytest.raises(ValueError, match="2 targets are no integers from 0 to 2"):
            compute()
    preds[1, 2] = float("nan")
    metric.update(preds, target)
    for compute in (
        metric.compute,
        lambda: exact_multiclass_auc(preds, target, average="macro"),
    ):
        with pytest.raises(ValueError, match="1 predictions"):
            compute()
