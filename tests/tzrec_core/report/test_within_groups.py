import math

import numpy as np
import pytest

from tzrec_core.report.within_groups import by_size, distribution


def groups(seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, 300)
    weights = np.where(rng.random(300) < 0.8, rng.random(300), 0.0)
    values = np.where(weights > 0, rng.random(300), np.nan)
    return values, weights, sizes


def test_size_classes_equal_a_loop_over_groups():
    values, weights, sizes = groups()
    for found in by_size(values, weights, sizes):
        here = [
            (v, w)
            for v, w, s in zip(values, weights, sizes, strict=True)
            if w > 0 and found.smallest <= s <= found.largest
        ]
        total, n = sum(w for _, w in here), len(here)
        mean = sum(v * w for v, w in here) / total
        squares = sum((w * (v - mean)) ** 2 for v, w in here)
        assert found.num_groups == n
        assert found.value == pytest.approx(mean)
        assert found.error == pytest.approx(math.sqrt(n / (n - 1) * squares) / total)


def test_size_classes_hold_every_group_once_and_add_up_to_the_metric():
    values, weights, sizes = groups()
    classes = by_size(values, weights, sizes)
    used = weights > 0

    assert sum(c.num_groups for c in classes) == used.sum()
    assert [c.smallest for c in classes] == sorted({2 ** int(math.log2(s)) for s in sizes[used]})
    of_class = [weights[(sizes >= c.smallest) & (sizes <= c.largest)].sum() for c in classes]
    whole = np.average(values[used], weights=weights[used])
    assert np.average([c.value for c in classes], weights=of_class) == pytest.approx(whole)


def test_equal_weights_have_the_usual_standard_error():
    values = np.array([0.2, 0.5, 0.9])
    (found,) = by_size(values, np.ones(3), np.array([4, 5, 7]))
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(3))
    assert found.name == "4-7"


def test_a_single_group_has_no_error():
    (found,) = by_size(np.array([0.5]), np.ones(1), np.array([1]))
    assert math.isnan(found.error)
    assert found.name == "1"


def test_a_distribution_counts_groups_and_their_rows():
    values, weights, sizes = groups()
    found = distribution(values, weights, sizes)
    used = weights > 0

    assert found.of_groups.sum() == pytest.approx(1)
    assert found.of_rows.sum() == pytest.approx(1)
    first = used & (values < 0.05)
    assert found.of_groups[0] == pytest.approx(first.sum() / used.sum())
    assert found.of_rows[0] == pytest.approx(sizes[first].sum() / sizes[used].sum())
    assert found.below_half == pytest.approx((values[used] < 0.5).mean())
