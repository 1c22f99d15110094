import math

import pytest

from tzrec_core.eval_result import EvalResult
from tzrec_core.protos.export_pb2 import ExportConfig
from tzrec_core.selection import choose, never_to_delete

RESULTS = [
    EvalResult(10, {"auc": 0.6, "loss": 0.5}),
    EvalResult(20, {"auc": 0.7, "loss": 0.4}),
    EvalResult(30, {"auc": 0.7, "loss": 0.3}),
    EvalResult(40, {"auc": math.nan, "loss": 0.6}),
]


@pytest.mark.parametrize(
    ("export_config", "steps", "step", "reason"),
    [
        ({}, [10, 20, 30, 40], 40, "the latest of 4 checkpoints"),
        ({"exporter_type": "best"}, [10, 20, 30, 40], 20, "the largest auc of 4 checkpoints"),
        ({"exporter_type": "best"}, [10, 30, 50], 30, "the largest auc of 2 checkpoints"),
        (
            {
                "exporter_type": "best", "best_exporter_metric": "loss",
                "metric_larger_is_better": False,
            },
            [10, 20, 30], 30, "the smallest loss of 3 checkpoints",
        ),
    ],
)  # fmt: skip
def test_the_config_decides_among_the_checkpoints_that_there_are(
    export_config, steps, step, reason
):
    result, why = choose(ExportConfig(**export_config), RESULTS, steps)

    assert result.step == step
    assert why == reason


def test_checkpoints_without_a_result_cannot_be_chosen():
    with pytest.raises(ValueError, match=r"none of the checkpoints \[50\] has"):
        choose(ExportConfig(), RESULTS, [50])


def test_an_unknown_metric_is_an_error_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'gauc'; they have \['auc', 'loss'\]"):
        choose(ExportConfig(exporter_type="best", best_exporter_metric="gauc"), RESULTS, [10])


@pytest.mark.parametrize(
    ("export_config", "steps", "kept"),
    [
        ({}, [10, 20], set()),
        ({"exporter_type": "best"}, [10, 20, 30], {20}),
        ({"exporter_type": "best"}, [10, 40], {10}),
        # None has a value for the metric, or a result at all, or the metric.
        ({"exporter_type": "best"}, [40], set()),
        ({"exporter_type": "best"}, [50], set()),
        ({"exporter_type": "best", "best_exporter_metric": "gauc"}, [10], set()),
    ],
)
def test_the_best_of_the_checkpoints_that_there_are_is_never_deleted(export_config, steps, kept):
    assert never_to_delete(ExportConfig(**export_config), RESULTS, steps) == kept
