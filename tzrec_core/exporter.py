"""Exports a checkpoint as a model that serves: scripted, checked against the checkpoint, published.

An export directory holds ``scripted_model.pt``, which plain torch loads (``models.serving`` says
what it takes), ``signature.json`` with the order of its inputs, ``pipeline.config``, from which raw
rows are encoded exactly as in training, and in ``assets`` the vocabularies that this config names
by relative paths. The directory can be moved.
"""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from tzrec_core import assets
from tzrec_core.assembly import unsharded, uses_averages
from tzrec_core.batch import Batch
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import load, save
from tzrec_core.data.build import build_dataset
from tzrec_core.features.build import build_schema
from tzrec_core.features.schema import BatchSchema, Feature
from tzrec_core.models.serving import Lookup, ServingModel, SingleTask, TaskOutputs
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_model import TaskModel
from tzrec_core.tasks import Task, predictions

log = logging.getLogger(__name__)

MODEL_FILE = "scripted_model.pt"
SIGNATURE_FILE = "signature.json"
CONFIG_FILE = "pipeline.config"
# Two sums of float32 in another order differ in the last bits; anything more is another model.
TOLERANCE = 1e-5
_NUM_CHECK_BATCHES = 4


def export(
    config: EasyRecConfig,
    *,
    checkpoint_path: Path,
    export_dir: Path,
    check_config: EasyRecConfig,
    asset_files: Sequence[Path] = (),
) -> float:
    """Exports ``checkpoint_path`` into ``export_dir``, which must not exist.

    The written files are loaded again and score real rows beside the checkpoint's own model;
    only if both agree does the directory appear under its name.

    Args:
        config: The config that raw rows are encoded with; published with the model.
        checkpoint_path: A checkpoint directory.
        export_dir: The directory to create.
        check_config: Where the rows to check with come from (``eval_input_path``, else
            ``train_input_path``) and how those are encoded.
        asset_files: More files to copy into the directory's ``assets``.

    Returns:
        The largest difference found between the two models' outputs.

    Raises:
        ValueError: ``export_dir`` exists, an asset file does not, the checkpoint is unusable, there
            are no rows, or the exported model disagrees with the checkpoint.
    """
    if export_dir.exists():
        raise ValueError(f"export_dir {export_dir} exists; choose a new one or remove it")
    carried = assets.plan(config, asset_files)
    averaged = uses_averages(config, config.export_config)
    model = unsharded(config, checkpoint_path, averaged=averaged)
    schema = build_schema(config)
    export_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{export_dir.name}.tmp-", dir=export_dir.parent))
    try:
        save_scripted(serving_model(model, schema), aside / MODEL_FILE)
        signature = describe(schema, model, step=checkpoint.read_position(checkpoint_path).step)
        (aside / SIGNATURE_FILE).write_text(json.dumps(signature, indent=2) + "\n")
        save(assets.publish(config, carried, aside), aside / CONFIG_FILE)
        served = load_scripted(aside / MODEL_FILE)
        difference = largest_difference(model, served, _check_batches(check_config))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the exported model's outputs differ from those of {checkpoint_path} by up to "
                f"{difference:.3g}, more than {TOLERANCE:g}; nothing was published"
            )
        aside.chmod(0o755)
        aside.rename(export_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    log.info("Exported %s to %s; outputs differ by %.1e", checkpoint_path, export_dir, difference)
    return difference


def load_config(export_dir: Path) -> EasyRecConfig:
    """Reads the config of an export directory, wherever that lies now.

    Raises:
        ValueError: It is missing or damaged.
    """
    config = load(export_dir / CONFIG_FILE)
    assets.resolve(config, export_dir)
    return config


def serving_model(model: TaskModel, schema: BatchSchema) -> ServingModel:
    """Returns ``model`` without TorchRec, sharing its parameters."""
    embeddings, head, tasks = model.model.embeddings, model.model.head, model.scoring.tasks
    network, outputs = head.network, [_outputs(task) for task in tasks]
    if tasks[0].tower is None:
        network = SingleTask(network, outputs[0].task)
    keys = [feature.name for feature in sparse_inputs(schema)]
    return ServingModel(
        network=network,
        tables=_tables(embeddings),
        deep=[_lookup(feature, keys) for feature in embeddings.deep_features],
        wide=[_lookup(feature, keys) for feature in embeddings.wide_features],
        dense_widths=head.dense_widths,
        num_sparse=len(keys),
        tasks=outputs,
    ).eval()


def sparse_inputs(schema: BatchSchema) -> Sequence[Feature]:
    """Returns the sparse features in the order of the served model's inputs."""
    return (*schema.sparse_features, *schema.weighted_features)


def serving_inputs(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Returns what the served model takes for ``batch``: dense, values, lengths, weights."""
    values, lengths, weights = [], [], []
    for ids in (batch.sparse, batch.weighted):
        if ids is not None:
            values.append(ids.values())
            lengths.append(ids.lengths())
            known = ids.weights_or_none()
            weights.append(torch.ones(len(ids.values())) if known is None else known)
    if not values:
        nothing = torch.zeros(0, dtype=torch.int64)
        return batch.dense, nothing, nothing, None
    all_weights = None if batch.weighted is None else torch.cat(weights)
    return batch.dense, torch.cat(values), torch.cat(lengths), all_weights


def save_scripted(model: nn.Module, path: Path) -> None:
    """Compiles ``model`` with TorchScript into ``path``."""
    with warnings.catch_warnings():
        # torch.export, TorchScript's successor, cannot yet express a batch of one row.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model).save(str(path))


def load_scripted(path: Path) -> nn.Module:
    """Loads a scripted model onto the CPU.

    Raises:
        ValueError: The file is missing or no scripted model.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; an export directory holds {MODEL_FILE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model: nn.Module = torch.jit.load(str(path), map_location="cpu")
            return model
    except RuntimeError as error:
        raise ValueError(f"{path} is not a readable TorchScript model") from error


def describe(schema: BatchSchema, model: TaskModel, *, step: int) -> dict[str, object]:
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


def largest_difference(model: TaskModel, served: nn.Module, batches: Iterator[Batch]) -> float:
    """Returns the largest difference between two models' outputs; NaN if one is NaN.

    Raises:
        ValueError: There is no row to compare with.
    """
    differences = [torch.zeros(1)]
    with torch.no_grad():
        for batch in batches:
            expected = predictions(model.scoring.tasks, model.model(batch))
            actual = served(*serving_inputs(batch))
            differences += [(actual[name] - expected[name]).abs().flatten() for name in expected]
    if len(differences) == 1:
        raise ValueError("there is no row to check the exported model with")
    return float(torch.cat(differences).max())


def _check_batches(config: EasyRecConfig) -> Iterator[Batch]:
    data = build_dataset(
        config,
        build_schema(config),
        input_path=config.eval_input_path or config.train_input_path,
        training=False,
        rank=0,
        world_size=1,
    )
    return islice(data.batches(0), _NUM_CHECK_BATCHES)


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
