"""What is minimised and reported of several tasks, against sums written by hand."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from tests.tzrec_core.task_rows import (
    CLICK,
    STARS,
    WATCH,
    make_batch,
    make_logits_of_towers,
    towers,
)
from tzrec_core.distributed.ranks import process_group
from tzrec_core.optim.loss_scale import LossScale
from tzrec_core.optim.pareto import ParetoBalance
from tzrec_core.task_model import Scoring
from tzrec_core.tasks import build_tasks

TOWERS = (CLICK, WATCH, STARS)


def make_scoring(*bodies):
    return Scoring(build_tasks(towers(*bodies))).train()


def leaves(logits):
    return {name: of_task.clone().requires_grad_() for name, of_task in logits.items()}


def sums_by_hand(logits, batch):
    """The weighted sum of each loss over the rows, and of the weights."""
    labels, weights = batch.labels, batch.sample_weights
    in_space = torch.where(labels["click"] > 0, 2.0, 0.5)
    losses = {
        "binary_cross_entropy_a": functional.binary_cross_entropy_with_logits(
            logits["a"][:, 0], labels["click"].float(), reduction="none"
        ),
        "l2_loss_b": (logits["b"][:, 0] - labels["watch_time"]) ** 2,
        "softmax_cross_entropy_c": functional.cross_entropy(
            logits["c"], labels["stars"], reduction="none"
        ),
    }
    of_rows = [weights["weight"], weights["other_weight"] * in_space, torch.ones(len(batch))]
    return {
        name: ((loss * weight).sum(), weight.sum())
        for (name, loss), weight in zip(losses.items(), of_rows, strict=True)
    }


def means_by_hand(logits, batch):
    return {name: total / weight for name, (total, weight) in sums_by_hand(logits, batch).items()}


def test_several_tasks_minimise_the_weighted_sum_of_their_losses():
    batch, logits = make_batch(), make_logits_of_towers()
    ours, theirs = leaves(logits), leaves(logits)

    objective, (losses, _, _) = make_scoring(*TOWERS)(ours, batch)
    objective.backward()

    means = means_by_hand(theirs, batch)
    expected = torch.stack(list(means.values())) @ torch.tensor([1, 0.01, 0.5])
    expected.backward()
    torch.testing.assert_close(objective, expected)
    torch.testing.assert_close(losses, means | {"total": expected}, check_device=False)
    for name in logits:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad)


def test_each_task_has_its_own_normalizer_and_share_of_the_step():
    logits = make_logits_of_towers()
    normalizer, share = torch.tensor([7.0, 30.0, 11.0]), torch.tensor([0.25, 0.5, 0.0])
    batch = dataclasses.replace(make_batch(), normalizer=normalizer, share=share)

    objective, (losses, _, _) = make_scoring(*TOWERS)(logits, batch)

    sums = torch.stack([total for total, _ in sums_by_hand(logits, batch).values()])
    expected = sums / normalizer
    weights = torch.tensor([1, 0.01, 0.5])
    torch.testing.assert_close(objective, (expected * weights * share).sum())
    torch.testing.assert_close(losses["total"], (expected * weights).sum())
    torch.testing.assert_close(losses["l2_loss_b"], expected[1])


def test_rows_without_labels_are_only_scored():
    batch = dataclasses.replace(make_batch(), labels={})

    objective, (losses, predictions, _) = make_scoring(*TOWERS)(make_logits_of_towers(), batch)

    assert objective == 0
    assert losses == {}
    assert set(predictions) == {"logits_a", "probs_a", "logits_b", "y_b", "logits_c", "probs_c"}


def balanced(ranks, logits_of, start=1.0):
    """A model of one parameter whose logits are its product with ``logits_of``."""
    weight = torch.full((3,), start, requires_grad=True)
    scoring = make_scoring(CLICK + "pareto_min_loss_weight: 0.2", WATCH)
    bounds = [task.least_share for task in scoring.tasks]
    scoring.balance = ParetoBalance([weight], bounds, ranks)
    return scoring, {name: values @ weight[:, None] for name, values in logits_of.items()}, weight


INPUTS = {
    name: torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
    for seed, name in enumerate("ab")
}


def test_balanced_tasks_minimise_the_sum_with_the_shortest_gradient():
    batch = make_batch()
    with process_group() as ranks:
        scoring, logits, weight = balanced(ranks, INPUTS)
        objective, (losses, _, _) = scoring(logits, batch)
        objective.backward()

    values = torch.stack([losses["binary_cross_entropy_a"], losses["l2_loss_b"] * 0.01])
    theirs = torch.ones(3, requires_grad=True)
    means = means_by_hand(
        {name: INPUTS[name] @ theirs[:, None] for name in "ab"} | {"c": torch.zeros(40, 3)}, batch
    )
    gradients = torch.stack(
        [
            torch.autograd.grad(means["binary_cross_entropy_a"], theirs)[0],
            torch.autograd.grad(means["l2_loss_b"] * 0.01, theirs)[0],
        ]
    )
    steps = torch.linspace(0.2, 1, 100_001, dtype=torch.float64)[:, None]
    first, second = gradients.double()
    lengths = (steps * first + (1 - steps) * second).norm(dim=1)
    first = float(steps[lengths.argmin()])
    weights = torch.tensor([first, 1 - first])
    assert objective.item() == pytest.approx(float(weights @ values), rel=1e-4)
    assert losses["total"].item() == pytest.approx(float(weights @ values), rel=1e-4)
    torch.testing.assert_close(weight.grad, weights @ gradients, rtol=1e-3, atol=1e-3)


def test_evaluation_is_not_balanced():
    with process_group() as ranks:
        scoring, logits, _ = balanced(ranks, INPUTS)
        objective, _ = scoring.eval()(logits, make_batch())
        scoring.balance = None
        expected, _ = scoring(logits, make_batch())

    assert objective == expected


def test_gradients_that_are_not_finite_make_the_loss_nan_unless_a_loss_scale_leaves_them_out():
    inputs = {"a": INPUTS["a"], "b": INPUTS["b"] * 1e26}
    with process_group() as ranks:
        scoring, logits, weight = balanced(ranks, inputs, start=1e-10)
        objective, (losses, _, _) = scoring(logits, make_batch())
        assert objective.isnan()
        assert losses["total"].isnan()
        assert losses["l2_loss_b"].isfinite()

        scoring.loss_scale = LossScale(
            scale=1e3, growth_factor=2.0, backoff_factor=0.5, growth_interval=5
        )
        objective, (losses, _, _) = scoring(logits, make_batch())
        objective.backward()

    assert weight.grad.isnan().all()
    assert losses["total"].isfinite()
