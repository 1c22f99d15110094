"""A loss that is not finite is found with its step and rows, and all losses are added up."""

import math

import pytest
import torch

from tests.distributed.ranks import run
from tzrec_core.training.loss_watch import LossWatch, UsedRows


def where(epoch, rows):
    return f"rows {rows} of epoch {epoch}"


def losses_of(step, rank, wrong):
    value = wrong.get((step, rank), 1 / step + rank)
    return {"a": torch.tensor(value), "total": torch.tensor(2 * value)}


def watch(ranks, num_steps, wrong, *, state=None, first=1):
    """Returns means and state after steps ``first`` .. ``num_steps``, and what was raised when."""
    seen = LossWatch(ranks, where)
    if state is not None:
        seen.restore(state)
    for step in range(first, num_steps + 1):
        used = UsedRows(step, epoch=step // 50, rows={ranks.rank: (8 * step, 8 * step + 8)})
        try:
            seen.add(losses_of(step, ranks.rank, wrong), used)
        except FloatingPointError as error:
            return step, str(error)
    try:
        return seen.means(), seen.state()
    except FloatingPointError as error:
        return "at the end", str(error)


@pytest.mark.parametrize("world_size", [1, 2])
def test_means_are_over_all_steps_and_ranks_and_survive_a_restart(world_size):
    [means, _] = run(watch, world_size, 130, {})[0]
    [_, state] = run(watch, world_size, 57, {})[0]
    continued = run(watch_on, world_size, state)
    other = run(watch_on, 3 - world_size, state)

    by_hand = sum(1 / s + r for s in range(1, 131) for r in range(world_size)) / 130 / world_size
    assert means == pytest.approx({"a": by_hand, "total": 2 * by_hand}, rel=1e-6)
    assert [found for found, _ in continued] == [means] * world_size  # to the bit
    # On another number of ranks the steps before count as they were.
    begun = sum(1 / s + r for s in range(1, 58) for r in range(world_size)) / world_size
    rest = sum(1 / s + r for s in range(58, 131) for r in range(3 - world_size)) / (3 - world_size)
    assert other[0][0]["a"] == pytest.approx((begun + rest) / 130, rel=1e-6)


def watch_on(ranks, state):
    return watch(ranks, 130, {}, state=state, first=58)


def test_one_cpu_stops_with_the_step_itself():
    [(step, message)] = run(watch, 1, 60, {(53, 0): math.nan})

    assert step == 53
    assert message == (
        "the loss a became nan at step 53, in epoch 1, of the batch with rows {0: (424, 432)}"
        " of epoch 1"
    )


def test_ranks_name_the_first_step_together_however_late_they_look():
    wrong = {(37, 1): math.inf, (38, 0): math.nan, (38, 1): math.nan}

    for num_steps, noticed in ((60, "at the end"), (500, 100)):
        found = run(watch, 2, num_steps, wrong)
        assert found[0] == found[1]
        step, message = found[0]
        assert step == noticed
        assert message == (
            "the loss a became inf at step 37, in epoch 0 on rank 1, of the batch with"
            " rows {1: (296, 304)} of epoch 0"
        )


def test_a_loss_that_all_ranks_lose_at_once_is_said_of_the_first():
    [(_, message), _] = run(watch, 2, 5, {(2, 0): math.nan, (2, 1): math.inf})

    assert message.startswith("the loss a became nan at step 2, in epoch 0 on rank 0, of the batch")
    assert message.endswith(", and on 1 other ranks")


def test_restored_losses_of_another_config_do_not_count():
    state = [{"num_steps": 7, "losses": {"b": 70.0}}]

    [[means, _]] = run(watch_two, 1, state)

    assert means == {"a": pytest.approx(0.75), "total": pytest.approx(1.5)}


def watch_two(ranks, state):
    return watch(ranks, 2, {}, state=state)
