from statistics import mean, stdev

import pytest
import torch

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.grouped_xauc import grouped_xauc_sums
from tzrec_core.metrics.sampled_xauc import sampled_grouped_xauc_sums, sampled_xauc
from tzrec_core.metrics.xauc import xauc


def sample(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randint(0, 20, (size,), generator=generator) / 20  # ties
    target = (preds * 10 + torch.randint(0, 12, (size,), generator=generator)).floor()
    return preds, target


def keys_of(size):
    """Groups of one row up to a few dozen, and rows without a key."""
    keys = (torch.rand(size, generator=torch.Generator().manual_seed(1)) ** 2 * 30).long() - 9
    keys[::11] = NULL_ID
    return keys


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(
    "options", [{"max_pairs": 10**12}, {"max_pairs": 4950}, {"sample_ratio": 1.0}]
)
def test_as_many_pairs_as_there_are_give_the_exact_value(options, exclude):
    preds, target = sample(100)
    value = sampled_xauc(preds, target, **options, seed=3, exclude_tied_targets=exclude)
    assert value.item() == xauc(preds, target, exclude_tied_targets=exclude).item()


def test_all_but_one_pair_miss_at_most_that_one():
    preds, target = sample(100)
    exact = xauc(preds, target).item() * 4950
    for seed in range(20):
        in_order = sampled_xauc(preds, target, max_pairs=4949, seed=seed).item() * 4949
        assert round(exact - in_order, 6) in (0, 1)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(
    "options", [{"max_pairs": 500}, {"max_pairs": 3000}, {"sample_ratio": 0.1}]
)
def test_the_mean_over_seeds_is_the_exact_value(options, exclude):
    preds, target = sample(100)
    exact = xauc(preds, target, exclude_tied_targets=exclude).item()
    values = [
        sampled_xauc(preds, target, **options, seed=seed, exclude_tied_targets=exclude).item()
        for seed in range(400)
    ]
    num_pairs = options.get("max_pairs", 495)
    # Of pairs drawn without putting them back.
    error = 0.5 * ((1 - num_pairs / 4950) / num_pairs) ** 0.5
    assert stdev(values) < 1.15 * error
    assert abs(mean(values) - exact) < 4 * error / 400**0.5


@pytest.mark.parametrize("size", [4097, 6000, 100_000])
def test_many_rows_are_estimated_within_the_standard_error(size):
    preds, target = sample(size)
    value = sampled_xauc(preds, target, max_pairs=200_000, seed=5).item()
    assert abs(value - xauc(preds, target).item()) < 4 * 0.5 / 200_000**0.5


def test_a_perfect_order_is_perfect_in_every_sample():
    preds = torch.randperm(5000).float()
    assert sampled_xauc(preds, preds * 3, sample_ratio=1e-3, seed=0).item() == 1
    assert sampled_xauc(preds, -preds, sample_ratio=1e-3, seed=0).item() == 0


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_rows():
    preds, target = sample(300)
    keys = keys_of(300)
    order = torch.randperm(300)
    draws = {}
    for seed in (0, 1, 2**64 - 1):
        value = sampled_xauc(preds, target, max_pairs=100, seed=seed)
        again = sampled_xauc(preds[order], target[order], max_pairs=100, seed=seed)
        assert value == again
        rows = (preds, target, keys)
        sums = sampled_grouped_xauc_sums(*rows, max_pairs_per_group=10, seed=seed)
        shuffled = (column[order] for column in rows)
        assert sums == sampled_grouped_xauc_sums(*shuffled, max_pairs_per_group=10, seed=seed)
        draws[seed] = (value.item(), sums.value)
    assert len(set(draws.values())) == 3


def test_more_pairs_than_a_chunk_are_drawn(monkeypatch):
    preds, target = sample(300)
    keys = keys_of(300)

    def values():
        return (
            sampled_xauc(preds, target, max_pairs=1000, seed=0),
            sampled_grouped_xauc_sums(preds, target, keys, max_pairs_per_group=10, seed=0),
        )

    expected = values()
    monkeypatch.setattr("tzrec_core.metrics.sampled_xauc._CHUNK", 37)
    assert values() == expected


@pytest.mark.parametrize("size", [0, 1])
def test_fewer_than_two_rows_have_no_xauc(size):
    with pytest.warns(UserWarning, match="no pairs"):
        assert sampled_xauc(torch.zeros(size), torch.zeros(size), max_pairs=5, seed=0).isnan()


@pytest.mark.parametrize("exclude", [False, True])
def test_groups_of_few_pairs_use_all_of_them(exclude):
    preds, target = sample(300)
    keys = keys_of(300)
    expected = grouped_xauc_sums(preds, target, keys, exclude_tied_targets=exclude)
    sums = sampled_grouped_xauc_sums(
        preds, target, keys, max_pairs_per_group=10**6, seed=0, exclude_tied_targets=exclude
    )
    assert sums == expected


@pytest.mark.parametrize("max_pairs", [1, 7, 60])
def test_the_mean_over_seeds_is_exact_in_groups_too(max_pairs):
    preds, target = sample(300)
    keys = keys_of(300)
    exact = grouped_xauc_sums(preds, target, keys)
    values = [
        sampled_grouped_xauc_sums(preds, target, keys, max_pairs_per_group=max_pairs, seed=seed)
        for seed in range(400)
    ]
    assert {(v.num_groups_used, v.num_rows_used, v.weights) for v in values} == {
        (exact.num_groups_used, exact.num_rows_used, exact.weights)
    }
    estimates = [v.value for v in values]
    assert abs(mean(estimates) - exact.value) < 4 * stdev(estimates) / 400**0.5
    assert stdev(estimates) > 0


def test_other_groups_do_not_change_what_is_drawn_from_a_group():
    preds, target = sample(300)
    keys = keys_of(300)
    parts = keys % 2 == 0
    options = {"max_pairs_per_group": 5, "seed": 9}
    whole = sampled_grouped_xauc_sums(preds, target, keys, **options)
    even, odd = (
        sampled_grouped_xauc_sums(preds[rows], target[rows], keys[rows], **options)
        for rows in (parts, ~parts)
    )
    assert (even + odd).value == pytest.approx(whole.value, abs=1e-12)
    assert (even + odd).num_groups == whole.num_groups


def test_groups_of_the_same_rows_draw_different_pairs():
    preds, target = sample(10)
    keys = torch.arange(2000).repeat_interleave(10)
    rows = (preds.repeat(2000), target.repeat(2000), keys)
    sums = sampled_grouped_xauc_sums(*rows, max_pairs_per_group=3, seed=0)
    assert abs(sums.value - xauc(preds, target).item()) < 4 * 0.5 / 6000**0.5


def test_pairs_of_a_group_are_drawn_of_that_group():
    # In order within each group, reversed between groups.
    keys = torch.arange(60) // 20
    preds = torch.arange(60).float()
    target = preds - keys * 100
    sums = sampled_grouped_xauc_sums(preds, target, keys, max_pairs_per_group=30, seed=0)
    assert sums.value == 1
    assert sampled_xauc(preds, target, max_pairs=1000, seed=0) < 0.5


def test_nan_is_counted_and_refused():
    preds, target = sample(50)
    preds[3] = target[7] = float("nan")
    keys = torch.zeros(50).long()
    with pytest.raises(ValueError, match="xauc: 2 predictions or targets are NaN"):
        sampled_xauc(preds, target, max_pairs=5, seed=0)
    with pytest.raises(ValueError, match="grouped_xauc: 2 predictions or targets are NaN"):
        sampled_grouped_xauc_sums(preds, target, keys, max_pairs_per_group=5, seed=0)
