from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from tzrec_core.metrics.pairs import count_concordant_pairs

ROWS = st.lists(
    st.tuples(
        st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1e-30, 7.0, float("inf"), float("-inf")]),
        st.integers(-2, 3),
        st.integers(0, 3),
    ),
    max_size=30,
)


def count_by_hand(preds, target, group, num_groups):
    counts = [0] * num_groups
    for i, j in combinations(range(len(preds)), 2):
        in_order = (preds[i] < preds[j] and target[i] < target[j]) or (
            preds[i] > preds[j] and target[i] > target[j]
        )
        counts[group[i]] += in_order and group[i] == group[j]
    return counts


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_counts_are_those_of_looking_at_every_pair(rows):
    preds, target, group = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 3
    )
    counts = count_concordant_pairs(
        torch.tensor(preds, dtype=torch.float32),
        torch.tensor(target, dtype=torch.int64),
        torch.tensor(group, dtype=torch.int64),
        num_groups=5,
    )
    assert counts.dtype == torch.int64
    assert counts.tolist() == count_by_hand(preds, target, group, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_type_is_compared_as_it_is(dtype):
    generator = torch.Generator().manual_seed(0)
    preds = torch.randn(50, generator=generator).to(dtype)
    target = torch.rand(50, generator=generator)
    group = torch.randint(0, 3, (50,), generator=generator)
    counts = count_concordant_pairs(preds, target, group, num_groups=3)
    assert counts.tolist() == count_by_hand(preds.tolist(), target.tolist(), group.tolist(), 3)


def test_pairs_of_a_large_set_agree_with_kendalls_tau():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(200_000, generator=generator, dtype=torch.float64)
    preds = target + torch.randn(200_000, generator=generator, dtype=torch.float64)
    pairs = 200_000 * 199_999 / 2  # no ties: tau = (concordant - discordant) / pairs
    tau = kendalltau(preds.numpy(), target.numpy()).statistic
    counted = count_concordant_pairs(preds, target, torch.zeros(200_000).long(), num_groups=1)
    assert counted.item() == pytest.approx((tau + 1) / 2 * pairs, rel=1e-12)
