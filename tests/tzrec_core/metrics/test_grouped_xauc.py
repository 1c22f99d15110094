import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tzrec_core.metrics.test_xauc import sample, xauc_by_hand
from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.grouped_xauc import grouped_xauc_sums

KEYS = st.sampled_from([NULL_ID, -(2**62), -1, 5])
ROWS = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3), KEYS), max_size=25)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.booleans())
def test_groups_that_have_a_pair_weigh_their_rows(rows, exclude):
    preds, target, keys = (
        torch.tensor([row[place] for row in rows], dtype=torch.int64) for place in range(3)
    )
    num_rows, total, used = 0, 0.0, 0
    for key in {row[2] for row in rows} - {NULL_ID}:
        own = [row for row in rows if row[2] == key]
        value = xauc_by_hand(*list(zip(*own, strict=True))[:2], exclude_tied_targets=exclude)
        if value is not None:
            num_rows += len(own)
            total += len(own) * value
            used += 1

    sums = grouped_xauc_sums(preds.float(), target, keys, exclude_tied_targets=exclude)
    assert sums.weighted_values == pytest.approx(total, abs=1e-12)
    assert (sums.weights, sums.num_rows_used) == (num_rows, num_rows)
    assert (sums.num_groups_used, sums.num_rows) == (used, len(rows))
    assert sums.num_groups == len({row[2] for row in rows} - {NULL_ID})


def test_groups_of_many_sizes_have_their_weighted_mean():
    preds, target = sample(200)
    keys = (torch.rand(200, generator=torch.Generator().manual_seed(1)) ** 3 * 80).long() - 40
    keys[::15] = NULL_ID
    rows, total = 0, 0.0
    for key in keys[keys != NULL_ID].unique():
        members = keys == key
        size = int(members.sum())
        if size > 1:
            rows += size
            total += size * xauc_by_hand(preds[members].tolist(), target[members].tolist())

    sums = grouped_xauc_sums(preds, target, keys)
    assert 0 < rows < 186  # some groups have one row only
    assert sums.value == pytest.approx(total / rows, abs=1e-12)
    assert sums.row_coverage == rows / 200


def test_groups_of_one_row_only_have_no_value_and_cover_nothing():
    sums = grouped_xauc_sums(torch.rand(3), torch.rand(3), torch.tensor([1, 2, NULL_ID]))
    assert math.isnan(sums.value)
    assert (sums.group_coverage, sums.row_coverage, sums.num_groups) == (0, 0, 2)


def test_nan_is_counted_and_refused_also_without_a_key():
    preds, keys = torch.tensor([0.1, math.nan, math.nan]), torch.tensor([1, 1, NULL_ID])
    with pytest.raises(ValueError, match="grouped_xauc: 2 predictions or targets are NaN"):
        grouped_xauc_sums(preds, torch.rand(3), keys)
