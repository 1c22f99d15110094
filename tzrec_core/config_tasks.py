"""The tasks of a model config: the model itself, or each of its towers."""

from tzrec_core.protos import model_pb2, tower_pb2

TaskConfig = model_pb2.ModelConfig | tower_pb2.TaskTower
"""What a task is trained and judged by: both have ``losses``, ``metrics`` and so on."""


def towers_path(model: model_pb2.ModelConfig) -> str | None:
    """Returns the path of the model's task towers; None if it is of the kind that has none."""
    kind = model.WhichOneof("model")
    if kind is None or "task_towers" not in getattr(model, kind).DESCRIPTOR.fields_by_name:
        return None
    return f"model_config.{kind}.task_towers"


def task_configs(model: model_pb2.ModelConfig) -> dict[str, TaskConfig]:
    """Returns the config of each task by its path."""
    path = towers_path(model)
    if path is None:
        return {"model_config": model}
    towers = getattr(model, model.WhichOneof("model") or "").task_towers
    return {f"{path}[{index}]": tower for index, tower in enumerate(towers)}


def name_suffix(task: TaskConfig) -> str:
    """Returns what follows the names of all that belongs to the task."""
    return f"_{task.tower_name}" if isinstance(task, tower_pb2.TaskTower) else ""
