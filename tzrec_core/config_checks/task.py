"""Checks tasks: towers and their labels and weights, losses, and metrics."""

import math
from collections.abc import Iterator

from tzrec_core.config_checks.metric import metric_names, metric_problems
from tzrec_core.config_tasks import TaskConfig, name_suffix, task_configs, towers_path
from tzrec_core.protos import data_pb2, loss_pb2, model_pb2, tower_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

# What float32 bounds may add up to more than 1.
_SUM_TOLERANCE = 1e-6


def task_problems(config: EasyRecConfig) -> Iterator[str]:
    """Yields what is wrong with the tasks of ``config.model_config``, their losses and metrics."""
    model, data = config.model_config, config.data_config
    tasks = task_configs(model)
    for path, task in tasks.items():
        if isinstance(task, tower_pb2.TaskTower):
            yield from _tower_problems(task, path, data)
        yield from _loss_problems(task, path)
        yield from metric_problems(task, path)
    yield from _outside_problems(model)
    yield from _weight_problems(config)
    yield from _pareto_problems(config)
    yield from _name_problems(list(tasks.values()))


def _tower_problems(
    tower: tower_pb2.TaskTower, path: str, data: data_pb2.DataConfig
) -> Iterator[str]:
    for field, columns in (
        ("label_name", "label_fields"),
        ("sample_weight_name", "sample_weight_fields"),
        ("task_space_indicator_label", "label_fields"),
    ):
        name, known = getattr(tower, field), list(getattr(data, columns))
        if field == "label_name" and not name:
            yield f"{path}.label_name is not set; must be one of data_config.label_fields"
        elif tower.HasField(field) and name not in known:
            yield (
                f"{path}.{field} is {name!r}; must be one of data_config.{columns}:"
                f" {', '.join(known) or 'none'}"
            )
    weights = ("in_task_space_weight", "out_task_space_weight")
    for field in ("weight", *weights):
        value = getattr(tower, field)
        if not (math.isfinite(value) and value >= 0):
            yield f"{path}.{field} is {value:g}; must be finite and >= 0"
    if not tower.HasField("task_space_indicator_label"):
        for field in weights:
            if tower.HasField(field):
                yield f"{path}.{field} is set; needs task_space_indicator_label"
    elif not any(getattr(tower, field) for field in weights):
        yield f"{path}.{weights[0]} and {weights[1]} are 0; one must be > 0"


def _outside_problems(model: model_pb2.ModelConfig) -> Iterator[str]:
    """What stands beside the towers, though it belongs into them."""
    path = towers_path(model)
    if path is None:
        return
    for field in ("losses", "metrics", "train_metrics"):
        if getattr(model, field):
            yield f"model_config.{field} is set; must be in {path} instead"
    if model.HasField("num_class"):
        yield f"model_config.num_class is set; must be in {path} instead"


def _weight_problems(config: EasyRecConfig) -> Iterator[str]:
    """Sample weights that nothing would use."""
    path, names = towers_path(config.model_config), list(config.data_config.sample_weight_fields)
    if path is None:
        if len(names) > 1:
            yield (
                f"data_config.sample_weight_fields is {names}; a model with one task takes at most"
                " one"
            )
        return
    used = {
        task.sample_weight_name
        for task in task_configs(config.model_config).values()
        if isinstance(task, tower_pb2.TaskTower)
    }
    for name in names:
        if name and name not in used:
            yield (
                f"data_config.sample_weight_fields has {name!r}, which is the sample_weight_name"
                f" of none of {path}"
            )


