import math

import pytest
import torch
from torch import nn

from tzrec_core.exporting.latency import measure, summary


@pytest.mark.parametrize("calls", [1, 20, 99, 100, 101, 1000])
def test_percentiles_are_the_smallest_times_that_so_many_calls_did_not_exceed(calls):
    seconds = torch.rand(calls, generator=torch.Generator().manual_seed(calls)).tolist()

    measured = summary(seconds, batch_size=64)

    in_order = sorted(seconds)
    assert measured.p50_ms == pytest.approx(in_order[math.ceil(0.5 * calls) - 1] * 1000)
    assert measured.p99_ms == pytest.approx(in_order[math.ceil(0.99 * calls) - 1] * 1000)
    assert (measured.batch_size, measured.calls) == (64, calls)


class Recorder(nn.Module):
    """Remembers the first number of each batch that it is called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, dense, values, lengths, weights):
        self.seen.append(float(dense[0, 0]))


def test_every_batch_is_measured_in_turn():
    nothing = torch.zeros(0, dtype=torch.int64)
    batches = [(torch.full((2, 1), float(i)), nothing, nothing, None) for i in range(3)]
    model = Recorder()

    measured = measure(model, {2: batches})

    assert measured["threads"] == torch.get_num_threads()
    (of_two,) = measured["batches"]
    assert of_two["batch_size"] == 2
    assert of_two["p50_ms"] <= of_two["p99_ms"]
    assert len(model.seen) > of_two["calls"] >= 20  # there was a warm-up
    assert model.seen[-of_two["calls"] :][:4] == [0, 1, 2, 0]
