"""Rates against torch's own schedulers where those mean the same, else against plain counting."""

import pytest
import torch
from torch.optim import lr_scheduler

from tzrec_core.optim.schedules.formulas import (
    Schedule,
    cosine_annealing,
    cosine_annealing_warm_restarts,
    exponential_decay,
    manual_step,
    warmed_up,
)

NUM_STEPS = 60


def rates_of_torch(make, num_steps=NUM_STEPS):
    """Returns the rates of a torch scheduler that starts from 0.5."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = make(optimizer)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return pytest.approx(rates, rel=1e-9, abs=1e-12)


def rates(formula, num_steps=NUM_STEPS, **arguments):
    return [formula(done, base_lr=0.5, **arguments) for done in range(num_steps)]


def test_exponential_decay_with_a_staircase_is_torchs_step_lr():
    expected = rates_of_torch(lambda o: lr_scheduler.StepLR(o, step_size=7, gamma=0.8))

    ours = rates(exponential_decay, decay_size=7, decay_factor=0.8, staircase=True, floor=0.0)

    assert ours == expected


def test_exponential_decay_without_a_staircase_is_torchs_exponential_lr():
    expected = rates_of_torch(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8 ** (1 / 7)))

    ours = rates(exponential_decay, decay_size=7, decay_factor=0.8, staircase=False, floor=0.0)

    assert ours == expected


def test_exponential_decay_stops_at_its_least_rate():
    decay = {"decay_size": 1, "decay_factor": 0.5, "staircase": True}

    ours = rates(exponential_decay, 6, floor=0.07, **decay)

    assert ours == [0.5, 0.25, 0.125, 0.07, 0.07, 0.07]


def test_manual_step_is_torchs_multi_step_lr():
    expected = rates_of_torch(lambda o: lr_scheduler.MultiStepLR(o, [4, 5, 40], gamma=0.1))

    ours = rates(manual_step, sizes=(4, 5, 40), rates=(0.05, 0.005, 0.0005), warmup=False)

    assert ours == expected


def test_manual_step_goes_to_its_first_rate_in_a_straight_line():
    ours = rates(manual_step, 7, sizes=(4, 6), rates=(0.1, 0.01), warmup=True)

    assert ours == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.01])


def test_cosine_annealing_is_torchs_and_stays_at_the_bottom():
    expected = rates_of_torch(
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.02), 21
    )

    ours = rates(cosine_annealing, 30, period=20, floor=0.02)

    assert ours[:21] == expected
    assert ours[20:] == [0.02] * 10


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("period", [1, 5])
def test_warm_restarts_are_torchs(period, growth):
    expected = rates_of_torch(
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(
            o, T_0=period, T_mult=growth, eta_min=0.02
        )
    )

    ours = rates(cosine_annealing_warm_restarts, period=period, growth=growth, floor=0.02)

    assert ours == expected


def test_warm_up_is_torchs_linear_lr_and_then_the_schedule_begins():
    line = rates_of_torch(
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.2, end_factor=1.0, total_iters=10), 10
    )

    ours = rates(warmed_up, 20, start=0.1, size=10, then=float)

    assert ours[:10] == line
    assert ours[10:] == [float(done) for done in range(10)]  # counted from the end of the warm-up


def test_a_schedule_counts_steps_or_epochs():
    assert Schedule(float, by_epoch=False).at(step=7, epoch=2) == 7
    assert Schedule(float, by_epoch=True).at(step=7, epoch=2) == 2
