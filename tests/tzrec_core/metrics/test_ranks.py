"""Metrics of rows spread over real gloo ranks equal those of one rank with all rows."""

import warnings

import pytest
import torch
from google.protobuf import text_format

from tests.distributed.ranks import run
from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.build import build_metric, build_train_metric
from tzrec_core.metrics.mean import WeightedMean
from tzrec_core.protos.metric_pb2 import MetricConfig, TrainMetricConfig

METRICS = [
    "auc {}",
    "auc { thresholds: 0 }",
    "accuracy {}",
    "mean_absolute_error {}",
    "mean_squared_error {}",
    "xauc {}",
]
GROUPED = ["grouped_auc {}", "grouped_xauc {}"]
SIZE = 90


def rows():
    generator = torch.Generator().manual_seed(0)
    preds = torch.rand(SIZE, generator=generator)
    target = torch.randint(0, 2, (SIZE,), generator=generator)
    keys = torch.randint(-3, 8, (SIZE,), generator=generator)  # groups span ranks
    keys[::9] = NULL_ID
    return preds, target, keys


def compute_all(parts):
    """Every metric of the given parts of the rows, updated part by part."""
    columns = rows()
    metrics = [build_metric(text_format.Parse(m, MetricConfig()), num_class=1) for m in METRICS]
    grouped = [build_metric(text_format.Parse(m, MetricConfig()), num_class=1) for m in GROUPED]
    mean = WeightedMean()
    for start, end in parts:
        preds, target, keys = (column[start:end] for column in columns)
        for metric in metrics:
            metric.update(preds, target)
        for metric in grouped:
            metric.update(preds, target, keys)
        mean.update(preds, target.float())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method")  # a rank without any update
        return [metric.compute() for metric in (*metrics, *grouped, mean)]


UNEVEN = {
    2: [
        [[(0, 30), (30, 37)], [(37, 90)]],
        [[(0, 90)], []],  # a rank that has never been updated
        [[(0, 0)], [(0, 45), (45, 90)]],
    ],
    3: [[[(0, 10)], [(10, 10)], [(10, 90)]]],
}


def compute_own_parts(ranks, splits):
    return [compute_all(parts_by_rank[ranks.rank]) for parts_by_rank in splits]


@pytest.mark.parametrize("num_ranks", UNEVEN)
def test_every_rank_computes_the_value_of_all_rows(num_ranks):
    expected = compute_all([(0, SIZE)])
    for results in run(compute_own_parts, num_ranks, UNEVEN[num_ranks]):
        for values in results:
            torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)


def train_auc(parts_by_step):
    config = text_format.Parse("auc {} decay_rate: 0.5 decay_step: 2", TrainMetricConfig())
    metric = build_train_metric(config)
    preds, target, _ = rows()
    values = []
    for start, end in parts_by_step:
        metric.update(preds[start:end], target[start:end])
        values.append(metric.compute())
    return values


def train_auc_of_own_part(ranks, parts_by_rank):
    return train_auc(parts_by_rank[ranks.rank])


def test_train_auc_fades_on_all_ranks_alike_even_without_rows():
    steps = [(0, 20), (20, 40), (40, 60), (60, 75), (75, 90)]
    first = [(start, start + 8) for start, _ in steps]
    first[:2] = [(0, 0), (20, 20)]  # no rows until after the first decay step
    second = [(first_end, end) for (_, first_end), (_, end) in zip(first, steps, strict=True)]

    expected = train_auc(steps)
    for values in run(train_auc_of_own_part, 2, [first, second]):
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
