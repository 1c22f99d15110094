"""Builds the metrics that a config names."""

from torchmetrics import Metric

from tzrec_core.metrics.accuracy import BinaryAccuracy, MulticlassAccuracy
from tzrec_core.metrics.auc import BinnedAUC, exact_auc
from tzrec_core.metrics.decay import DecayAUC, DecayedMetric
from tzrec_core.metrics.error import MeanError, absolute_error, squared_error
from tzrec_core.metrics.grouped_auc import grouped_auc
from tzrec_core.metrics.grouped_xauc import grouped_xauc
from tzrec_core.metrics.rows import GroupedRowMetric, RowMetric
from tzrec_core.metrics.xauc import xauc
from tzrec_core.protos import metric_pb2


def build_metric(config: metric_pb2.MetricConfig, *, num_class: int) -> Metric:
    """Builds the metric that ``config`` selects.

    Raises:
        ValueError: The metric or one of its options is not supported or out of range.
    """
    match config.WhichOneof("metric"):
        case "auc" if config.auc.thresholds == 0:
            return RowMetric(exact_auc)
        case "auc":
            return BinnedAUC(num_thresholds=_num_thresholds(config.auc))
        case "accuracy":
            return _accuracy(config.accuracy, num_class)
        case "mean_absolute_error":
            return MeanError(absolute_error, name="mean_absolute_error")
        case "mean_squared_error":
            return MeanError(squared_error, name="mean_squared_error")
        case "grouped_auc":
            return GroupedRowMetric(grouped_auc)
        case "xauc":
            for option in ("sample_ratio", "max_pairs", "in_batch"):
                if config.xauc.HasField(option) and getattr(config.xauc, option) is not False:
                    raise ValueError(
                        f"xauc.{option} is not supported yet; leave it out for the exact value"
                    )
            return RowMetric(xauc)
        case "grouped_xauc":
            if config.grouped_xauc.HasField("max_pairs_per_group"):
                raise ValueError(
                    "grouped_xauc.max_pairs_per_group is not supported yet; "
                    "leave it out for the exact value"
                )
            return GroupedRowMetric(grouped_xauc)
        case kind:
            raise ValueError(
                "metrics must be auc, accuracy, mean_absolute_error, mean_squared_error, "
                f"grouped_auc, xauc or grouped_xauc, got {kind}"
            )


def build_train_metric(config: metric_pb2.TrainMetricConfig) -> DecayedMetric:
    """Builds the metric of training that ``config`` selects.

    Raises:
        ValueError: The metric is not supported, or an option is out of range.
    """
    match config.WhichOneof("metric"):
        case "auc":
            metric = DecayAUC(num_thresholds=_num_thresholds(config.auc))
        case kind:
            raise ValueError(f"train_metrics must be auc, got {kind}")
    if not 0 <= config.decay_rate < 1:
        raise ValueError(f"train_metrics.decay_rate must be in [0, 1), got {config.decay_rate}")
    if config.decay_step < 1:
        raise ValueError(f"train_metrics.decay_step must be 1 or more, got {config.decay_step}")
    return DecayedMetric(metric, decay_rate=config.decay_rate, decay_step=config.decay_step)


def grouping_key(config: metric_pb2.MetricConfig) -> str | None:
    """Returns the key by which the metric groups rows, None if it does not.

    Raises:
        ValueError: It groups, but the config does not say by what.
    """
    name = config.WhichOneof("metric")
    if name not in ("grouped_auc", "grouped_xauc"):
        return None
    key: str = getattr(config, name).grouping_key
    if not key:
        raise ValueError(f"{name}.grouping_key must name a feature or a column")
    return key


def _num_thresholds(config: metric_pb2.AUC) -> int:
    if config.thresholds < 2:
        raise ValueError(f"auc.thresholds must be 2 or more, got {config.thresholds}")
    return config.thresholds


def _accuracy(config: metric_pb2.Accuracy, num_class: int) -> BinaryAccuracy | MulticlassAccuracy:
    if config.top_k != 1:
        raise ValueError(f"accuracy.top_k must be 1, others are not supported yet: {config.top_k}")
    if num_class == 1:
        return BinaryAccuracy(threshold=config.threshold)
    if config.HasField("threshold"):
        raise ValueError(f"accuracy.threshold needs num_class 1, got {num_class}")
    return MulticlassAccuracy()