def _pareto_problems(config: EasyRecConfig) -> Iterator[str]:
    model = config.model_config
    towers = {
        path: task
        for path, task in task_configs(model).items()
        if isinstance(task, tower_pb2.TaskTower)
    }
    if not model.use_pareto_loss_weight:
        for path, tower in towers.items():
            if tower.HasField("pareto_min_loss_weight"):
                yield (
                    f"{path}.pareto_min_loss_weight is set; needs"
                    " model_config.use_pareto_loss_weight"
                )
        return
    if len(towers) < 2:
        yield "model_config.use_pareto_loss_weight is true; needs a model with several task_towers"
    if config.train_config.gradient_accumulation_steps > 1:
        yield (
            "model_config.use_pareto_loss_weight is true; must not go with"
            " train_config.gradient_accumulation_steps > 1: weights are of one batch's gradients"
        )
    bounds = {path: tower.pareto_min_loss_weight for path, tower in towers.items()}
    for path, bound in bounds.items():
        if not 0 <= bound <= 1:
            yield f"{path}.pareto_min_loss_weight is {bound:g}; must be in [0, 1]"
        if towers[path].weight == 0:
            yield f"{path}.weight is 0; must be > 0 with model_config.use_pareto_loss_weight"
    if all(0 <= bound <= 1 for bound in bounds.values()):
        total = math.fsum(bounds.values())
        if total > 1 + _SUM_TOLERANCE:
            yield (
                f"{towers_path(model)}: the pareto_min_loss_weight add up to {total:g}; must be at"
                " most 1"
            )


def _name_problems(tasks: list[TaskConfig]) -> Iterator[str]:
    """Names that come about in two ways, such as ``auc`` of a tower ``b_a`` and ``auc_b`` of a."""
    names = [(name, task) for task in tasks for name in (*metric_names(task), *loss_names(task))]
    towers: dict[str, set[str]] = {}
    for name, task in names:
        towers.setdefault(name, set()).add(name_suffix(task))
    for name, suffixes in towers.items():
        if len(suffixes) > 1:
            listed = " and ".join(repr(suffix[1:]) for suffix in sorted(suffixes))
            yield f"the towers {listed} both have a metric {name}; one tower needs another name"


def _loss_problems(task: TaskConfig, path: str) -> Iterator[str]:
    if task.num_class == 0:
        yield f"{path}.num_class is 0; must be > 0"
    if not task.losses:
        yield f"{path}.losses is empty; must have at least one, like binary_cross_entropy {{}}"
    kinds = [loss.WhichOneof("loss") for loss in task.losses]
    for index, (loss, kind) in enumerate(zip(task.losses, kinds, strict=True)):
        loss_path = f"{path}.losses[{index}]"
        if kind is None:
            yield f"{loss_path} has no loss"
            continue
        if kind in kinds[:index]:
            yield f"{loss_path} is {kind}, as an earlier loss; each may be given once"
        yield from _num_class_problems(task, kind, path, loss_path)
        yield from _loss_option_problems(loss, f"{loss_path}.{kind}")


def _num_class_problems(task: TaskConfig, kind: str, path: str, loss_path: str) -> Iterator[str]:
    where = f"{path}.num_class is {task.num_class}; must be"
    if kind == "softmax_cross_entropy" and task.num_class == 1:
        yield f"{where} > 1 for {loss_path}.{kind}"
    if kind in ("binary_cross_entropy", "binary_focal_loss", "l2_loss") and task.num_class > 1:
        yield f"{where} 1 for {loss_path}.{kind}"
    if kind == "jrc_loss" and task.num_class != 2:
        yield f"{where} 2 for {loss_path}.{kind}"


def _loss_option_problems(loss: loss_pb2.LossConfig, path: str) -> Iterator[str]:
    match loss.WhichOneof("loss"):
        case "binary_cross_entropy" | "softmax_cross_entropy" as kind:
            smoothing = getattr(loss, kind).label_smoothing
            if not 0 <= smoothing < 1:
                yield f"{path}.label_smoothing is {smoothing:g}; must be in [0, 1)"
        case "binary_focal_loss":
            gamma, alpha = loss.binary_focal_loss.gamma, loss.binary_focal_loss.alpha
            if not 0 <= gamma < math.inf:
                yield f"{path}.gamma is {gamma:g}; must be finite and >= 0"
            if not 0 < alpha < 1:
                yield f"{path}.alpha is {alpha:g}; must be in (0, 1)"
        case "jrc_loss":
            if not loss.jrc_loss.session_name:
                yield f"{path}.session_name is not set; must name a feature or a column"
            if not 0 <= loss.jrc_loss.alpha <= 1:
                yield f"{path}.alpha is {loss.jrc_loss.alpha:g}; must be in [0, 1]"


def loss_names(task: TaskConfig) -> list[str]:
    """The names under which evaluation reports the task's losses, in the config's order."""
    kinds = [kind for loss in task.losses if (kind := loss.WhichOneof("loss"))]
    return [kind + name_suffix(task) for kind in kinds]
