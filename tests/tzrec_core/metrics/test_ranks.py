"""Metrics that add up rows over real gloo ranks equal those of one rank with all rows."""

import json
import warnings

import pytest
import torch
from google.protobuf import text_format

from tests.distributed.ranks import run
from tzrec_core.metrics.build import build_metric, build_train_metric
from tzrec_core.metrics.mean import WeightedMean
from tzrec_core.protos.metric_pb2 import MetricConfig, TrainMetricConfig

OF_NUMBERS = [
    "auc {}",
    "accuracy {}",
    "mean_absolute_error {}",
    "mean_squared_error {}",
    "log_loss {}",
    "normalized_entropy {}",
    "calibration {}",
    "calibration_error {}",
]
OF_CLASSES = [
    "multiclass_auc {}",
    "multiclass_auc { thresholds: 0 average: 'weighted' }",
    "recall_at_k { top_k: 2 }",
    "accuracy {}",
    "log_loss {}",
    "normalized_entropy {}",
]
SIZE, NUM_CLASS = 90, 4


def rows():
    generator = torch.Generator().manual_seed(0)
    preds = torch.rand(SIZE, generator=generator)
    target = torch.randint(0, 2, (SIZE,), generator=generator)
    of_classes = torch.rand(SIZE, NUM_CLASS, generator=generator).softmax(1)
    return preds, target, of_classes, torch.randint(0, NUM_CLASS, (SIZE,), generator=generator)


def build(text, num_class=1):
    return build_metric(text_format.Parse(text, MetricConfig()), num_class=num_class)


def compute_all(parts):
    """Every metric of the given parts of the rows, updated part by part."""
    columns = rows()
    of_numbers = [build(text) for text in OF_NUMBERS]
    of_classes = [build(text, NUM_CLASS) for text in OF_CLASSES]
    mean = WeightedMean()
    for start, end in parts:
        preds, target, probs, classes = (column[start:end] for column in columns)
        for metric in of_numbers:
            metric.update(preds, target)
        for metric in of_classes:
            metric.update(probs, classes)
        mean.update(preds, target.float())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method")  # a rank without any update
        return [metric.compute() for metric in (*of_numbers, *of_classes, mean)]


def compute_in_batches(parts):
    """X-AUC of pairs within the parts, whatever rank they are on."""
    columns = rows()
    texts = ("", "weight_batches_equally: true", "exclude_tied_targets: true")
    metrics = [build(f"xauc {{ in_batch: true {text} }}") for text in texts]
    for start, end in parts:
        for metric in metrics:
            metric.update(columns[0][start:end], columns[1][start:end])
    return [metric.compute() for metric in metrics]


TRAIN = ["auc {}", "mean_absolute_error {}", "accuracy {}", "xauc { in_batch: true }"]
STEPS = [(0, 20), (20, 40), (40, 60), (60, 75), (75, 90)]


def train(columns_by_step, metrics=None):
    """Every train metric's value after each step."""
    metrics = metrics or train_metrics()
    values = []
    for columns in columns_by_step:
        for metric in metrics:
            metric.update(*columns)
        values.append([metric.compute() for metric in metrics])
    return values


def train_metrics():
    return [
        build_train_metric(
            text_format.Parse(f"{text} decay_rate: 0.5 decay_step: 2", TrainMetricConfig()),
            num_class=1,
        )
        for text in TRAIN
    ]


def slices(parts):
    preds, target, _, _ = rows()
    return [(preds[start:end], target[start:end]) for start, end in parts]


def stop_and_go_on(ranks, steps, state):
    """Goes on from a state, or from nothing, and returns values and the state at the end."""
    metrics = train_metrics()
    if state is not None:
        num_steps, states = state
        for metric, sums in zip(metrics, states, strict=True):
            metric.load_state_dict(sums, num_steps=num_steps)
    values = train(slices(steps[ranks.rank] if ranks else steps), metrics)
    return values, json.loads(json.dumps([metric.state_dict() for metric in metrics]))


# A rank that has never been updated, batches without rows, batches of one row.
UNEVEN = {
    2: [
        [[(0, 30), (30, 37)], [(37, 90)]],
        [[(0, 90)], []],
        [[(0, 0)], [(0, 45), (45, 89), (89, 90)]],
    ],
    3: [[[(0, 10)], [(10, 10)], [(10, 90)]]],
}


def own_parts(ranks, splits, steps, state):
    parts = [by_rank[ranks.rank] for by_rank in splits]
    return (
        [compute_all(own) for own in parts],
        [compute_in_batches(own) for own in parts],
        stop_and_go_on(ranks, steps, None),
        stop_and_go_on(ranks, [own[3:] for own in steps], state),
    )


@pytest.mark.parametrize("num_ranks", UNEVEN)
def test_ranks_together_report_what_one_rank_reports(num_ranks):
    # In training, the first rank has no rows until after the first decay step.
    first = [(0, 0), (20, 20), *((start, start + 8) for start, _ in STEPS[2:])]
    rest = [(end, last) for (_, end), (_, last) in zip(first, STEPS, strict=True)]
    none = [(end, end) for _, end in STEPS]
    steps = [first, rest, none][:num_ranks]
    pairs = TRAIN.index("xauc { in_batch: true }")
    whole, _ = stop_and_go_on(None, STEPS, None)
    _, state_of_one = stop_and_go_on(None, STEPS[:3], None)
    # Pairs are of the rows that are in one batch on one rank.
    batches_of_ranks = train_in_batches_of_ranks(steps, pairs)

    expected = compute_all([(0, SIZE)])
    results = run(own_parts, num_ranks, UNEVEN[num_ranks], steps, (3, state_of_one))
    for values, in_batches, (trained, state), (went_on, _) in results:
        for split, by_split in zip(UNEVEN[num_ranks], in_batches, strict=True):
            everywhere = [part for parts in split for part in parts]
            assert_same(by_split, compute_in_batches(everywhere))
        for by_split in values:
            assert_same(by_split, expected)
        for by_step, one, of_pairs in zip(trained, whole, batches_of_ranks, strict=True):
            assert_same(by_step[:pairs], one[:pairs])
            assert_same(by_step[pairs], of_pairs)
        assert_same([step[:pairs] for step in went_on], [step[:pairs] for step in whole[3:]])
        assert state == results[0][2][1]
    # And back to one rank.
    other_half, _ = stop_and_go_on(None, STEPS[:2], (5, results[0][2][1]))
    continued, _ = stop_and_go_on(None, STEPS + STEPS[:2], None)
    assert_same(other_half[-1][:pairs], continued[-1][:pairs])


def train_in_batches_of_ranks(steps, index):
    """The in-batch X-AUC of training on one rank that is given every rank's batches."""
    num_ranks = len(steps)
    text = f"{TRAIN[index]} decay_rate: 0.5 decay_step: {2 * num_ranks}"
    metric = build_train_metric(text_format.Parse(text, TrainMetricConfig()), num_class=1)
    values = []
    for parts in zip(*steps, strict=True):
        for columns in slices(parts):
            metric.update(*columns)
        values.append(metric.compute())
    return values


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
