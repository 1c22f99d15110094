import math

import numpy as np
import pytest
import torch

from tzrec_core.histogram import LIMITS, histogram


def values():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(1500, 1000, generator=generator)  # more than one chunk
    special = torch.tensor([0.0, -0.0, 1e-45, 1e-30, -3e38, 1.0, -1.0, 1.125, 2.0, -2.0])
    return torch.cat([normal.flatten(), special])


def test_counts_moments_and_extremes_are_those_of_numpy():
    tensor = values()
    ours = histogram(tensor)

    x, limits = tensor.double().numpy(), LIMITS.double().numpy()
    num_negative = len(limits) // 2
    # Bins have their end that is nearer to 0: numpy's have their left end.
    negative, _ = np.histogram(-x[np.signbit(x)], bins=[*-limits[:num_negative][::-1], np.inf])
    positive, _ = np.histogram(x[~np.signbit(x)], bins=[0, *limits[num_negative:]])
    np.testing.assert_array_equal(ours.counts.numpy(), [*negative[::-1], *positive])
    assert ours.counts.sum() == len(x)
    assert ours.moments.tolist() == pytest.approx([x.sum(), (x**2).sum()])
    assert ours.extremes.tolist() == [x.min(), -x.max()]


def test_limits_ascend_in_eighths_of_powers_of_two():
    assert (LIMITS.diff() >= 0).all()
    between = LIMITS[(LIMITS >= 1) & (LIMITS <= 2)]
    assert between.tolist() == [1 + k / 8 for k in range(9)]


def test_parts_make_the_whole():
    tensor = values()
    whole, parts = histogram(tensor), [histogram(part) for part in tensor.split(40_000)]

    assert torch.equal(sum(part.counts for part in parts), whole.counts)
    torch.testing.assert_close(sum(part.moments for part in parts), whole.moments)
    assert torch.equal(torch.stack([p.extremes for p in parts]).amin(0), whole.extremes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_is_not_finite_does_not_count(dtype):
    ours = histogram(torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 2.0, -1.0]).to(dtype))

    assert ours.counts.sum() == 2
    assert ours.moments.tolist() == [1.0, 5.0]
    assert ours.extremes.tolist() == [-1.0, -2.0]


def test_an_empty_tensor_has_an_empty_histogram():
    ours = histogram(torch.empty(0, 8))

    assert ours.counts.sum() == 0
    assert ours.extremes.tolist() == [math.inf, math.inf]
