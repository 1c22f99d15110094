"""Checkpoints continue a training on any number of ranks, whole or not at all."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagConfig

from tests.distributed.ranks import RankError, run
from tests.tzrec_core.small_model import TABLES, Rows, SmallModel, local_weights, whole
from tzrec_core import checkpoint
from tzrec_core.distributed import Ranks, agree, shard, train_pipeline
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import (
    SparseRule,
    adagrad,
    apply_sparse_optimizer,
    rowwise_adagrad,
    sgd,
)
from tzrec_core.protos import optimizer_pb2

ADAGRAD = adagrad(lr=0.5, gradient_clipping=False, max_gradient=1.0, initial_accumulator_value=0.1)
ROWWISE = rowwise_adagrad(lr=0.5, gradient_clipping=False, max_gradient=1.0)
SGD = sgd(lr=0.5, gradient_clipping=False, max_gradient=1.0)
DENSE = {
    "adam": optimizer_pb2.DenseOptimizer(adam_optimizer=optimizer_pb2.AdamOptimizer(lr=0.1)),
    "adamw": optimizer_pb2.DenseOptimizer(
        adamw_optimizer=optimizer_pb2.AdamWOptimizer(lr=0.1, weight_decay=0.5, amsgrad=True)
    ),
    "momentum": optimizer_pb2.DenseOptimizer(
        sgd_optimizer=optimizer_pb2.SGDOptimizer(lr=0.3, momentum=0.9, weight_decay=0.1)
    ),
    "adagrad": optimizer_pb2.DenseOptimizer(
        adagrad_optimizer=optimizer_pb2.AdagradOptimizer(lr=0.1, initial_accumulator_value=0.2)
    ),
    "plain": optimizer_pb2.DenseOptimizer(
        sgd_optimizer=optimizer_pb2.SGDOptimizer(lr=0.3, momentum=0.0)
    ),
}


def build(ranks: Ranks, rule: SparseRule, dense: str, model: nn.Module, seed: int = 1):
    torch.manual_seed(seed)
    apply_sparse_optimizer(model, rule)
    sharded = shard(model, ranks, batch_size=8, seed=seed)
    return sharded, build_optimizer(DENSE[dense], sharded, rule)


def train(ranks: Ranks, model, optimizer, first: int, last: int) -> None:
    """Trains on rows first .. last, 8 a step, each rank on its share of every 8."""
    rows = Rows(48)
    share = 8 // ranks.world_size
    starts = [start + ranks.rank * share for start in range(first, last, 8)]
    batches = agree(
        iter([rows.batch(start, start + share) for start in starts]),
        ranks,
        loss_weight="w",
        drop_remainder=False,
        empty=rows.batch(0, 0),
    )
    pipeline = train_pipeline(model, optimizer, ranks)
    for _ in starts:
        pipeline.progress(batches)


def save(ranks: Ranks, model_dir: Path, step: int, model, optimizer, **changes) -> Path:
    position = {"epoch": 0, "consumed": {}, "state": {}, **changes}
    return checkpoint.save(model_dir, step, ranks, model=model, optimizer=optimizer, **position)


def train_and_save(
    ranks: Ranks, model_dir: Path, rule: SparseRule, dense: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns this rank's weights in the checkpoint of step 3 and three steps later."""
    model, optimizer = build(ranks, rule, dense, SmallModel())
    train(ranks, model, optimizer, 0, 24)
    save(
        ranks, model_dir, 3, model, optimizer,
        epoch=2, consumed={0: 5, 1 + ranks.rank: 7}, state={"note": [1, "two"]},
    )  # fmt: skip
    saved = local_weights(model)
    train(ranks, model, optimizer, 24, 48)
    return saved, local_weights(model)


def restore_and_train(ranks: Ranks, path: Path, rule: SparseRule, dense: str, with_optimizer: bool):
    """Returns the position, and this rank's weights as restored and three steps later."""
    model, optimizer = build(ranks, rule, dense, SmallModel(), seed=99)
    restored_optimizer = optimizer if with_optimizer else None
    position = checkpoint.restore(path, ranks, model=model, optimizer=restored_optimizer)
    restored = local_weights(model)
    train(ranks, model, optimizer, 24, 48)
    return position, restored, local_weights(model)


