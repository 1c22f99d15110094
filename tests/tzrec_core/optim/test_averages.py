"""Averages against plain sums in double precision."""

import numpy as np
import pytest
import torch

from tzrec_core.optim.averages import Averages


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(3, 2, generator=generator, requires_grad=True),
        "b": torch.randn(4, generator=generator, requires_grad=True),
    }


def move(parameters, step):
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.linspace(0, step, parameter.numel()).view_as(parameter))


@pytest.mark.parametrize("decay", [0.0, 0.75, 0.999, 1.0])
def test_averages_are_weighted_sums_of_all_weights_since_the_first_update(decay):
    parameters = weights()
    averages = Averages(parameters, decay=decay)
    history = []
    for step in range(1, 6):
        move(parameters, step)
        averages.update()
        history.append({name: p.detach().double().numpy() for name, p in parameters.items()})
        history[-1] = {name: p.copy() for name, p in history[-1].items()}

    # The first weights count decay ** 4, the second (1 - decay) * decay ** 3, and so on.
    shares = [decay**4] + [(1 - decay) * decay ** (4 - i) for i in range(1, 5)]
    for name, average in averages.values.items():
        expected = sum(share * then[name] for share, then in zip(shares, history, strict=True))
        np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_averages_take_the_place_of_the_weights_and_give_it_back_to_the_bit():
    parameters = weights()
    averages = Averages(parameters, decay=0.5)
    averages.update()
    move(parameters, 1)
    averages.update()
    before = {name: p.detach().clone() for name, p in parameters.items()}

    with averages.applied():
        for name, parameter in parameters.items():
            assert torch.equal(parameter, averages.values[name])
            assert not torch.equal(parameter, before[name])

    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name])


def test_the_weights_come_back_after_an_error():
    parameters = weights()
    averages = Averages(parameters, decay=0.5)
    move(parameters, 1)
    before = parameters["a"].detach().clone()

    with pytest.raises(KeyError), averages.applied():
        raise KeyError

    assert torch.equal(parameters["a"], before)


def test_a_restart_forgets_the_past():
    parameters = weights()
    averages = Averages(parameters, decay=0.5)
    averages.update()
    move(parameters, 1)
    averages.restart()

    assert averages.num_updates == 0
    assert torch.equal(averages.values["a"], parameters["a"])
