"""Checkpoints continue a training on any number of ranks, whole or not at all."""

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
import xxhash
from torch import Tensor, nn
from torchrec import EmbeddingBagConfig

from tests.distributed.ranks import RankError, run
from tests.tzrec_core.log_messages import messages
from tests.tzrec_core.small_model import TABLES, SmallModel, local_weights, whole
from tests.tzrec_core.small_training import ADAGRAD, ROWWISE, SGD, build, save, train
from tzrec_core.checkpoints import checkpoint, manifest, restoring
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.optim.sparse import SparseRule


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
    position = restoring.restore(path, ranks, model=model, optimizer=restored_optimizer)
    restored = local_weights(model)
    train(ranks, model, optimizer, 24, 48)
    return position, restored, local_weights(model)


@pytest.mark.parametrize(
    ("from_ranks", "to_ranks", "rule", "dense"),
    [
        (1, 1, ADAGRAD, "adam"),
        (2, 2, ADAGRAD, "fused"),
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
    continued = run(restore_and_train, to_ranks, path, rule, dense, True)

    saved, expected = (whole([of_rank[i] for of_rank in saving]) for i in (0, 1))
    restored, trained = (whole([of_rank[i] for of_rank in continued]) for i in (1, 2))
    assert restored.keys() == saved.keys()
    for name in saved:
        assert torch.equal(restored[name], saved[name]), name
        assert not torch.equal(expected[name], saved[name]), name
        if from_ranks == to_ranks:
            assert torch.equal(trained[name], expected[name]), name
        else:
            torch.testing.assert_close(trained[name], expected[name], rtol=1e-5, atol=1e-6)
    consumed = {0: 5, 1: 7} if from_ranks == 1 else {0: 5, 1: 7, 2: 7}
    for position, _, _ in continued:
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

    assert {entry.name for entry in path.parent.iterdir()} == {"model.ckpt-3", "latest"}
    assert (path.parent / "latest").read_text() == "model.ckpt-3\n"
    assert {entry.name for entry in path.iterdir()} == {
        "model", "optimizer", "plan", "dataloader_state.json", "state.json", "manifest.json"
    }  # fmt: skip
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert json.loads((path / "manifest.json").read_text()).keys() == files - {"manifest.json"}
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

    restoring.load_unsharded(path, module)

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
        restoring.restore(path, ranks, model=model, optimizer=optimizer)
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
        restoring.load_unsharded(path, module)


# damaged checkpoints


def load(path: Path) -> None:
    restoring.load_unsharded(path, SmallModel().to_empty(device="cpu"))


def damage(path: Path, name: str, how: str) -> str:
    """Damages a file of a checkpoint; returns what is to be said of it."""
    file = path / name
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
        return f"{name} is missing"
    if how == "truncated":
        file.write_bytes(content[: len(content) // 2])
        return f"{name} has {len(content) // 2} bytes, not {len(content)}"
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    return f"{name} has another content"


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
def test_a_damaged_file_is_an_error_that_names_it(saved_by_two, tmp_path, how):
    files = [file for file in saved_by_two[0].rglob("*") if file.is_file()]
    names = [str(file.relative_to(saved_by_two[0])) for file in files]
    assert len(names) == 10  # of each part an index and a file of each rank, and four of JSON

    for number, name in enumerate(sorted(set(names) - {"manifest.json"})):
        path = copied(saved_by_two[0], tmp_path / str(number))
        problem = damage(path, name, how)
        with pytest.raises(ValueError, match="damaged") as caught:
            load(path)
        assert str(caught.value) == f"checkpoint {path} is damaged: {problem}"


def test_a_file_that_nobody_has_written_down_does_not_matter(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    (path / "notes.txt").write_text("the good one")

    load(path)


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"plan": {"bytes": 1}}'])
def test_a_checkpoint_without_a_sound_manifest_is_damaged(saved_by_two, tmp_path, content):
    path = copied(saved_by_two[0], tmp_path)
    (path / "manifest.json").unlink()
    if content is not None:
        (path / "manifest.json").write_text(content)

    with pytest.raises(ValueError, match=f"checkpoint {path} is damaged: manifest.json "):
        load(path)


def test_a_damaged_file_is_the_same_error_on_every_rank(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    problems = [damage(path, f"model/__{rank}_0.distcp", "truncated") for rank in (0, 1)]

    (message, unchanged), on_rank_1 = run(failing_restore, 2, path, False, "adam")

    assert message == f"checkpoint {path} is damaged: {'; '.join(problems)}"
    assert unchanged
    assert on_rank_1 == (message, True)


def find_intact(ranks: Ranks, model_dir: Path) -> tuple[Path | str | None, list[str]]:
    """Returns the checkpoint to go on from, or the error, and this rank's warnings."""
    with messages(logging.WARNING) as warnings:
        try:
            return checkpoint.latest_intact(model_dir, ranks), warnings
        except ValueError as error:
            return str(error), warnings


def find_intact_in_all(ranks: Ranks, model_dirs: list[Path]):
    return [find_intact(ranks, model_dir) for model_dir in model_dirs]


def test_the_newest_intact_checkpoint_is_found_and_damaged_ones_are_named(saved_by_two, tmp_path):
    good, some, bad, none = (tmp_path / name for name in ("good", "some", "bad", "none"))
    problems = {}
    for folder in (good, some, bad):
        for step in (9, 10, 11):
            copied(saved_by_two[0], folder / "copy").rename(folder / f"model.ckpt-{step}")
    for step in (10, 11):
        problems[step] = damage(some / f"model.ckpt-{step}", "optimizer/__1_0.distcp", "altered")
    for step in (9, 10, 11):
        damage(bad / f"model.ckpt-{step}", "plan", "missing")
    (some / "latest").write_text("model.ckpt-11\n")  # nothing follows it
    (some / "model.ckpt-11.damaged").mkdir()  # an older one

    of_rank_0, of_rank_1 = run(find_intact_in_all, 2, [good, some, bad, none])

    assert [found for found, _ in of_rank_0] == [found for found, _ in of_rank_1]
    (in_good, no_warning), (in_some, [warning]), (in_bad, _), (in_none, _) = of_rank_0
    assert in_good == good / "model.ckpt-11"
    assert no_warning == []
    assert in_some == some / "model.ckpt-9"
    for step in (10, 11):
        assert f"model.ckpt-{step}: {problems[step]}" in warning
    assert "Going on from model.ckpt-9" in warning
    assert checkpoint.steps(some) == [9]
    assert (some / "model.ckpt-11.damaged" / "plan").exists()
    assert "is intact (model.ckpt-11: plan is missing; model.ckpt-10: plan is missing" in in_bad
    assert checkpoint.steps(bad) == [9, 10, 11]
    assert in_none is None
    assert all(warnings == [] for _, warnings in of_rank_1)


def sign(path: Path) -> None:
    """Writes a manifest for the files as they are, as whoever has altered them can."""
    files = {}
    for file in path.rglob("*"):
        if file.is_file() and file.name != manifest.FILE:
            content = file.read_bytes()
            digest = xxhash.xxh3_128(content).hexdigest()
            files[str(file.relative_to(path))] = manifest.FileRecord(len(content), digest)
    manifest.write(path, files)


@pytest.mark.parametrize("damage", ["missing", "empty", "noise"])
def test_a_useless_index_is_an_error_that_names_it(saved_by_two, tmp_path, damage):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    if damage == "missing":
        index.unlink()
    else:
        index.write_bytes(b"" if damage == "empty" else os.urandom(200))
    sign(path)

    with pytest.raises(ValueError, match=f"cannot read {index}"):
        load(path)


def test_useless_tensors_are_an_error_on_every_rank(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    (path / "model" / "__0_0.distcp").write_bytes(os.urandom(100))
    sign(path)

    with pytest.raises(RankError, match=f"ValueError: cannot read {path}/model"):
        run(restore_and_train, 2, path, ADAGRAD, "adam", True, timeout=60)


def test_a_useless_plan_is_an_error_that_names_it(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    (path / "plan").write_text('{"ebc": {"c": []}}')
    sign(path)

    [(message, unchanged)] = run(failing_restore, 1, path, False, "adam")

    assert message.startswith(f"checkpoint {path} is damaged: plan: ")
    assert unchanged


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


def test_an_index_that_carries_code_is_refused_and_not_run(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    index.write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    sign(path)

    with pytest.raises(ValueError, match=r"cannot read .*it refers to \w+.mkdir"):
        load(path)

    assert not (tmp_path / "attacked").exists()


def test_an_index_of_an_older_python_is_read(saved_by_two, tmp_path, monkeypatch):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    metadata = pickle.loads(index.read_bytes())
    monkeypatch.setattr(  # as Enum does before Python 3.11.4
        torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING,
        "__reduce_ex__",
        lambda member, _: (getattr, (type(member), member.name)),
    )
    index.write_bytes(pickle.dumps(metadata))
    assert b"getattr" in index.read_bytes()
    sign(path)

    load(path)


class Attribute:
    def __init__(self, of: object, name: str) -> None:
        self.of, self.name = of, name

    def __reduce__(self):
        return (getattr, (self.of, self.name))


@pytest.mark.parametrize("name", ["__subclasses__", "no_member"])
def test_an_index_reaches_members_of_enumerations_only(saved_by_two, tmp_path, name):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    of = torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING
    index.write_bytes(pickle.dumps(Attribute(of, name)))
    sign(path)

    with pytest.raises(ValueError, match=rf"cannot read .*it refers to '{name}' of"):
        load(path)


def test_objects_that_are_not_tensors_are_refused(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    metadata = pickle.loads(index.read_bytes())
    entry = torch.distributed.checkpoint.metadata.BytesStorageMetadata()
    metadata.state_dict_metadata["head.linear.bias"] = entry
    index.write_bytes(pickle.dumps(metadata))
    sign(path)

    with pytest.raises(ValueError, match=r"head\.linear\.bias is not a tensor"):
        load(path)


def test_an_index_of_files_elsewhere_is_refused(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    index = path / "model" / ".metadata"
    metadata = pickle.loads(index.read_bytes())
    next(iter(metadata.storage_data.values())).relative_path = "../../elsewhere"
    index.write_bytes(pickle.dumps(metadata))
    sign(path)

    with pytest.raises(
        ValueError, match=r"cannot read .*\.\./\.\./elsewhere is not a file beside it"
    ):
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


def test_a_damaged_checkpoint_is_not_replaced_by_another_when_it_was_named(saved_by_two, tmp_path):
    path = copied(saved_by_two[0], tmp_path)
    for name in ("state.json", "manifest.json"):
        (path / name).unlink()

    assert checkpoint.resolve(path) == path


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
