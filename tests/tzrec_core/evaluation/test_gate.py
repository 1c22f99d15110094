"""The gate blocks what loses more than it may, on all rows and on slices, and says what."""

import math

import pytest

from tests.tzrec_core.evaluation.planted import Clicks, configured
from tzrec_core.evaluation.comparison import Comparison, compare
from tzrec_core.evaluation.gate import judge
from tzrec_core.evaluation.predictions import Predictions
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
        (difference(-0.01, -0.015, -0.0005), True),
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


@pytest.mark.parametrize(
    ("interval", "passes"), [((0.01, -0.01, 0.03), True), ((0.01, 0.005, 0.03), False)]
)
def test_of_a_loss_function_a_chance_increase_is_let_pass_and_a_certain_one_is_not(
    interval, passes
):
    margin = {"metric": "log_loss", "max_loss": 0.001, "only_if_significant": True}
    config = configured(export_config__gate=[margin])
    found = Comparison("log_loss", None, None, 1.0, 0.51, 0.5, Difference(*interval, 0.5))

    assert judge(config.export_config, [found]).passes == passes


@pytest.mark.parametrize(
    ("name", "loss"),
    [("calibration_error", 1), ("log_loss", 1), ("mean_absolute_error_watch", 1), ("auc", -1),
     ("mean_squared_error", 1), ("normalized_entropy", 1), ("grouped_xauc", -1)],
)  # fmt: skip
def test_a_model_may_lose_all_of_the_margin_and_no_more(name, loss):
    config = configured(export_config__gate=[{"metric": name, "max_loss": 0.25}])

    for value, passes in ((0.25, True), (0.375, False), (-0.375, True)):
        change = Difference(loss * value, math.nan, math.nan, math.nan)
        found = Comparison(name, None, None, 1.0, 0.5 + change.value, 0.5, change)
        assert judge(config.export_config, [found]).passes == passes


def test_a_metric_without_a_value_blocks_and_is_named_as_that():
    config = configured(export_config__gate=[{"metric": "auc"}])
    (problem,) = judge(config.export_config, difference(math.nan, math.nan, math.nan)).reasons

    assert problem.endswith("one of them has no value")


def test_a_slice_of_just_the_smallest_share_is_looked_at():
    margin = {"metric": "auc", "max_loss": 0.01, "min_slice_share": 0.25}
    config = configured(export_config__gate=[margin])
    same = difference(0.0, 0.0, 0.0)
    worse = Difference(-0.1, -0.1, -0.1, 0.01)

    for share, passes in ((0.25, False), (0.24, True)):
        of_slice = Comparison("auc", "country", "it", share, 0.6, 0.7, worse)
        assert judge(config.export_config, [*same, of_slice]).passes == passes
    assert not judge(config.export_config, [of_slice]).passes  # nothing is known of all rows


def biased(scored, factor):
    """Returns predictions whose sum is ``factor`` times that of the labels."""
    table = scored.table
    probs = table["probs"].to_numpy()
    probs = (probs * (factor * table["click"].to_numpy().sum() / probs.sum())).astype("float32")
    return Predictions(table.set_column(table.column_names.index("probs"), "probs", [probs]), 1.0)


@pytest.mark.parametrize("only_if_significant", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "passes"),
    [(2.0, 1.0, False), (0.5, 1.0, False), (1.0, 2.0, True), (1.0, 0.5, True), (0.9, 1.2, True),
     (1.2, 0.9, False), (1.8, 0.1, True)],
)  # fmt: skip
def test_calibration_may_not_move_away_from_1(ours, theirs, passes, only_if_significant):
    margin = {"metric": "calibration", "max_loss": 0.01, "only_if_significant": only_if_significant}
    config = configured(model_config__metrics=[{"calibration": {}}], export_config__gate=[margin])
    scored = CLICKS.scored(noise=0.5)

    found = compare(config, biased(scored, ours), biased(scored, theirs), with_slices=False)

    verdict = judge(config.export_config, found)
    assert verdict.passes == passes
    distance = abs(ours - 1) - abs(theirs - 1)
    assert found[0].of_distance.value == pytest.approx(distance, abs=1e-6)
    assert f"{distance:+.4f}" in verdict.reasons[0]
    assert "in distance to 1" in verdict.reasons[0]


def test_the_checkpoint_of_a_rounded_export_is_said_to_be_judged_unrounded():
    margin = {"metric": "auc"}
    for precision, is_said in (("FP32", False), ("FP16", True), ("INT8", True)):
        config = configured(
            export_config__gate=[margin], export_config__embedding_precision=precision
        )
        for value in (0.1, -0.1):
            reasons = judge(config.export_config, difference(value, math.nan, math.nan)).reasons
            assert any("judged in FP32" in reason for reason in reasons) == is_said
