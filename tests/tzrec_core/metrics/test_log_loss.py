import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import log_loss as sklearn_log_loss

from tests.tzrec_core.metrics.batches import in_batches
from tzrec_core.metrics.log_loss import log_loss, normalized_entropy
from tzrec_core.metrics.streaming import StreamingMetric

ETA = 1e-12


def binary():
    return torch.rand(200), (torch.rand(200) < 0.2).long()


def of_classes(num_class):
    return torch.rand(200, num_class).softmax(1), torch.randint(0, num_class, (200,))


def test_log_loss_of_probabilities_is_sklearns():
    preds, target = binary()
    expected = sklearn_log_loss(target, preds.double())
    value = in_batches(log_loss(num_class=1, eta=ETA), preds, target)
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_class", [2, 5])
def test_log_loss_of_classes_is_sklearns(num_class):
    preds, target = of_classes(num_class)
    preds = preds.double() / preds.double().sum(1, keepdim=True)
    expected = sklearn_log_loss(target, preds, labels=range(num_class))
    formula = log_loss(num_class=num_class, eta=ETA)
    assert in_batches(formula, preds, target) == pytest.approx(expected)


def test_normalized_entropy_divides_by_the_entropy_of_the_base_rate():
    preds, target = binary()
    rate = target.double().mean().item()
    expected = sklearn_log_loss(target, preds.double()) / entropy([rate, 1 - rate])
    formula = normalized_entropy(num_class=1, eta=ETA)
    assert in_batches(formula, preds, target) == pytest.approx(expected)


@pytest.mark.parametrize("num_class", [2, 4])
def test_normalized_entropy_of_classes_divides_by_the_entropy_of_their_shares(num_class):
    preds, target = of_classes(num_class)
    loss = -np.log(preds.double()[torch.arange(200), target]).mean()
    expected = loss / entropy(target.bincount().double())
    formula = normalized_entropy(num_class=num_class, eta=ETA)
    assert in_batches(formula, preds, target) == pytest.approx(float(expected))


def test_one_probability_and_two_classes_are_the_same():
    preds, target = binary()
    both = torch.stack([1 - preds.double(), preds.double()], dim=1)
    for formula in (log_loss, normalized_entropy):
        one = in_batches(formula(num_class=1, eta=ETA), preds, target)
        assert one == pytest.approx(in_batches(formula(num_class=2, eta=ETA), both, target))


def test_predicting_the_base_rate_has_normalized_entropy_1():
    _, target = binary()
    preds = torch.full((200,), target.double().mean())
    formula = normalized_entropy(num_class=1, eta=ETA)
    assert in_batches(formula, preds, target) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("num_class", [1, 2])
def test_one_class_only_has_no_normalized_entropy(num_class, label):
    preds = torch.rand(9) if num_class == 1 else torch.rand(9, 2).softmax(1)
    formula = normalized_entropy(num_class=num_class, eta=ETA)
    with pytest.warns(UserWarning, match="normalized_entropy is NaN: fewer than two classes"):
        assert math.isnan(in_batches(formula, preds, torch.full((9,), label)))


def test_probabilities_are_clamped_by_eta():
    # A rounding above 1, and certainty that is wrong.
    preds, target = torch.tensor([1.00001, 0.0]), torch.tensor([1, 1])
    value = in_batches(log_loss(num_class=1, eta=0.01), preds, target)
    assert value == pytest.approx(-(math.log(0.99) + math.log(0.01)) / 2)


@pytest.mark.parametrize("formula", [log_loss, normalized_entropy])
def test_bad_rows_are_counted_and_refused(formula):
    metric = StreamingMetric(formula(num_class=1, eta=ETA))
    metric.update(torch.tensor([0.5, float("nan"), 0.1]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=f"{formula.__name__}: 1 predictions"):
        metric.compute()
    metric.reset()
    metric.update(torch.rand(3), torch.tensor([0, 3, 0.4]))
    with pytest.raises(ValueError, match=f"{formula.__name__}: 2 targets are neither 0 nor 1"):
        metric.compute()