@pytest.mark.parametrize(
    ("from_ranks", "to_ranks", "rule", "dense"),
    [
        (1, 1, ADAGRAD, "adam"),
        (2, 2, ROWWISE, "momentum"),
        (1, 2, ROWWISE, "adam"),
        (2, 1, ADAGRAD, "adamw"),
        (1, 2, ADAGRAD, "adagrad"),
        (2, 1, SGD, "plain"),
    ],
)
def test_a_restored_training_goes_on_as_if_it_had_not_stopped(
    tmp_path, from_ranks, to_ranks, rule, dense
):
    saving = run(train_and_save, from_ranks, tmp_path, rule, dense)
    path = checkpoint.latest(tmp_path)
    restoring = run(restore_and_train, to_ranks, path, rule, dense, True)

    saved, expected = (whole([of_rank[i] for of_rank in saving]) for i in (0, 1))
    restored, trained = (whole([of_rank[i] for of_rank in restoring]) for i in (1, 2))
    assert restored.keys() == saved.keys()
    for name in saved:
        assert torch.equal(restored[name], saved[name]), name
        assert not torch.equal(expected[name], saved[name]), name
        if from_ranks == to_ranks:
            assert torch.equal(trained[name], expected[name]), name
        else:
            torch.testing.assert_close(trained[name], expected[name], rtol=1e-5, atol=1e-6)
    consumed = {0: 5, 1: 7} if from_ranks == 1 else {0: 5, 1: 7, 2: 7}
    for position, _, _ in restoring:
        assert position == checkpoint.Position(3, 2, consumed, {"note": [1, "two"]})


@pytest.fixture(scope="module")
def saved_by_two(tmp_path_factory) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint of two ranks, its weights, and those three steps later."""
    model_dir = tmp_path_factory.mktemp("model_dir")
    results = run(train_and_save, 2, model_dir, ADAGRAD, "adam")
    saved, later = (whole([of_rank[i] for of_rank in results]) for i in (0, 1))
    return model_dir / "model.ckpt-3", saved, later


def copied(path: Path, tmp_path: Path) -> Path:
    """Returns a copy of the checkpoint for a test to damage."""
    copy = tmp_path / path.name
    for file in path.rglob("*"):
        if file.is_file():
            target = copy / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return copy


def test_the_folder_holds_tensors_and_json_and_nothing_hidden_stays(saved_by_two):
    path, _, _ = saved_by_two

    assert [entry.name for entry in path.parent.iterdir()] == ["model.ckpt-3"]
    assert {entry.name for entry in path.iterdir()} == {
        "model", "optimizer", "plan", "dataloader_state.json", "state.json"
    }  # fmt: skip
    plan = json.loads((path / "plan").read_text())
    assert plan.keys() == {"ebc"}
    assert plan["ebc"].keys() == {table.name for table in TABLES}
    for table in plan["ebc"].values():
        assert table["sharding_type"] == "table_wise"
        assert table["compute_kernel"] == "fused"
        assert table["ranks"] in ([0], [1])


def test_without_the_optimizer_only_weights_are_restored(saved_by_two):
    path, saved, later = saved_by_two

    ((_, restored, trained),) = run(restore_and_train, 1, path, ADAGRAD, "adam", False)

    for name in saved:
        assert torch.equal(restored[name], saved[name]), name
        assert not torch.allclose(trained[name], later[name], atol=1e-4), name


def test_an_unsharded_module_gets_the_weights_without_a_process_group(saved_by_two):
    path, saved, _ = saved_by_two
    module = SmallModel().to_empty(device="cpu")

    checkpoint.load_unsharded(path, module)

    assert module.state_dict().keys() == saved.keys()
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, saved[name]), name


# checkpoints that are not this model's


class OtherModel(SmallModel):
    """Table a has more rows, table c has gone, table d is new, and so is a bias."""

    def __init__(self) -> None:
        a, b, _ = TABLES
        super().__init__((
            EmbeddingBagConfig(
                name="a", num_embeddings=6, embedding_dim=4, feature_names=a.feature_names
            ),
            b,
            EmbeddingBagConfig(
                name="d", num_embeddings=40, embedding_dim=8, feature_names=["fc"]
            ),
        ))  # fmt: skip
        self.extra = nn.Parameter(torch.zeros(2))


def failing_restore(ranks: Ranks, path: Path, other: bool, dense: str) -> tuple[str, bool]:
    """Returns the error's message, and whether the weights are as they were."""
    model, optimizer = build(ranks, ADAGRAD, dense, OtherModel() if other else SmallModel())
    before = local_weights(model)
    with pytest.raises(ValueError, match="checkpoint") as caught:
        checkpoint.restore(path, ranks, model=model, optimizer=optimizer)
    after = local_weights(model)
    return str(caught.value), all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_of_another_model_is_refused_with_every_difference(saved_by_two):
    path, _, _ = saved_by_two

    (message, unchanged), on_rank_1 = run(failing_restore, 2, path, True, "adam")

    assert on_rank_1 == (message, True)
    assert unchanged
    assert str(path) in message
    for difference in (
        "extra [2] is missing",
        "ebc.embedding_bags.d.weight [40, 8] is missing",
        "ebc.embedding_bags.c.weight [40, 8] is not in this model",
        "ebc.embedding_bags.a.weight is [5, 4], here [6, 4]",
    ):
        assert difference in message
    assert "embedding_bags.b.weight" not in message


