"""Models are compared on the same rows, each metric and slice by itself."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from tests.tzrec_core.evaluation.planted import Clicks, configured
from tzrec_core.evaluation.comparison import compare
from tzrec_core.evaluation.predictions import Predictions


def test_each_metric_and_slice_has_both_values_and_their_difference():
    clicks = Clicks(num_users=300)
    better, worse = clicks.scored(noise=0.5), clicks.scored(noise=3.0)

    found = compare(configured(), better, worse)

    # The calibration error is no sum over groups.
    names = ["auc", "grouped_auc", "log_loss"]
    assert [c.metric for c in found] == names * 4
    assert [c.slice for c in found] == [p for p in (None, "de", "fr", "it") for _ in names]
    of_auc = {c.slice: c for c in found if c.metric == "auc"}
    for name, comparison in of_auc.items():
        rows = np.full(len(clicks.clicks), True) if name is None else clicks.countries == name
        ours, theirs = (
            roc_auc_score(clicks.clicks[rows], p.tensor("probs").numpy()[rows])
            for p in (better, worse)
        )
        assert comparison.candidate == pytest.approx(ours, abs=1e-12)
        assert comparison.baseline == pytest.approx(theirs, abs=1e-12)
        assert comparison.difference.value == pytest.approx(ours - theirs, abs=1e-12)
        assert 0 < comparison.difference.low < ours - theirs < comparison.difference.high
        assert comparison.share == pytest.approx(rows.mean())


def test_a_model_does_not_differ_from_itself():
    scored = Clicks(num_users=50).scored(noise=1.0)

    found = compare(configured(), scored, scored, metrics=["auc"], with_slices=False)

    (comparison,) = found
    difference = comparison.difference
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert difference.p_value == 1


def other_rows(predictions, column):
    table = predictions.table
    place = table.column_names.index(column)
    return Predictions(
        table.set_column(place, column, [table[column].take([*range(1, len(table)), 0])]), 1.0
    )


def test_other_groups_are_refused_also_where_intervals_are_of_other_ones():
    scored = Clicks(num_users=50).scored(noise=1.0)
    ids = scored.table["user@id"]
    both = Predictions(scored.table.append_column("country@id", ids), 1.0)
    config = configured(eval_config__bootstrap_key="country")

    assert compare(config, both, both)
    with pytest.raises(ValueError, match="different rows: they differ in 'user@id'"):
        compare(config, both, other_rows(both, "user@id"))


def test_more_rows_of_the_same_users_make_no_interval_narrower():
    clicks = Clicks(num_users=50)
    once = [clicks.scored(noise=noise) for noise in (0.5, 3.0)]
    often = [Predictions(pa.concat_tables([one.table] * 9), 1.0) for one in once]

    for few, many in zip(*(compare(configured(), *both) for both in (once, often)), strict=True):
        low, high = few.difference.low, few.difference.high
        assert (many.difference.low, many.difference.high) == pytest.approx((low, high))


@pytest.mark.parametrize("column", ["click", "user@id", "country@slice"])
def test_other_rows_are_refused_by_what_they_differ_in(column):
    scored = Clicks(num_users=50).scored(noise=1.0)

    with pytest.raises(ValueError, match=f"different rows: they differ in '{column}'"):
        compare(configured(), scored, other_rows(scored, column))
    with pytest.raises(ValueError, match="different rows: 500 and 490"):
        compare(configured(), scored, Clicks(num_users=49).scored(noise=1.0))
