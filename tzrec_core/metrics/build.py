"""Builds the metrics that a config names."""

from functools import partial

from torchmetrics import Metric

from tzrec_core.config_checks.metric import AnyMetricConfig, option_problems
from tzrec_core.metrics.accuracy import binary_hits, top_k_hits
from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.binned_auc import binned_auc
from tzrec_core.metrics.calibration import calibration, calibration_error
from tzrec_core.metrics.decay import AddedBatches, DecayedMetric, KeptRows
from tzrec_core.metrics.error import absolute_error, squared_error
from tzrec_core.metrics.grouped_auc import grouped_auc_sums
from tzrec_core.metrics.grouped_xauc import grouped_xauc_sums
from tzrec_core.metrics.in_batch_xauc import in_batch_xauc, pair_counts, xauc_of_counts
from tzrec_core.metrics.log_loss import log_loss, normalized_entropy
from tzrec_core.metrics.multiclass_auc import ExactMulticlassAUC, binned_multiclass_auc
from tzrec_core.metrics.ndcg import ndcg_sums
from tzrec_core.metrics.on_disk import auc_on_disk, xauc_on_disk
from tzrec_core.metrics.row_store import GroupFormula, RowFormula
from tzrec_core.metrics.sampled_xauc import (
    sampled_grouped_xauc_sums,
    sampled_pair_counts,
    sampled_xauc,
)
from tzrec_core.metrics.streaming import StreamingMetric, SumFormula, mean_over_rows
from tzrec_core.metrics.xauc import xauc
from tzrec_core.protos import metric_pb2


def build_metric(
    config: metric_pb2.MetricConfig, *, num_class: int
) -> Metric | RowFormula | GroupFormula:
    """Builds the metric that ``config`` selects.

    Raises:
        ValueError: There is none, or its options are out of range or do not suit ``num_class``.
    """
    _check(config, num_class)
    match config.WhichOneof("metric"):
        case "auc" if config.auc.thresholds == 0:
            return RowFormula("auc", exact_auc, auc_on_disk)
        case "auc":
            return StreamingMetric(binned_auc(num_thresholds=config.auc.thresholds))
        case "multiclass_auc":
            return _multiclass_auc(config.multiclass_auc, num_class)
        case "grouped_auc":
            of_groups = partial(grouped_auc_sums, weighting=config.grouped_auc.weighting)
            return GroupFormula("grouped_auc", of_groups, "no group has both classes")
        case "xauc":
            return _xauc(config.xauc)
        case "grouped_xauc":
            return _grouped_xauc(config.grouped_xauc)
        case "ndcg_at_k":
            of_groups = partial(ndcg_sums, top_k=config.ndcg_at_k.top_k)
            return GroupFormula("ndcg_at_k", of_groups, "no group has a positive target")
        case "normalized_entropy":
            eta = config.normalized_entropy.eta
            return StreamingMetric(normalized_entropy(num_class=num_class, eta=eta))
        case "log_loss":
            return StreamingMetric(log_loss(num_class=num_class, eta=config.log_loss.eta))
        case "calibration":
            return StreamingMetric(calibration())
        case "calibration_error":
            return StreamingMetric(calibration_error(num_bins=config.calibration_error.num_bins))
        case _:
            return StreamingMetric(_mean(config, num_class))


def build_train_metric(config: metric_pb2.TrainMetricConfig, *, num_class: int) -> DecayedMetric:
    """Builds the metric of training that ``config`` selects.

    Raises:
        ValueError: There is none, or its options are out of range or do not suit ``num_class``.
    """
    _check(config, num_class)
    if not 0 <= config.decay_rate < 1:
        raise ValueError(f"decay_rate is {config.decay_rate:g}; must be in [0, 1)")
    if config.decay_step < 1:
        raise ValueError(f"decay_step is {config.decay_step}; must be > 0")
    recent: type[AddedBatches] | type[KeptRows] = AddedBatches
    match config.WhichOneof("metric"):
        case "auc":
            formula = binned_auc(num_thresholds=config.auc.thresholds, name="train auc")
        case "xauc" if config.xauc.in_batch:
            formula = _in_batch_xauc(config.xauc)
        case "xauc":
            formula, recent = _xauc_of_kept_rows(config.xauc), KeptRows
        case _:
            formula = _mean(config, num_class)
    return DecayedMetric(
        formula, decay_rate=config.decay_rate, decay_step=config.decay_step, recent=recent
    )