def test_the_state_of_another_optimizer_is_refused_before_weights_change(saved_by_two):
    path, _, _ = saved_by_two

    ((message, unchanged), _) = run(failing_restore, 2, path, False, "momentum")

    assert "of another optimizer" in message
    assert "dense.head.linear.weight.momentum_buffer [1, 19] is missing" in message
    assert "dense.head.linear.weight.exp_avg [1, 19] is not in this optimizer" in message
    assert unchanged


def test_an_unsharded_module_of_another_model_is_refused(saved_by_two):
    path, _, _ = saved_by_two
    module = OtherModel().to_empty(device="cpu")

    with pytest.raises(ValueError, match=r"of another model: .*extra \[2\] is missing"):
        checkpoint.load_unsharded(path, module)


# damaged checkpoints


def load(path: Path) -> None:
    checkpoint.load_unsharded(path, SmallModel().to_empty(device="cpu"))


def test_a_truncated_file_is_an_error_that_names_it(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    for file in (path / "model").glob("*.distcp"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    with pytest.raises(ValueError, match=f"cannot read {path}/model"):
        load(path)


def test_a_truncated_file_is_an_error_on_every_rank(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    file = path / "model" / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:100])

    with pytest.raises(RankError, match=f"ValueError: cannot read {path}/model"):
        run(restore_and_train, 2, path, ADAGRAD, "adam", True, timeout=60)


@pytest.mark.parametrize("damage", ["missing", "empty", "noise"])
def test_a_damaged_index_is_an_error_that_names_it(saved_by_two, tmp_path, damage):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    if damage == "missing":
        index.unlink()
    else:
        index.write_bytes(b"" if damage == "empty" else os.urandom(200))

    with pytest.raises(ValueError, match=f"cannot read {index}"):
        load(path)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


def test_an_index_that_carries_code_is_refused_and_not_run(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    index.write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))

    with pytest.raises(ValueError, match=r"cannot read .*it refers to \w+.mkdir"):
        load(path)

    assert not (tmp_path / "attacked").exists()


