import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tzrec_core.metrics.decay import DecayAUC, DecayedMetric

THRESHOLDS = 21


def batches(count, *, seed=0, size=40):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(size, generator=generator), torch.randint(0, 2, (size,), generator=generator))
        for _ in range(count)
    ]


def weighted_auc(rows, weights):
    """sklearn's AUC of binned predictions, batch i counting ``weights[i]``."""
    preds, target = (torch.cat(column) for column in zip(*rows, strict=True))
    bins = torch.bucketize(preds, torch.linspace(0, 1, THRESHOLDS), right=True)
    per_row = np.repeat(weights, [len(batch) for batch, _ in rows])
    return roc_auc_score(target, bins, sample_weight=per_row)


def decayed_metric(decay_rate=0.7, decay_step=2):
    metric = DecayAUC(num_thresholds=THRESHOLDS)
    return DecayedMetric(metric, decay_rate=decay_rate, decay_step=decay_step)


def test_before_the_first_decay_step_the_value_is_that_of_the_rows_so_far():
    metric = decayed_metric(decay_step=4)
    rows = batches(3)
    for number, batch in enumerate(rows, 1):
        metric.update(*batch)
        expected = weighted_auc(rows[:number], [1.0] * number)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


def test_each_decay_step_weights_the_past_by_the_rate_and_the_new_rows_by_the_rest():
    metric = decayed_metric(decay_rate=0.7, decay_step=2)
    rows = batches(7)
    for batch in rows:
        metric.update(*batch)
    # Decayed after batches 2 (first: taken as it is), 4 and 6; batch 7 has not been taken in yet.
    weights = [0.49, 0.49, 0.7 * 0.3, 0.7 * 0.3, 0.3, 0.3]
    assert metric.compute().item() == pytest.approx(weighted_auc(rows[:6], weights), abs=1e-12)


def test_a_first_value_of_zero_is_a_value_and_fades_like_any_other():
    metric = decayed_metric(decay_rate=0.5, decay_step=1)
    worst = (torch.tensor([0.9, 0.1]), torch.tensor([0, 1]))
    best = (torch.tensor([0.9, 0.1]), torch.tensor([1, 0]))
    metric.update(*worst)
    assert metric.compute().item() == 0
    metric.update(*best)
    assert metric.compute().item() == pytest.approx(weighted_auc([worst, best], [0.5, 0.5]))


def test_computing_twice_changes_nothing():
    metric = decayed_metric(decay_step=1)
    for batch in batches(3):
        metric.update(*batch)
        assert metric.compute() == metric.compute()


def test_an_empty_batch_counts_as_a_step():
    with_empty, without = decayed_metric(decay_step=2), decayed_metric(decay_step=1)
    for preds, target in batches(4):
        with_empty.update(preds, target)
        with_empty.update(preds[:0], target[:0])
        without.update(preds, target)
    assert with_empty.compute() == without.compute()


def test_nan_predictions_are_counted_and_refused():
    metric = decayed_metric(decay_step=10)
    metric.update(torch.tensor([0.5, float("nan"), 0.2, float("nan")]), torch.tensor([0, 1, 1, 0]))
    with pytest.raises(ValueError, match="2 predictions"):
        metric.compute()
