"""Near ties of checkpoints are told from real differences, and each choice says why."""

import numpy as np
import pytest

from tests.tzrec_core.evaluation.planted import Clicks, configured
from tzrec_core.eval_result import EvalResult
from tzrec_core.evaluation.choice import choose_by_evidence, is_near_tie
from tzrec_core.evaluation.comparison import compare
from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.metrics.bootstrap import Difference


def results_of(config, scored):
    """Returns the results of an evaluation, from comparisons of each model with itself."""
    return [
        EvalResult(
            step,
            {c.metric: c.candidate for c in compare(config, own, own, with_slices=False)},
        )
        for step, own in sorted(scored.items())
    ]


def choose(config, scored):
    return choose_by_evidence(config, results_of(config, scored), sorted(scored), scored.get)


def test_the_clearly_best_one_is_chosen():
    clicks = Clicks(num_users=300)
    scored = {
        10: clicks.scored(noise=4.0),
        20: clicks.scored(noise=0.3),
        30: clicks.scored(noise=4),
    }

    chosen, reason = choose(configured(), scored)

    assert chosen.step == 20
    assert reason == (
        "the largest grouped_auc of 3 checkpoints, all others are worse at 95% confidence"
    )


def near_ties():
    """The first one is clearly worse, the others differ by chance only."""
    clicks = Clicks(num_users=300)
    base = clicks.scored(noise=0.5).table
    scored = {10: clicks.scored(noise=4.0)}
    for step in (20, 30, 40):
        blurred = base["probs"].to_numpy() + clicks.rng.normal(0, 0.1, len(base))
        probs = blurred.clip(0.001, 0.999).astype(np.float32)
        place = base.column_names.index("probs")
        scored[step] = Predictions(base.set_column(place, "probs", [probs]), 1.0)
    return scored


def test_of_near_ties_the_earliest_is_chosen_and_a_worse_one_is_none():
    scored = near_ties()
    config = configured()
    best = max(results_of(config, scored), key=lambda r: r.metrics["grouped_auc"])

    chosen, reason = choose(config, scored)

    assert chosen.step == 20
    assert reason == (
        "the earliest of 3 checkpoints that do not differ at 95% confidence from step"
        f" {best.step}, the largest grouped_auc of 4 checkpoints"
    )


def test_of_near_ties_the_best_one_may_be_the_earliest():
    scored = near_ties()
    config = configured()
    best = max(results_of(config, scored), key=lambda r: r.metrics["grouped_auc"])
    renumbered = {1: scored[best.step], 10: scored[10], 50: scored[20 if best.step != 20 else 30]}

    chosen, reason = choose(config, renumbered)

    assert chosen.step == 1
    assert reason == (
        "the largest grouped_auc of 3 checkpoints, and the earliest of 2 that do not differ at 95%"
        " confidence"
    )


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_equal_values_are_a_near_tie_also_without_an_interval(larger_is_better):
    nan = float("nan")

    assert is_near_tie(Difference(0, nan, nan, nan), larger_is_better=larger_is_better)
    assert not is_near_tie(Difference(0.1, nan, nan, nan), larger_is_better=larger_is_better)


def test_of_near_ties_the_tie_break_metric_decides_if_asked_to():
    scored = near_ties()
    config = configured(
        export_config__near_ties="metric",
        export_config__tie_break_metric="log_loss",
        export_config__tie_break_larger_is_better=False,
    )
    by_loss = {r.step: r.metrics["log_loss"] for r in results_of(config, scored) if r.step != 10}

    chosen, reason = choose(config, scored)

    assert chosen.step == min(by_loss, key=by_loss.get)
    assert reason.startswith("the smallest log_loss of 3 checkpoints that do not differ")


def test_the_best_value_wins_if_asked_to():
    scored = near_ties()
    config = configured(export_config__near_ties="best")

    chosen, reason = choose(config, scored)

    by_metric = {r.step: r.metrics["grouped_auc"] for r in results_of(config, scored)}
    assert chosen.step == max(by_metric, key=by_metric.get)
    assert reason == "the largest grouped_auc of 4 checkpoints"


def test_smaller_may_be_better():
    clicks = Clicks(num_users=300)
    scored = {10: clicks.scored(noise=4.0), 20: clicks.scored(noise=0.3)}
    config = configured(
        export_config__best_exporter_metric="log_loss", export_config__metric_larger_is_better=False
    )

    assert choose(config, scored)[0].step == 20


@pytest.mark.parametrize("metric", ["binary_cross_entropy", "calibration_error"])
def test_a_metric_without_intervals_has_no_near_ties(metric):
    clicks = Clicks(num_users=30)
    scored = {step: clicks.scored(noise=1.0) for step in (10, 20)}
    results = [EvalResult(10, {metric: 0.3}), EvalResult(20, {metric: 0.31})]
    config = configured(export_config__best_exporter_metric=metric)

    chosen, reason = choose_by_evidence(config, results, [10, 20], scored.get)

    assert chosen.step == 20
    assert reason.endswith(f"; there are no confidence intervals of {metric}")


def test_too_few_groups_make_no_near_ties():
    clicks = Clicks(num_users=1, rows_per_user=500)
    scored = {10: clicks.scored(noise=9.0), 20: clicks.scored(noise=0.1)}

    chosen, reason = choose(configured(), scored)

    assert chosen.step == 20
    assert reason == (
        "the largest grouped_auc of 2 checkpoints (1 of which without an interval of the"
        " difference)"
    )


def test_a_single_checkpoint_and_the_latest_need_no_predictions():
    clicks = Clicks(num_users=30)
    results = results_of(configured(), {step: clicks.scored(noise=1.0) for step in (10, 20)})

    def read(step):
        raise AssertionError(step)

    latest = configured(export_config__exporter_type="latest")
    assert choose_by_evidence(configured(), results, [10], read)[0].step == 10
    assert choose_by_evidence(latest, results, [10, 20], read)[0].step == 20
