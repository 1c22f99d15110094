"""Checks losses and metrics of the model config, and says what metrics are called."""

from collections import Counter
from collections.abc import Iterator

from tzrec_core.protos import loss_pb2, metric_pb2, model_pb2

CLASSIFIERS = {"binary_cross_entropy", "softmax_cross_entropy"}


def task_problems(model: model_pb2.ModelConfig) -> Iterator[str]:
    """Yields what is wrong with the losses and metrics of ``model``."""
    yield from _loss_problems(model)
    yield from _metric_problems(model)


def _loss_problems(model: model_pb2.ModelConfig) -> Iterator[str]:
    if model.num_class == 0:
        yield "model_config.num_class is 0; must be > 0"
    if not model.losses:
        yield "model_config.losses is empty; must have at least one, like binary_cross_entropy {}"
    kinds = [loss.WhichOneof("loss") for loss in model.losses]
    for index, (loss, kind) in enumerate(zip(model.losses, kinds, strict=True)):
        path = f"model_config.losses[{index}]"
        if kind is None:
            yield f"{path} has no loss"
            continue
        if kind in kinds[:index]:
            yield f"{path} is {kind}, as an earlier loss; each may be given once"
        yield from _one_loss_problems(loss, kind, path, model.num_class)


def _one_loss_problems(
    loss: loss_pb2.LossConfig, kind: str, path: str, num_class: int
) -> Iterator[str]:
    if kind == "softmax_cross_entropy" and num_class == 1:
        yield f"model_config.num_class is 1; must be > 1 for {path}.{kind}"
    if kind in ("binary_cross_entropy", "l2_loss") and num_class > 1:
        yield f"model_config.num_class is {num_class}; must be 1 for {path}.{kind}"
    if kind in ("binary_cross_entropy", "softmax_cross_entropy"):
        smoothing = getattr(loss, kind).label_smoothing
        if not 0 <= smoothing < 1:
            yield f"{path}.{kind}.label_smoothing is {smoothing:g}; must be in [0, 1)"


def _metric_problems(model: model_pb2.ModelConfig) -> Iterator[str]:
    for index, metric in enumerate(model.metrics):
        kind, path = metric.WhichOneof("metric"), f"model_config.metrics[{index}]"
        if kind is None:
            yield f"{path} has no metric"
            continue
        yield from _option_problems(metric, f"{path}.{kind}")
        yield from _prediction_problems(model, metric, f"{path}.{kind}")
        if metric.HasField("label_name") and not metric.label_name:
            yield f"{path}.label_name is ''; must name a column, or be left out"
    for index, train_metric in enumerate(model.train_metrics):
        kind, path = train_metric.WhichOneof("metric"), f"model_config.train_metrics[{index}]"
        if kind is None:
            yield f"{path} has no metric"
            continue
        yield from _option_problems(train_metric, f"{path}.{kind}")
        yield from _prediction_problems(model, train_metric, f"{path}.{kind}")
        if not 0 <= train_metric.decay_rate < 1:
            yield f"{path}.decay_rate is {train_metric.decay_rate:g}; must be in [0, 1)"
    for name, count in Counter(metric_names(model)).items():
        if count > 1:
            yield (
                f"model_config.metrics has {name} {count} times; further ones of a kind must"
                " differ in label_name or grouping_key"
            )
    for name, count in Counter(m.WhichOneof("metric") for m in model.train_metrics).items():
        if name is not None and count > 1:
            yield f"model_config.train_metrics has {name} {count} times; must have each kind once"


def _option_problems(
    metric: metric_pb2.MetricConfig | metric_pb2.TrainMetricConfig, path: str
) -> Iterator[str]:
    is_exact = isinstance(metric, metric_pb2.MetricConfig) and metric.auc.thresholds == 0
    if metric.HasField("auc") and metric.auc.thresholds < 2 and not is_exact:
        exact = ", or 0 for the exact value" if isinstance(metric, metric_pb2.MetricConfig) else ""
        yield f"{path}.thresholds is {metric.auc.thresholds}; must be > 1{exact}"
    if metric.HasField("accuracy") and not 0 <= metric.accuracy.threshold <= 1:
        yield f"{path}.threshold is {metric.accuracy.threshold:g}; must be in [0, 1]"
    if metric.HasField("accuracy") and metric.accuracy.top_k != 1:
        yield f"{path}.top_k is {metric.accuracy.top_k}; must be 1, others are not supported yet"
    if metric.HasField("xauc"):
        if not 0 < metric.xauc.sample_ratio <= 1:
            yield f"{path}.sample_ratio is {metric.xauc.sample_ratio:g}; must be in (0, 1]"
        if metric.xauc.HasField("max_pairs") and metric.xauc.max_pairs == 0:
            yield f"{path}.max_pairs is 0; must be > 0, or left out"
    chosen = getattr(metric, metric.WhichOneof("metric") or "")
    if getattr(chosen, "grouping_key", None) == "":
        yield f"{path}.grouping_key is not set; must name a feature or a column"


def _prediction_problems(
    model: model_pb2.ModelConfig,
    metric: metric_pb2.MetricConfig | metric_pb2.TrainMetricConfig,
    path: str,
) -> Iterator[str]:
    """A metric that judges what the losses do not predict."""
    losses = {loss.WhichOneof("loss") for loss in model.losses} - {None}
    if not losses:
        return
    is_classifier = bool(losses & CLASSIFIERS)
    kind = metric.WhichOneof("metric")
    if kind == "accuracy":
        if not is_classifier:
            losses_with_classes = ", ".join(sorted(CLASSIFIERS))
            yield f"{path} needs a class; must go with one of the losses {losses_with_classes}"
        if model.num_class > 1 and metric.accuracy.HasField("threshold"):
            yield f"{path}.threshold is set; must be left out as num_class is {model.num_class}"
        return
    needs_probability = kind == "auc" and metric.auc.thresholds > 0
    if needs_probability and not is_classifier:
        yield f"{path} needs a probability; must have thresholds: 0 with l2_loss"
    if model.num_class > 2:
        yield f"{path} needs one number per row; num_class is {model.num_class}, must be 1 or 2"


def metric_names(model: model_pb2.ModelConfig) -> list[str]:
    """The names under which evaluation reports metrics, in the config's order.

    A metric is called by its kind. Further ones of that kind are told apart by label_name, else by
    grouping_key, else by both; a name is there twice if that does not help.
    """
    names: list[str] = []
    for metric in model.metrics:
        kind = metric.WhichOneof("metric")
        if kind is None:
            continue
        suffixes = [metric.label_name, getattr(getattr(metric, kind), "grouping_key", "")]
        suffixes = [suffix for suffix in suffixes if suffix]
        candidates = [
            kind,
            *(f"{kind}_{suffix}" for suffix in suffixes),
            "_".join([kind, *suffixes]),
        ]
        names.append(next((name for name in candidates if name not in names), kind))
    return names


def loss_names(model: model_pb2.ModelConfig) -> list[str]:
    """The names under which evaluation reports losses, in the config's order."""
    return [kind for loss in model.losses if (kind := loss.WhichOneof("loss"))]
