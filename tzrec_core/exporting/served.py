"""The served form of a trained model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tzrec_core.exporting.inputs import sparse_inputs
from tzrec_core.features.schema import BatchSchema, Feature
from tzrec_core.models.serving import Lookup, ServingModel, SingleTask, TaskOutputs
from tzrec_core.models.serving_tables import rounded, serving_table
from tzrec_core.task_model import TaskModel
from tzrec_core.tasks import Task, predictions


def serving_model(model: TaskModel, schema: BatchSchema, precision: str = "FP32") -> ServingModel:
    """Returns ``model`` without TorchRec.

    It shares the dense parameters, and in FP32 the tables too.

    Raises:
        ValueError: A table holds what the precision cannot.
    """
    embeddings, head, tasks = model.model.embeddings, model.model.head, model.scoring.tasks
    network, outputs = head.network, [_outputs(task) for task in tasks]
    if tasks[0].tower is None:
        network = SingleTask(network, outputs[0].task)
    keys = [feature.name for feature in sparse_inputs(schema)]
    return ServingModel(
        network=network,
        tables={
            name: _in_precision(name, weight, precision)
            for name, weight in _tables(embeddings).items()
        },
        deep=[_lookup(feature, keys) for feature in embeddings.deep_features],
        wide=[_lookup(feature, keys) for feature in embeddings.wide_features],
        dense_widths=head.dense_widths,
        num_sparse=len(keys),
        tasks=outputs,
    ).eval()


def round_tables(model: TaskModel, precision: str) -> None:
    """Gives ``model`` the tables that a served model of this precision stands for."""
    with torch.no_grad():
        for weight in _tables(model.model.embeddings).values():
            weight.copy_(rounded(weight, precision))


def table_bytes(served: ServingModel) -> int:
    """Returns the memory of the tables; one that several features share counts once."""
    tables = {lookup.table for lookup in (*served.deep, *served.wide)}
    tensors = [tensor for table in tables for tensor in table.state_dict().values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def describe(schema: BatchSchema, model: TaskModel, *, step: int) -> dict[str, Any]:
    """Returns what a caller must know to fill the model's inputs."""
    return {
        "global_step": step,
        "dense": [{"name": f.name, "width": f.width} for f in schema.dense_features],
        "sparse": [
            {
                "name": feature.name,
                "rows": feature.table.num_embeddings if feature.table else 0,
                "weighted": feature.weighted,
            }
            for feature in sparse_inputs(schema)
        ],
        "outputs": sorted(
            name + task.suffix for task in model.scoring.tasks for name in _outputs(task).outputs
        ),
    }


def _in_precision(name: str, weight: nn.Parameter, precision: str) -> nn.Module:
    try:
        return serving_table(weight, precision)
    except ValueError as error:
        raise ValueError(f"table {name!r} cannot be exported in {precision}: {error}") from None


def _outputs(task: Task) -> TaskOutputs:
    name = task.tower or ""
    outputs = predictions([task], {name: torch.zeros(1, task.num_class)})
    names = tuple(output.removesuffix(task.suffix) for output in outputs)
    return TaskOutputs(name, task.suffix, names)


def _lookup(feature: Feature, keys: Sequence[str]) -> Lookup:
    table = feature.table
    assert table is not None
    return Lookup(
        key=keys.index(feature.name),
        table=table.name,
        pooling=table.pooling,
        weighted=feature.weighted,
    )


def _tables(embeddings: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the tables of TorchRec's collections by name."""
    return {
        name.removesuffix(".weight").rpartition(".")[2]: parameter
        for name, parameter in embeddings.named_parameters()
    }
