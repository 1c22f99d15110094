import itertools

import numpy as np
import pytest
import torch

from tzrec_core.metrics.xauc import xauc
from tzrec_core.report.target_parts import xauc_by_target


def rows(seed=0, num_rows=120):
    generator = torch.Generator().manual_seed(seed)
    preds, target = torch.randint(12, (2, num_rows), generator=generator).float()  # ties
    return preds, target


@pytest.mark.parametrize("exclude", [False, True])
def test_parts_equal_counting_all_pairs(exclude):
    preds, target = rows()
    parts = xauc_by_target(preds, target, num_parts=5, exclude_tied_targets=exclude)

    assert sum(part.num_rows for part in parts) == len(preds)
    for part in parts:
        in_order = pairs = 0
        for i, j in itertools.permutations(range(len(preds)), 2):
            if not part.low <= target[i] <= part.high or (exclude and target[i] == target[j]):
                continue
            pairs += 1
            in_order += bool((target[i] - target[j]) * (preds[i] - preds[j]) > 0)
        assert part.xauc == pytest.approx(in_order / pairs)


def test_the_mean_over_parts_is_the_xauc_of_all_rows():
    preds, target = rows(num_rows=500)
    parts = xauc_by_target(preds, target, exclude_tied_targets=False)
    mean = np.average([part.xauc for part in parts], weights=[part.num_rows for part in parts])
    assert mean == pytest.approx(float(xauc(preds, target)))


def test_without_a_pair_that_counts_there_is_no_value():
    (part,) = xauc_by_target(torch.rand(5), torch.ones(5), exclude_tied_targets=True)
    assert np.isnan(part.xauc)
