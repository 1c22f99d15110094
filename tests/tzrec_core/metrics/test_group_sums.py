import math

import pytest
import torch

from tzrec_core.metrics.group_sums import GroupSums, GroupValues


def test_the_value_is_the_weighted_mean_of_the_groups_that_have_one():
    values = torch.tensor([0.5, math.nan, 0.8], dtype=torch.float64)
    weights = torch.tensor([2.0, 0.0, 3.0], dtype=torch.float64)
    sums = GroupValues(values, weights, sizes=torch.tensor([2, 1, 3]), num_rows=10).add_up()

    assert sums.value == pytest.approx((2 * 0.5 + 3 * 0.8) / 5)
    assert sums.group_coverage == pytest.approx(2 / 3)
    assert sums.row_coverage == pytest.approx(5 / 10)


def test_nothing_has_no_value_and_no_coverage():
    sums = GroupSums(0.0, 0.0, 0, 0, 0, 0)
    assert all(map(math.isnan, (sums.value, sums.group_coverage, sums.row_coverage)))


def test_groups_without_a_value_cover_nothing():
    sums = GroupSums(0.0, 0.0, num_groups_used=0, num_groups=3, num_rows_used=0, num_rows=5)
    assert math.isnan(sums.value)
    assert (sums.group_coverage, sums.row_coverage) == (0, 0)


def test_sums_add_up_and_survive_being_a_tensor():
    some = GroupSums(1.5, 2.0, 2, 3, 10, 2**40 + 1)
    others = GroupSums(0.25, 1.0, 1, 1, 4, 7)
    assert some + others == GroupSums(1.75, 3.0, 3, 4, 14, 2**40 + 8)
    assert GroupSums.from_tensor(some.to_tensor()) == some
