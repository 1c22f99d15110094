"""The scale against torch's own scaler, on the same sequence of overflows."""

import random

import pytest
import torch

from tzrec_core.optim.loss_scale import LossScale


def scales_of_torch(overflows, growth_factor, backoff_factor, growth_interval):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler(
        "cpu",
        init_scale=1024.0,
        growth_factor=growth_factor,
        backoff_factor=backoff_factor,
        growth_interval=growth_interval,
    )
    scales = []
    for overflow in overflows:
        weight.grad = torch.tensor([float("inf") if overflow else 1.0])
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("interval", [1, 3, 2000])
def test_the_scale_is_that_of_torchs_scaler(interval):
    draw = random.Random(0)
    overflows = [draw.random() < 0.3 for _ in range(40)]
    ours = LossScale(scale=1024.0, growth_factor=2.0, backoff_factor=0.25, growth_interval=interval)
    scales = []
    for overflow in overflows:
        ours.update(overflowed=overflow)
        scales.append(ours.scale)

    assert scales == scales_of_torch(overflows, 2.0, 0.25, interval)


def test_gradients_that_are_never_finite_are_an_error():
    scale = LossScale(scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=10)

    for _ in range(41):  # 2 ** 16 down to 2 ** -25
        scale.update(overflowed=True)
    with pytest.raises(FloatingPointError, match="gradients are NaN or infinite even with"):
        scale.update(overflowed=True)
