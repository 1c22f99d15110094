import math

import pytest
import torch

from tzrec_core.metrics.in_batch_xauc import in_batch_xauc
from tzrec_core.metrics.streaming import StreamingMetric
from tzrec_core.metrics.xauc import xauc

SIZES = (40, 1, 0, 25, 1)  # batches without a pair between, and at the end


def batches():
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        preds = torch.randint(0, 9, (size,), generator=generator) / 8
        yield preds, torch.randint(0, 5, (size,), generator=generator)


def value_of(**options):
    metric = StreamingMetric(in_batch_xauc(**options))
    for preds, target in batches():
        metric.update(preds, target)
    return metric.compute().item()


def pairs_by_batch(exclude):
    """(in order, pairs) of each batch, by hand."""
    for preds, target in batches():
        rows = list(zip(preds.tolist(), target.tolist(), strict=True))
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[:i]]
        if exclude:
            pairs = [(a, b) for a, b in pairs if a[1] != b[1]]
        yield sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs)


@pytest.mark.parametrize("exclude", [False, True])
def test_every_pair_within_a_batch_counts_alike(exclude):
    in_order, pairs = (sum(column) for column in zip(*pairs_by_batch(exclude), strict=True))
    value = value_of(exclude_tied_targets=exclude, weight_batches_equally=False)
    assert value == pytest.approx(in_order / pairs, abs=1e-12)


@pytest.mark.parametrize("exclude", [False, True])
def test_the_plain_mean_is_over_the_batches_that_have_a_pair(exclude):
    shares = [in_order / pairs for in_order, pairs in pairs_by_batch(exclude) if pairs]
    assert len(shares) == 2
    value = value_of(exclude_tied_targets=exclude, weight_batches_equally=True)
    assert value == pytest.approx(sum(shares) / 2, abs=1e-12)


def test_one_batch_is_all_pairs():
    preds, target = torch.rand(50), torch.rand(50)
    metric = StreamingMetric(
        in_batch_xauc(exclude_tied_targets=False, weight_batches_equally=False)
    )
    metric.update(preds, target)
    assert metric.compute().item() == pytest.approx(xauc(preds, target).item(), abs=1e-12)


@pytest.mark.parametrize("equally", [False, True])
def test_batches_of_one_row_have_no_value(equally):
    formula = in_batch_xauc(exclude_tied_targets=False, weight_batches_equally=equally)
    metric = StreamingMetric(formula)
    metric.update(torch.rand(1), torch.rand(1))
    with pytest.warns(UserWarning, match="xauc is NaN: there are no pairs"):
        assert math.isnan(metric.compute())


@pytest.mark.parametrize("equally", [False, True])
def test_nan_is_counted_and_refused(equally):
    formula = in_batch_xauc(exclude_tied_targets=True, weight_batches_equally=equally)
    metric = StreamingMetric(formula)
    metric.update(torch.tensor([0.1, float("nan"), 0.3]), torch.tensor([1.0, 2.0, float("nan")]))
    with pytest.raises(ValueError, match="xauc: 2 predictions or targets are NaN"):
        metric.compute()
