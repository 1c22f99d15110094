"""Which metrics two models can be compared by is what the config check says."""

import numpy as np
import pyarrow as pa
import pytest

from tests.tzrec_core.evaluation.planted import configured
from tzrec_core.config_checks.metric import names_with_intervals
from tzrec_core.evaluation.comparison import compare
from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.protos.metric_pb2 import MetricConfig

METRICS = {
    "binary_cross_entropy": [
        {"auc": {"thresholds": 0}},
        {"xauc": {}},
        {"xauc": {"in_batch": True}, "label_name": "also"},
        {"grouped_auc": {"grouping_key": "user"}},
        {"grouped_xauc": {"grouping_key": "user"}},
        {"ndcg_at_k": {"grouping_key": "user"}},
        {"accuracy": {}},
        {"mean_absolute_error": {}},
        {"mean_squared_error": {}},
        {"normalized_entropy": {}},
        {"log_loss": {}},
        {"calibration": {}},
        {"calibration_error": {}},
    ],
    "softmax_cross_entropy": [
        {"accuracy": {}},
        {"recall_at_k": {"top_k": 2}},
        {"multiclass_auc": {}},
        {"log_loss": {}},
    ],
}


@pytest.mark.parametrize("loss", METRICS)
def test_all_metrics_that_may_be_in_the_gate_can_be_compared_and_no_others(loss):
    num_class = 3 if loss.startswith("softmax") else 1
    config = configured(
        model_config__metrics=METRICS[loss],
        model_config__losses=[{loss: {}}],
        model_config__num_class=num_class,
    )
    config.eval_config.ClearField("slices")
    rng = np.random.default_rng(0)
    target = rng.integers(max(num_class, 2), size=60)
    probs = rng.dirichlet(np.ones(3), size=60).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(probs.ravel(), 3)
    columns = {
        "click": target,
        "also": target,
        "user@id": np.arange(60) // 6,
        "probs": probs[:, 0] if num_class == 1 else flat,
    }
    rows = Predictions(pa.table(columns), 1.0)

    found = [comparison.metric for comparison in compare(config, rows, rows)]

    assert found == names_with_intervals(config.model_config)
    assert 0 < len(found) < len(METRICS[loss])


def test_every_metric_is_looked_at():
    looked_at = {kind for metrics in METRICS.values() for metric in metrics for kind in metric}

    kinds = {field.name for field in MetricConfig.DESCRIPTOR.oneofs_by_name["metric"].fields}
    assert kinds == looked_at - {"label_name"}
