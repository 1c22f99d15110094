import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from tzrec_core.metrics.pairs import (
    concordant_by_row,
    count_concordant_pairs,
    count_tied_pairs,
    number_groups,
)

VALUES = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1e-30, 7.0, math.inf, -math.inf])
ROWS = st.lists(st.tuples(VALUES, st.integers(-2, 3), st.integers(0, 3)), max_size=30)


def columns(rows):
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]


def tensors(rows, dtype=torch.float32):
    preds, target, group = columns(rows)
    return torch.tensor(preds, dtype=dtype), torch.tensor(target).long(), torch.tensor(group).long()


def pairs_by_hand(rows):
    """Concordant pairs (i, j) of rows of one group."""
    preds, target, group = columns(rows)
    return [
        (i, j)
        for i, j in combinations(range(len(rows)), 2)
        if group[i] == group[j]
        and (
            (preds[i] < preds[j] and target[i] < target[j])
            or (preds[i] > preds[j] and target[i] > target[j])
        )
    ]


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_counts_are_those_of_looking_at_every_pair(rows):
    counts = count_concordant_pairs(*tensors(rows), num_groups=5)
    by_group = Counter(rows[i][2] for i, _ in pairs_by_hand(rows))
    assert counts.dtype == torch.int64
    assert counts.tolist() == [by_group[group] for group in range(5)]


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_a_row_counts_the_pairs_that_it_is_in(rows):
    counts = concordant_by_row(*tensors(rows))
    by_row = Counter(row for pair in pairs_by_hand(rows) for row in pair)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [by_row[row] for row in range(len(rows))]


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_tied_pairs_are_those_of_equal_values_in_one_group(rows):
    preds, _, group = tensors(rows)
    by_group = Counter(a[2] for a, b in combinations(rows, 2) if (a[0], a[2]) == (b[0], b[2]))
    counts = count_tied_pairs(preds, group, num_groups=5)
    assert counts.tolist() == [by_group[group] for group in range(5)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([-(2**63), -7, 0, 3, 2**40, 2**63 - 1])))
def test_groups_are_numbered_in_order_of_their_keys(keys):
    group, sizes = number_groups(torch.tensor(keys, dtype=torch.int64))
    distinct = sorted(set(keys))
    assert group.tolist() == [distinct.index(key) for key in keys]
    assert sizes.tolist() == [keys.count(key) for key in distinct]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_type_is_compared_as_it_is(dtype):
    generator = torch.Generator().manual_seed(0)
    preds = torch.randn(50, generator=generator).to(dtype)
    target = torch.rand(50, generator=generator).to(dtype)
    group = torch.randint(0, 3, (50,), generator=generator)
    by_hand = pairs_by_hand(list(zip(preds.tolist(), target.tolist(), group.tolist(), strict=True)))
    assert count_concordant_pairs(preds, target, group, num_groups=3).sum() == len(by_hand)


def zipf_groups(generator, size, num_groups):
    """Groups of which the largest have a large share of the rows, and many one row."""
    return (torch.rand(size, generator=generator) ** 6 * num_groups).long()


def test_groups_of_very_different_sizes_are_counted_one_by_one():
    generator = torch.Generator().manual_seed(0)
    group = zipf_groups(generator, 4000, num_groups=800)
    preds = torch.randint(0, 30, (4000,), generator=generator).float()
    target = torch.randint(0, 30, (4000,), generator=generator)
    sizes = torch.bincount(group, minlength=800)
    assert sizes.max() > 1000
    assert (sizes == 1).sum() > 100

    in_order = (preds[:, None] < preds) & (target[:, None] < target) & (group[:, None] == group)
    counts = count_concordant_pairs(preds, target, group, num_groups=800)
    by_row = concordant_by_row(preds, target, group)

    expected = torch.zeros(800, dtype=torch.int64).index_add_(0, group, in_order.sum(dim=0))
    assert torch.equal(counts, expected)
    assert torch.equal(by_row, in_order.sum(dim=0) + in_order.sum(dim=1))


@pytest.mark.parametrize("levels", [100, 2**24])
def test_concordant_and_tied_pairs_of_many_rows_agree_with_scipys_kendall_tau(levels):
    size = 100_000
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, levels, (size,), generator=generator)
    preds = target + torch.randint(0, levels, (size,), generator=generator)
    group = torch.zeros(size, dtype=torch.int64)
    tied_preds = int(count_tied_pairs(preds, group, num_groups=1))
    tied_target = int(count_tied_pairs(target, group, num_groups=1))
    tied_in_both = int(count_tied_pairs(preds * levels + target, group, num_groups=1))
    concordant = int(count_concordant_pairs(preds.double(), target, group, num_groups=1))

    pairs = math.comb(size, 2)
    discordant = pairs - tied_preds - tied_target + tied_in_both - concordant
    tau_b = kendalltau(preds.numpy(), target.numpy()).statistic
    untied = math.sqrt((pairs - tied_preds) * (pairs - tied_target))
    assert (concordant - discordant) / untied == pytest.approx(tau_b, rel=1e-12)


@pytest.mark.parametrize("count", [concordant_by_row, count_concordant_pairs])
def test_nan_is_counted_and_refused(count):
    preds, target = torch.tensor([0.1, math.nan, math.nan]), torch.tensor([math.nan, math.nan, 1.0])
    arguments = {} if count is concordant_by_row else {"num_groups": 1}
    with pytest.raises(ValueError, match="3 predictions or targets are NaN"):
        count(preds, target, torch.zeros(3).long(), **arguments)


@pytest.mark.gpu
def test_a_gpu_counts_as_a_cpu_does():
    generator = torch.Generator().manual_seed(0)
    keys = zipf_groups(generator, 300_000, num_groups=30_000) * 2**40 - 2**60
    preds = torch.rand(300_000, generator=generator).bfloat16()
    target = torch.rand(300_000, generator=generator, dtype=torch.float64)
    group, sizes = number_groups(keys)

    on_gpu, sizes_on_gpu = number_groups(keys.cuda())
    rows, rows_on_gpu = (preds, target, group), (preds.cuda(), target.cuda(), on_gpu)
    assert torch.equal(on_gpu.cpu(), group)
    assert torch.equal(sizes_on_gpu.cpu(), sizes)
    assert torch.equal(concordant_by_row(*rows_on_gpu).cpu(), concordant_by_row(*rows))
    counts = count_concordant_pairs(*rows_on_gpu, num_groups=len(sizes))
    assert torch.equal(counts.cpu(), count_concordant_pairs(*rows, num_groups=len(sizes)))
