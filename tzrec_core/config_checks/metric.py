"""Checks metrics, and says what they are called."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tzrec_core.config_tasks import TaskConfig, name_suffix
from tzrec_core.protos import metric_pb2

AnyMetricConfig = metric_pb2.MetricConfig | metric_pb2.TrainMetricConfig

CLASSIFIERS = {"binary_cross_entropy", "binary_focal_loss", "jrc_loss", "softmax_cross_entropy"}
# Metrics of the probabilities of all classes. All others take one number per row.
CLASS_METRICS = {"accuracy", "recall_at_k", "multiclass_auc", "log_loss", "normalized_entropy"}
# What the options of metrics may be; each name means the same in all of them.
METRIC_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "average": (lambda x: x in ("macro", "weighted"), "must be macro or weighted"),
    "eta": (lambda x: 0 < x < 0.5, "must be in (0, 0.5)"),
    "grouping_key": (lambda x: x != "", "must name a feature or a column"),
    "max_pairs": (lambda x: x > 0, "must be > 0, or left out"),
    "max_pairs_per_group": (lambda x: x > 0, "must be > 0, or left out"),
    "num_bins": (lambda x: x > 0, "must be > 0"),
    "sample_ratio": (lambda x: 0 < x <= 1, "must be in (0, 1]"),
    "threshold": (lambda x: 0 <= x <= 1, "must be in [0, 1]"),
    "thresholds": (lambda x: x == 0 or x > 1, "must be > 1, or 0 for the exact value"),
    "top_k": (lambda x: x > 0, "must be > 0"),
    "weighting": (
        lambda x: x in ("groups", "rows", "positives"),
        "must be groups, rows or positives",
    ),
}


def metric_problems(task: TaskConfig, path: str) -> Iterator[str]:
    """Yields what is wrong with the metrics of ``task``, which stands at ``path``."""
    for index, metric in enumerate(task.metrics):
        metric_path = f"{path}.metrics[{index}]"
        yield from _one_metric_problems(task, metric, metric_path)
        if metric.HasField("label_name") and not metric.label_name:
            yield f"{metric_path}.label_name is ''; must name a column, or be left out"
    for index, train_metric in enumerate(task.train_metrics):
        metric_path = f"{path}.train_metrics[{index}]"
        yield from _one_metric_problems(task, train_metric, metric_path)
        if not 0 <= train_metric.decay_rate < 1:
            yield f"{metric_path}.decay_rate is {train_metric.decay_rate:g}; must be in [0, 1)"
    for name, count in Counter(metric_names(task)).items():
        if count > 1:
            yield (
                f"{path}.metrics has {name.removesuffix(name_suffix(task))} {count} times; further"
                " ones of a kind must differ in label_name or grouping_key"
            )
    for name, count in Counter(map(metric_name, task.train_metrics)).items():
        if name and count > 1:
            yield f"{path}.train_metrics has {name} {count} times; must have each once"


def _one_metric_problems(task: TaskConfig, metric: AnyMetricConfig, path: str) -> Iterator[str]:
    kind = metric.WhichOneof("metric")
    if kind is None:
        yield f"{path} has no metric"
        return
    yield from option_problems(metric, f"{path}.{kind}", num_class=task.num_class)
    yield from _prediction_problems(task, metric, f"{path}.{kind}")


def option_problems(metric: AnyMetricConfig, path: str, *, num_class: int) -> Iterator[str]:
    """Yields what is wrong with a metric, whatever the losses; ``path`` is where it stands."""
    kind = metric.WhichOneof("metric") or ""
    options = getattr(metric, kind)
    for field in options.DESCRIPTOR.fields:
        name, value = field.name, getattr(options, field.name)
        # Of the options without a default, only the key must be set.
        counts = options.HasField(name) or field.has_default_value or name == "grouping_key"
        is_allowed, allowed = METRIC_OPTIONS.get(name, (lambda _: True, ""))
        if counts and not is_allowed(value):
            text = f"{value:g}" if isinstance(value, float) else repr(value)
            yield f"{path}.{name} is {text if value != '' else 'not set'}; {allowed}"
    is_training = isinstance(metric, metric_pb2.TrainMetricConfig)
    if is_training and kind == "auc" and metric.auc.thresholds == 0:
        yield f"{path}.thresholds is 0; must be > 1"
    if kind == "xauc":
        yield from _xauc_problems(metric.xauc, path)
    is_drawn = kind == "grouped_xauc" and options.HasField("max_pairs_per_group")
    if kind == "grouped_xauc" and options.HasField("seed") and not is_drawn:
        yield f"{path}.seed is set; needs max_pairs_per_group"
    if kind in CLASS_METRICS:
        yield from _class_problems(metric, path, num_class)
    elif num_class > 2:
        yield f"{path} needs one number per row; num_class is {num_class}, must be 1 or 2"


def _xauc_problems(xauc: metric_pb2.XAUC, path: str) -> Iterator[str]:
    """Options that would have no effect."""
    sampling = [name for name in ("sample_ratio", "max_pairs") if xauc.HasField(name)]
    if xauc.in_batch:
        for name in sampling:
            yield f"{path}.{name} is set; must be left out with in_batch, which takes all pairs"
    elif xauc.weight_batches_equally:
        yield f"{path}.weight_batches_equally is true; needs in_batch: true"
    if xauc.HasField("seed") and not sampling:
        yield f"{path}.seed is set; needs sample_ratio or max_pairs"


def _class_problems(metric: AnyMetricConfig, path: str, num_class: int) -> Iterator[str]:
    kind = metric.WhichOneof("metric") or ""
    if num_class > 1:
        top_k = getattr(getattr(metric, kind), "top_k", 1)
        if top_k >= num_class:
            yield (
                f"{path}.top_k is {top_k}; must be < {num_class}, which is num_class: the target"
                " is always among all classes"
            )
        if kind == "accuracy" and metric.accuracy.HasField("threshold"):
            yield f"{path}.threshold is set; must be left out as num_class is {num_class}"
    elif kind in ("recall_at_k", "multiclass_auc"):
        yield f"{path} needs several classes; num_class is {num_class}, must be > 1"
    elif kind == "accuracy" and metric.accuracy.top_k > 1:
        yield f"{path}.top_k is {metric.accuracy.top_k}; must be 1 as num_class is {num_class}"


def _prediction_problems(task: TaskConfig, metric: AnyMetricConfig, path: str) -> Iterator[str]:
    """A metric that judges what the losses do not predict."""
    losses = {loss.WhichOneof("loss") for loss in task.losses} - {None}
    if not losses or losses & CLASSIFIERS:
        return
    kind = metric.WhichOneof("metric")
    if kind in CLASS_METRICS:
        losses_with_classes = ", ".join(sorted(CLASSIFIERS))
        yield f"{path} needs a class; must go with one of the losses {losses_with_classes}"
    if kind == "auc" and metric.auc.thresholds > 0:
        yield f"{path} needs a probability; must have thresholds: 0 with l2_loss"
    if kind == "calibration_error":
        yield f"{path} needs a probability, which l2_loss does not make"


def metric_names(task: TaskConfig) -> list[str]:
    """The names under which evaluation reports the task's metrics, in the config's order.

    A metric is called ``metric_name``. Further ones of that name are told apart by label_name, else
    by grouping_key, else by the top_k of accuracy, else by all of them; a name is there twice if
    that does not help. The tower's name stands at the end.
    """
    names: list[str] = []
    for metric in task.metrics:
        kind = metric.WhichOneof("metric")
        if kind is None:
            continue
        options, name = getattr(metric, kind), metric_name(metric)
        suffixes = [metric.label_name, getattr(options, "grouping_key", "")]
        if kind == "accuracy" and metric.accuracy.top_k > 1:
            suffixes.append(f"top_{metric.accuracy.top_k}")
        suffixes = [suffix for suffix in suffixes if suffix]
        candidates = [
            name,
            *(f"{name}_{suffix}" for suffix in suffixes),
            "_".join([name, *suffixes]),
        ]
        names.append(next((name for name in candidates if name not in names), name))
    return [name + name_suffix(task) for name in names]


def names_with_intervals(task: TaskConfig) -> list[str]:
    """The names of those metrics by which two models can be compared: sums over groups of rows.

    Losses, metrics over batches, the expected calibration error and AUC of several classes are
    none (``evaluation.statistics``).
    """
    judged = [metric for metric in task.metrics if metric.WhichOneof("metric") is not None]
    return [
        name
        for name, metric in zip(metric_names(task), judged, strict=True)
        if metric.WhichOneof("metric") not in ("calibration_error", "multiclass_auc")
        and not metric.xauc.in_batch
    ]


def metric_name(metric: AnyMetricConfig) -> str:
    """The kind of the metric, with the number in place of the k of ``recall_at_k``."""
    kind = metric.WhichOneof("metric") or ""
    if kind.endswith("_at_k"):
        return f"{kind.removesuffix('k')}{getattr(metric, kind).top_k}"
    return kind
