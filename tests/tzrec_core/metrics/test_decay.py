import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, roc_auc_score

from tzrec_core.metrics.binned_auc import binned_auc
from tzrec_core.metrics.decay import DecayedMetric, KeptRows
from tzrec_core.metrics.error import absolute_error
from tzrec_core.metrics.in_batch_xauc import in_batch_xauc
from tzrec_core.metrics.streaming import mean_over_rows
from tzrec_core.metrics.xauc import xauc

THRESHOLDS = 21
AUC = binned_auc(num_thresholds=THRESHOLDS)
ERROR = mean_over_rows("mean_absolute_error", absolute_error)
XAUC = in_batch_xauc(exclude_tied_targets=False, weight_batches_equally=False)


def batches(count, *, seed=0, size=40):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(size, generator=generator), torch.randint(0, 2, (size,), generator=generator))
        for _ in range(count)
    ]


def joined(rows):
    return (torch.cat(column) for column in zip(*rows, strict=True))


def weighted_auc(rows, weights):
    """sklearn's AUC of binned predictions, batch i counting ``weights[i]``."""
    preds, target = joined(rows)
    bins = torch.bucketize(preds, torch.linspace(0, 1, THRESHOLDS), right=True)
    per_row = np.repeat(weights, [len(batch) for batch, _ in rows])
    return roc_auc_score(target, bins, sample_weight=per_row)


def decayed(formula=AUC, decay_rate=0.7, decay_step=2, **options):
    return DecayedMetric(formula, decay_rate=decay_rate, decay_step=decay_step, **options)


def test_before_the_first_decay_step_the_value_is_that_of_the_rows_so_far():
    metric = decayed(decay_step=4)
    rows = batches(3)
    for number, batch in enumerate(rows, 1):
        metric.update(*batch)
        expected = weighted_auc(rows[:number], [1.0] * number)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


def test_each_decay_step_weights_the_past_by_the_rate_and_the_new_rows_by_the_rest():
    metric = decayed(decay_rate=0.7, decay_step=2)
    rows = batches(7)
    for batch in rows:
        metric.update(*batch)
    # Decayed after batches 2 (first: taken as it is), 4 and 6; batch 7 has not been taken in yet.
    weights = [0.49, 0.49, 0.7 * 0.3, 0.7 * 0.3, 0.3, 0.3]
    assert metric.compute().item() == pytest.approx(weighted_auc(rows[:6], weights), abs=1e-12)


def test_of_equally_many_rows_means_decay_by_value():
    metric, value = decayed(ERROR, decay_rate=0.9, decay_step=3), None
    rows = batches(12)
    for end in range(3, 13, 3):
        for batch in rows[end - 3 : end]:
            metric.update(*batch)
        preds, target = joined(rows[end - 3 : end])
        new = mean_absolute_error(target, preds.double())
        value = new if value is None else 0.9 * value + (1 - 0.9) * new
        assert metric.compute().item() == pytest.approx(value, abs=1e-9)


def test_of_unequally_many_rows_a_value_has_the_weight_of_its_rows():
    metric = decayed(ERROR, decay_rate=0.9, decay_step=1)
    (many,), (few,) = batches(1, size=100), batches(1, size=10)
    metric.update(*many)
    metric.update(*few)
    old, new = (mean_absolute_error(target, preds.double()) for preds, target in (many, few))
    expected = (0.9 * 100 * old + 0.1 * 10 * new) / (0.9 * 100 + 0.1 * 10)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-9)


def test_kept_rows_make_pairs_across_the_batches_of_a_decay_step():
    metric, value = decayed(XAUC, decay_rate=0.6, decay_step=2, recent=KeptRows), None
    rows = [(preds, preds + torch.rand(40)) for preds, _ in batches(6)]
    for end in range(2, 7, 2):
        metric.update(*rows[end - 2])
        if end == 2:
            assert metric.compute().item() == pytest.approx(xauc(*rows[0]).item(), abs=1e-12)
        metric.update(*rows[end - 1])
        new = xauc(*joined(rows[end - 2 : end])).item()
        value = new if value is None else 0.6 * value + 0.4 * new
        assert metric.compute().item() == pytest.approx(value, abs=1e-9)