def grouping_key(config: metric_pb2.MetricConfig) -> str | None:
    """Returns the key by which the metric groups rows, None if it does not."""
    options = getattr(config, config.WhichOneof("metric") or "")
    key: str | None = getattr(options, "grouping_key", None)
    return key


def _check(config: AnyMetricConfig, num_class: int) -> None:
    kind = config.WhichOneof("metric")
    if kind is None:
        raise ValueError("a metric must say which it is, like auc {}")
    problems = list(option_problems(config, kind, num_class=num_class))
    if problems:
        raise ValueError("\n".join(problems))


def _mean(config: AnyMetricConfig, num_class: int) -> SumFormula:
    """Returns the formula of a metric that is a mean over rows."""
    match config.WhichOneof("metric"):
        case "mean_absolute_error":
            return mean_over_rows("mean_absolute_error", absolute_error)
        case "mean_squared_error":
            return mean_over_rows("mean_squared_error", squared_error)
        case "accuracy" if num_class == 1:
            hits = partial(binary_hits, threshold=config.accuracy.threshold)
            return mean_over_rows("accuracy", hits, num_labels=2)
        case "accuracy":
            hits = partial(top_k_hits, top_k=config.accuracy.top_k)
            return mean_over_rows("accuracy", hits, num_labels=num_class)
        case "recall_at_k":
            hits = partial(top_k_hits, top_k=config.recall_at_k.top_k)
            return mean_over_rows("recall_at_k", hits, num_labels=num_class)
        case kind:
            raise AssertionError(f"the schema has a metric {kind} that nothing builds")


def _multiclass_auc(config: metric_pb2.MulticlassAUC, num_class: int) -> Metric:
    if config.thresholds == 0:
        return ExactMulticlassAUC(num_class=num_class, average=config.average)
    formula = binned_multiclass_auc(
        num_class=num_class, num_thresholds=config.thresholds, average=config.average
    )
    return StreamingMetric(formula)


def _xauc(config: metric_pb2.XAUC) -> Metric | RowFormula:
    exclude = config.exclude_tied_targets
    if config.in_batch:
        return StreamingMetric(_in_batch_xauc(config))
    if _is_sampled(config):
        function = partial(
            sampled_xauc,
            sample_ratio=config.sample_ratio,
            max_pairs=_max_pairs(config),
            seed=config.seed,
            exclude_tied_targets=exclude,
        )
        return RowFormula("xauc", function)
    return RowFormula(
        "xauc",
        partial(xauc, exclude_tied_targets=exclude),
        partial(xauc_on_disk, exclude_tied_targets=exclude),
    )


def _in_batch_xauc(config: metric_pb2.XAUC) -> SumFormula:
    return in_batch_xauc(
        exclude_tied_targets=config.exclude_tied_targets,
        weight_batches_equally=config.weight_batches_equally,
    )


def _xauc_of_kept_rows(config: metric_pb2.XAUC) -> SumFormula:
    if not _is_sampled(config):
        counts = partial(pair_counts, exclude_tied_targets=config.exclude_tied_targets)
        return SumFormula(3, counts, xauc_of_counts)
    sampled_counts = partial(
        sampled_pair_counts,
        sample_ratio=config.sample_ratio,
        max_pairs=_max_pairs(config),
        seed=config.seed,
        exclude_tied_targets=config.exclude_tied_targets,
    )
    return SumFormula(3, sampled_counts, xauc_of_counts)


def _is_sampled(config: metric_pb2.XAUC) -> bool:
    return bool(config.HasField("sample_ratio") or config.HasField("max_pairs"))


def _max_pairs(config: metric_pb2.XAUC) -> int | None:
    return config.max_pairs if config.HasField("max_pairs") else None


def _grouped_xauc(config: metric_pb2.GroupedXAUC) -> GroupFormula:
    exclude = config.exclude_tied_targets
    of_groups = partial(grouped_xauc_sums, exclude_tied_targets=exclude)
    if config.HasField("max_pairs_per_group"):
        of_groups = partial(
            sampled_grouped_xauc_sums,
            max_pairs_per_group=config.max_pairs_per_group,
            seed=config.seed,
            exclude_tied_targets=exclude,
        )
    return GroupFormula("grouped_xauc", of_groups, "no group has a pair")
