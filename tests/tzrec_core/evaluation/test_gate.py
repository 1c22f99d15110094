"""The gate blocks what loses more than it may, on all rows and on slices, and says what."""

import math

import pytest

from tests.tzrec_core.evaluation.planted import Clicks, configured
from tzrec_core.evaluation.comparison import Comparison, compare
from tzrec_core.evaluation.gate import judge
from tzrec_core.metrics.bootstrap import Difference

CLICKS = Clicks(num_users=600)
CHAMPION = CLICKS.scored(noise=0.5)


def judged(candidate, *margins):
    config = configured(export_config__gate=list(margins))
    return judge(config.export_config, compare(config, candidate, CHAMPION))


def test_a_better_model_passes_with_its_numbers():
    verdict = judged(CLICKS.scored(noise=0.1), {"metric": "auc"}, {"metric": "log_loss"})

    assert verdict.passes
    assert [reason.split()[0] for reason in verdict.reasons] == ["auc", "log_loss"]


def test_a_worse_model_is_blocked_by_each_metric_that_it_loses():
    worse = CLICKS.scored(noise=3.0)
    margins = [{"metric": "auc", "max_loss": 0.002}, {"metric": "log_loss", "max_loss": 0.002}]

    verdict = judged(worse, *margins)

    assert not verdict.passes
    assert len(verdict.reasons) == 2
    assert "the champion's" in verdict.reasons[0]
    assert verdict.reasons[0].endswith("it may lose 0.002")


def test_a_loss_within_the_margin_passes():
    worse = CLICKS.scored(noise=0.7)

    assert not judged(worse, {"metric": "auc", "max_loss": 0.0}).passes
    assert judged(worse, {"metric": "auc", "max_loss": 0.2}).passes


def test_a_slice_that_gets_worse_blocks_although_the_whole_gets_better():
    candidate = CLICKS.scored(noise=0.05, noise_in_italy=0.9)
    on_all = {"metric": "grouped_auc"}

    assert judged(candidate, on_all).passes
    assert judged(candidate, {**on_all, "min_slice_share": 0.5}).passes  # no slice is so large
    verdict = judged(candidate, {**on_all, "min_slice_share": 0.01})
    assert not verdict.passes
    (reason,) = verdict.reasons
    assert reason.startswith("grouped_auc of country it is ")


def difference(value, low, high):
    return [Comparison("auc", None, None, 1.0, 0.7, 0.7 - value, Difference(value, low, high, 0.5))]


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        (difference(-0.01, -0.03, 0.01), True),
        (difference(-0.01, -0.015, -0.004), False),
        (difference(-0.01, math.nan, math.nan), False),
        (difference(0.01, math.nan, math.nan), True),
        (difference(math.nan, math.nan, math.nan), False),
        ([], False),
    ],
)
def test_chance_may_be_let_pass_but_what_cannot_be_judged_blocks(found, passes):
    margin = {"metric": "auc", "max_loss": 0.001, "only_if_significant": True}
    config = configured(export_config__gate=[margin])

    verdict = judge(config.export_config, found)

    assert verdict.passes == passes
    assert verdict.reasons


def test_without_margins_everything_passes():
    assert judged(CLICKS.scored(noise=9.0)).passes