def test_a_first_value_of_zero_is_a_value_and_fades_like_any_other():
    metric = decayed(decay_rate=0.5, decay_step=1)
    worst = (torch.tensor([0.9, 0.1]), torch.tensor([0, 1]))
    best = (torch.tensor([0.9, 0.1]), torch.tensor([1, 0]))
    metric.update(*worst)
    assert metric.compute().item() == 0
    metric.update(*best)
    assert metric.compute().item() == pytest.approx(weighted_auc([worst, best], [0.5, 0.5]))


@pytest.mark.parametrize("options", [{}, {"recent": KeptRows}])
def test_computing_twice_changes_nothing(options):
    metric = decayed(decay_step=2, **options)
    for batch in batches(3):
        metric.update(*batch)
        assert metric.compute() == metric.compute()


@pytest.mark.parametrize("options", [{}, {"recent": KeptRows}])
def test_an_empty_batch_counts_as_a_step(options):
    with_empty, without = decayed(decay_step=2, **options), decayed(decay_step=1, **options)
    for preds, target in batches(4):
        with_empty.update(preds, target)
        with_empty.update(preds[:0], target[:0])
        without.update(preds, target)
    assert with_empty.compute() == without.compute()


@pytest.mark.parametrize("stop", range(7))
@pytest.mark.parametrize("formula", [AUC, ERROR, XAUC])
def test_going_on_from_a_state_equals_never_having_stopped(formula, stop):
    whole, first, second = (decayed(formula, decay_step=2) for _ in range(3))
    second.update(*batches(1, seed=9)[0])  # is forgotten
    rows = batches(7)
    for batch in rows:
        whole.update(*batch)
    for batch in rows[:stop]:
        first.update(*batch)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())), num_steps=stop)
    for batch in rows[stop:]:
        second.update(*batch)
    assert second.compute() == whole.compute()
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("stop", [2, 3])
def test_rows_kept_at_a_stop_make_no_pairs_with_later_ones(stop):
    first, second = (decayed(XAUC, decay_step=2, recent=KeptRows) for _ in range(2))
    rows = batches(4)
    for batch in rows[:stop]:
        first.update(*batch)
    second.load_state_dict(first.state_dict(), num_steps=stop)
    assert second.compute() == first.compute()
    for batch in rows[stop:]:
        second.update(*batch)
    # Decayed after batches 2 and 4; a stop after 2 parts no rows.
    parts = [rows[:2], rows[2:stop], rows[stop:]]
    in_order, pairs = 0.0, 0.0
    for weight, part in zip([0.7, 0.3, 0.3], parts, strict=True):
        if part:
            preds, target = joined(part)
            weighted_pairs = weight * math.comb(len(preds), 2)
            in_order += weighted_pairs * xauc(preds, target).item()
            pairs += weighted_pairs
    assert second.compute().item() == pytest.approx(in_order / pairs, abs=1e-12)


def test_without_a_state_decay_steps_are_still_those_of_the_training():
    metric = decayed(decay_step=4)
    metric.load_state_dict(None, num_steps=2)
    rows = batches(4)
    for batch in rows:
        metric.update(*batch)
    assert metric.compute().item() == pytest.approx(weighted_auc(rows[:2], [1, 1]), abs=1e-12)


def test_the_state_of_another_metric_is_refused():
    with pytest.raises(ValueError, match="a train metric has 4 sums, not 69"):
        decayed(ERROR).load_state_dict(decayed(AUC).state_dict(), num_steps=0)


def test_nan_predictions_are_counted_and_refused_even_when_they_have_faded():
    metric = decayed(decay_step=1, decay_rate=0.1)
    metric.update(torch.tensor([0.5, float("nan"), 0.2, float("nan")]), torch.tensor([0, 1, 1, 0]))
    with pytest.raises(ValueError, match="2 predictions"):
        metric.compute()
    for batch in batches(3):
        metric.update(*batch)
    with pytest.raises(ValueError, match="1 predictions"):
        metric.compute()