def test_objects_that_are_not_tensors_are_refused(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    metadata = pickle.loads(index.read_bytes())
    entry = torch.distributed.checkpoint.metadata.BytesStorageMetadata()
    metadata.state_dict_metadata["head.linear.bias"] = entry
    index.write_bytes(pickle.dumps(metadata))

    with pytest.raises(ValueError, match=r"head\.linear\.bias is not a tensor"):
        load(path)


@pytest.mark.parametrize("name", ["state.json", "dataloader_state.json"])
@pytest.mark.parametrize("content", [None, "", "[1]", '{"epoch": 1, "consumed": [], "step": 3}'])
def test_a_damaged_position_is_an_error(saved_by_two, tmp_path, name, content):
    path = copied(saved_by_two[0], tmp_path)
    (path / name).unlink()
    if content is not None:
        (path / name).write_text(content)

    with pytest.raises(ValueError, match=f"checkpoint {path} is damaged"):
        checkpoint.read_position(path)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        load(tmp_path / "model.ckpt-7")


# what is on disk


def save_often(ranks: Ranks, model_dir: Path) -> list[bool]:
    model, optimizer = build(ranks, ADAGRAD, "adam", SmallModel())
    train(ranks, model, optimizer, 0, 8)
    with pytest.raises(TypeError):  # on every rank, though rank 0 alone writes JSON
        save(ranks, model_dir, 1, model, optimizer, state={"not JSON": object()})
    left = [bool(list(model_dir.glob(".*"))), checkpoint.steps(model_dir) == []]
    save(ranks, model_dir, 2, model, optimizer, state={"attempt": 1})
    save(ranks, model_dir, 2, model, optimizer, state={"attempt": 2})
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        save(ranks, model_dir / "model.ckpt-2" / "state.json", 3, model, optimizer)
    return left


def test_a_failed_save_is_no_checkpoint_and_a_repeated_one_replaces_it(tmp_path):
    assert run(save_often, 2, tmp_path) == [[True, True]] * 2

    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt-2"]
    assert checkpoint.read_position(tmp_path / "model.ckpt-2").state == {"attempt": 2}


class WithUnusedParameter(SmallModel):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(1, 1)


def save_with_unused_parameter(ranks: Ranks, model_dir: Path) -> None:
    model, optimizer = build(ranks, ADAGRAD, "adam", WithUnusedParameter())
    train(ranks, model, optimizer, 0, 8)
    save(ranks, model_dir, 1, model, optimizer)


def test_a_parameter_without_gradient_is_found_when_saving_and_not_when_restoring(tmp_path):
    with pytest.raises(RankError, match=r"never uses these parameters.*forgotten\.weight"):
        run(save_with_unused_parameter, 1, tmp_path)


def folders(model_dir: Path, *names: str) -> None:
    for name in names:
        (model_dir / name).mkdir()


def test_steps_are_ordered_as_numbers_and_other_folders_are_none(tmp_path):
    folders(tmp_path, "model.ckpt-9", "model.ckpt-100", "eval_val", ".model.ckpt-200.incomplete")
    folders(tmp_path, "model.ckpt-7x", "old.model.ckpt-300")
    (tmp_path / "model.ckpt-400").write_text("not a folder")

    assert checkpoint.steps(tmp_path) == [9, 100]
    assert checkpoint.latest(tmp_path) == tmp_path / "model.ckpt-100"


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.steps(tmp_path) == checkpoint.steps(tmp_path / "missing") == []
    assert checkpoint.latest(tmp_path) is None
    with pytest.raises(ValueError, match="is no checkpoint and holds none"):
        checkpoint.resolve(tmp_path)


def test_a_checkpoint_or_the_latest_in_a_folder_is_resolved(saved_by_two):
    path, _, _ = saved_by_two

    assert checkpoint.resolve(path) == path
    assert checkpoint.resolve(path.parent) == path


@pytest.mark.parametrize(
    ("keep", "protect", "left"),
    [
        (0, set(), [1, 2, 3, 10]),
        (1, set(), [10]),
        (2, {1}, [1, 3, 10]),
        (9, set(), [1, 2, 3, 10]),
    ],
)
def test_the_newest_and_the_protected_stay(tmp_path, keep, protect, left):
    folders(tmp_path, *(f"model.ckpt-{step}" for step in (10, 2, 1, 3)))

    checkpoint.prune(tmp_path, keep=keep, protect=protect)

    assert checkpoint.steps(tmp_path) == left
    assert len(list(tmp_path.iterdir())) == len(left)
