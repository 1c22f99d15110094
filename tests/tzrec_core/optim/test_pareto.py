"""Weights of losses by their gradients, against the closed form for two of them."""

import pytest
import torch

from tests.distributed.ranks import run
from tzrec_core.distributed.ranks import Ranks, process_group
from tzrec_core.optim.pareto import ParetoBalance

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(12, 5, generator=GENERATOR)
TARGETS = torch.randn(12, 3, generator=GENERATOR)
HALVES = [range(6), range(6, 12)]


def layer():
    return torch.nn.Linear(5, 3, bias=True)


def losses_of(module, rows):
    """The squared error of each output, over rows."""
    return ((module(INPUTS[rows]) - TARGETS[rows]) ** 2).mean(0)


def gradients_by_hand(module):
    """Of the squared errors of all rows, for weight and bias."""
    with torch.no_grad():
        errors = 2 * (module(INPUTS) - TARGETS) / len(INPUTS)
    gradients = torch.zeros(3, 3 * 5 + 3, dtype=torch.float64)
    for task in range(3):
        gradients[task, 5 * task : 5 * task + 5] = errors[:, task].double() @ INPUTS.double()
        gradients[task, 15 + task] = errors[:, task].double().sum()
    return gradients


def seeded_layer():
    torch.manual_seed(0)
    return layer()


def weights_on_rank(ranks: Ranks, bounds, shares):
    module = seeded_layer()
    balance = ParetoBalance(list(module.parameters()), bounds, ranks)
    weights = balance.weights(losses_of(module, shares[ranks.rank]))
    assert all(parameter.grad is None for parameter in module.parameters())
    return weights


@pytest.mark.parametrize("shares", [[range(12)], HALVES], ids=["one", "two"])
@pytest.mark.parametrize("bound", [0.0, 0.5])
def test_weights_are_those_of_the_gradients_of_all_rows(shares, bound):
    # Outputs share nothing, so gradients are orthogonal: each weighs 1 / |g|^2, but for the bound.
    inverse = 1 / gradients_by_hand(seeded_layer()).square().sum(1)
    expected = inverse / inverse.sum()
    if bound:
        assert expected[1] < bound
        inverse[1] = 0
        expected = inverse / inverse.sum() * (1 - bound)
        expected[1] = bound

    bounds = (0.0, bound, 0.0)
    for weights in run(weights_on_rank, len(shares), bounds, shares):
        torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-7)


def test_the_mean_weights_are_those_since_they_were_asked_for_last():
    with process_group() as ranks:
        module = seeded_layer()
        balance = ParetoBalance(list(module.parameters()), (0.0,) * 3, ranks)
        before = balance.pop_means()
        weights = [balance.weights(losses_of(module, rows)).double() for rows in HALVES]
        assert balance.weights(losses_of(module, HALVES[0]) * torch.nan) is None
        of_both, after = balance.pop_means(), balance.pop_means()
        balance.weights(losses_of(module, HALVES[1]))
        of_one = balance.pop_means()

    assert before is None
    assert after is None
    assert of_both == pytest.approx((sum(weights) / 2).tolist(), rel=1e-6)
    assert of_one == pytest.approx(weights[1].tolist(), rel=1e-6)


def test_ranks_with_other_rows_alone_would_come_to_other_weights():
    (first,), (second,) = (run(weights_on_rank, 1, (0.0,) * 3, [rows]) for rows in HALVES)
    assert not torch.allclose(first, second, rtol=0.05)


def test_tables_see_nothing_of_the_gradients():
    seen = []
    table = torch.ones(12, 5, requires_grad=True)
    embedding = table * 1
    embedding.register_hook(seen.append)
    module = layer()
    with process_group() as ranks:
        balance = ParetoBalance(list(module.parameters()), (0.0, 0.0, 0.0), ranks)
        losses = (module(embedding) ** 2).mean(0)
        balance.weights(losses)
        assert not seen
        losses.sum().backward()
    assert len(seen) == 1
    assert table.grad is not None


def test_a_loss_without_a_gradient_gets_no_weight_and_the_others_theirs():
    module = layer()
    with process_group() as ranks:
        balance = ParetoBalance(list(module.parameters()), (0.1, 0.2, 0.3), ranks)
        losses = losses_of(module, range(12))
        weights = balance.weights(losses * torch.tensor([1.0, 0.0, 1.0]))
        nothing = balance.weights(losses * 0)

    assert weights[1] == 0
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0] >= 0.1
    assert weights[2] >= 0.3
    assert nothing.tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gradients_that_are_not_finite_have_no_weights(value):
    module = layer()
    with process_group() as ranks:
        balance = ParetoBalance(list(module.parameters()), (0.0, 0.0, 0.0), ranks)
        factor = torch.tensor([1.0, value, 1.0])
        assert balance.weights(losses_of(module, range(12)) * factor) is None
