import itertools
import math

import pytest

from tzrec_core.eval_result import EvalResult
from tzrec_core.training.early_stopping import reason_to_stop

NAN = math.nan


def reason(values, *, patience=2, min_delta=0.0, larger_is_better=True):
    results = [EvalResult(10 * i, {"auc": v, "other": 0.0}) for i, v in enumerate(values, start=1)]
    return reason_to_stop(
        results,
        metric="auc",
        patience=patience,
        min_delta=min_delta,
        larger_is_better=larger_is_better,
    )


def stops_by_the_book(values, patience, min_delta):
    """Is no value of the last ``patience`` an improvement on all improvements before it?"""
    improvements = []
    for index, value in enumerate(values):
        if value == value and all(value > values[i] + min_delta for i in improvements):
            improvements.append(index)
    return not any(index >= len(values) - patience for index in improvements)


@pytest.mark.parametrize("min_delta", [0, 1])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_stops_when_the_last_evaluations_are_no_improvement(patience, min_delta):
    for length in range(6):
        for values in itertools.product([NAN, 0, 1, 2], repeat=length):
            should_stop = length >= patience and stops_by_the_book(values, patience, min_delta)
            stops = reason(values, patience=patience, min_delta=min_delta) is not None
            assert stops == should_stop, values
            mirrored = [-value for value in values]
            assert stops == (
                reason(mirrored, patience=patience, min_delta=min_delta, larger_is_better=False)
                is not None
            )


def test_the_reason_names_metric_value_and_step():
    assert reason([0.5, 0.75, 0.7, 0.71]) == (
        "auc has not risen in 2 evaluations, since step 20 with 0.75"
    )
    assert reason([0.5, 0.45, 0.4], min_delta=0.1, larger_is_better=False) == (
        "auc has not fallen by more than 0.1 in 2 evaluations, since step 10 with 0.5"
    )


def test_steps_that_are_too_small_do_not_add_up_unseen():
    # Each is an improvement of 0.06 only, but the third is one of 0.12 on the first.
    assert reason([0.5, 0.56], patience=1, min_delta=0.1) is not None
    assert reason([0.5, 0.56, 0.62], patience=2, min_delta=0.1) is None


def test_a_metric_without_any_value_is_no_improvement():
    assert reason([NAN, NAN]) == "auc had no value in 2 evaluations"
    results = [EvalResult(1, {"other": 1.0}), EvalResult(2, {"other": 2.0})]
    assert (
        reason_to_stop(results, metric="auc", patience=2, min_delta=0.0, larger_is_better=True)
        == "auc had no value in 2 evaluations"
    )
