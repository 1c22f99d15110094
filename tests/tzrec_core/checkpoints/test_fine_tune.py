"""Of another model's checkpoint is restored what fits, and what does not is said and left whole."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagConfig

from tests.distributed.ranks import run
from tests.tzrec_core.log_messages import messages
from tests.tzrec_core.small_model import TABLES, SmallModel, local_weights, whole
from tests.tzrec_core.small_training import ADAGRAD, ROWWISE, build, save, train
from tzrec_core.checkpoints.fine_tune import fine_tune, match_tensors, read_param_map
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.optim.sparse import SparseRule
from tzrec_core.optim.state import named_state

BAGS = "ebc.embedding_bags"


def local_state(optimizer) -> dict[str, Tensor]:
    """Returns the state tensors that this rank holds, as plain ones."""
    found = {}
    for name, tensor in named_state(optimizer).items():
        shards = tensor.to_local().local_shards() if hasattr(tensor, "to_local") else [tensor]
        if shards:  # a table is never split
            found[name] = shards[0].detach().clone()
    return found


def train_and_save(ranks: Ranks, folders: dict[str, Path]):
    """Saves a checkpoint for each dense optimizer; returns the weights and state of Adam's."""
    for dense, folder in folders.items():
        model, optimizer = build(ranks, ADAGRAD, dense, SmallModel())
        train(ranks, model, optimizer, 0, 24)
        save(ranks, folder, 3, model, optimizer)
    return local_weights(model), local_state(optimizer)  # Adam's are the last


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[dict[str, Path], dict[str, Tensor], dict[str, Tensor]]:
    """Checkpoints of two ranks by their dense optimizer; the weights and state of Adam's."""
    folders = {dense: tmp_path_factory.mktemp(dense) for dense in ("adagrad", "adam")}
    results = run(train_and_save, 2, folders)
    weights, state = (whole([of_rank[i] for of_rank in results]) for i in (0, 1))
    return {dense: folders[dense] / "model.ckpt-3" for dense in folders}, weights, state


class OtherModel(SmallModel):
    """Table a has more rows, table c has gone, table d is new, and so is a layer."""

    def __init__(self) -> None:
        a, b, _ = TABLES
        super().__init__((
            EmbeddingBagConfig(
                name="a", num_embeddings=6, embedding_dim=4, feature_names=a.feature_names
            ),
            b,
            EmbeddingBagConfig(name="d", num_embeddings=40, embedding_dim=8, feature_names=["fc"]),
        ))  # fmt: skip
        self.extra = nn.Linear(2, 1)


class TwoOfC(SmallModel):
    """Two tables of the shape of table c."""

    def __init__(self) -> None:
        super().__init__(tuple(
            EmbeddingBagConfig(
                name=name, num_embeddings=40, embedding_dim=8, feature_names=[f"f{name}"]
            )
            for name in ("d", "e")
        ))  # fmt: skip


class Stranger(nn.Module):
    """Nothing of the small model's names or shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.head = nn.Module()
        self.head.linear = nn.Linear(3, 3)


def tune(
    ranks: Ranks,
    path: Path,
    model_class: type[nn.Module],
    param_map: dict[str, str],
    rule: SparseRule = ADAGRAD,
    dense: str | None = "adam",
    left_aside: dict[str, str] | None = None,
):
    """Returns this rank's weights and state before and after, and what was logged or raised."""
    model, optimizer = build(ranks, rule, dense or "adam", model_class(), seed=99)
    before = local_weights(model), local_state(optimizer)
    with messages(logging.INFO) as said:
        try:
            fine_tune(
                path,
                ranks,
                model=model,
                optimizer=optimizer if dense else None,
                param_map=param_map,
                left_aside=left_aside or {},
            )
        except ValueError as error:
            said.append(str(error))
    return *before, local_weights(model), local_state(optimizer), said


def tuned(*arguments):
    """Returns what ``tune`` does, of two ranks as one."""
    results = run(tune, 2, *arguments)
    return *(whole([of_rank[i] for of_rank in results]) for i in range(4)), [
        said for *_, said in results
    ]


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], names: dict[str, str]) -> None:
    for name, theirs_name in names.items():
        assert torch.equal(ours[name], theirs[theirs_name]), name


def test_what_fits_is_restored_and_the_rest_keeps_its_initial_values(saved):
    paths, weights, state = saved

    before, state_before, after, state_after, said = tuned(paths["adam"], OtherModel, {})

    same = [f"{BAGS}.b.weight", "head.linear.weight", "head.linear.bias"]
    assert_equal(after, weights, {name: name for name in same})
    # Table a above all: not even the rows that both have.
    left = sorted(after.keys() - set(same))
    assert left == [f"{BAGS}.{table}.weight" for table in "ad"] + ["extra.bias", "extra.weight"]
    assert_equal(after, before, {name: name for name in left})

    restored = [f"sparse.{BAGS}.b.weight.b.momentum1"] + [
        f"dense.head.linear.{name}.{kind}"
        for name in ("weight", "bias")
        for kind in ("step", "exp_avg", "exp_avg_sq")
    ]
    assert_equal(state_after, state, {name: name for name in restored})
    fresh = sorted(state_after.keys() - set(restored))
    assert fresh == [f"sparse.{BAGS}.{table}.weight.{table}.momentum1" for table in "ad"]
    assert_equal(state_after, state_before, {name: name for name in fresh})

    [[block], on_rank_1] = said
    assert on_rank_1 == []
    assert block.splitlines() == [
        f"Fine-tuning from {paths['adam']}: 3 of 7 tensors restored",
        "  keep their initial values (4):",
        f"    {BAGS}.a.weight [6, 4]: the checkpoint's is [5, 4]",
        f"    {BAGS}.d.weight [40, 8]: the checkpoint has no such tensor",
        "    extra.bias [1]: the checkpoint has no such tensor",
        "    extra.weight [1, 2]: the checkpoint has no such tensor",
        "  not used (2):",
        f"    {BAGS}.a.weight [5, 4]",
        f"    {BAGS}.c.weight [40, 8]",
        "  optimizer state: 7 tensors restored",
        "  start anew (the parameter itself was not restored) (4):",
        f"    {BAGS}.a.weight",
        f"    {BAGS}.d.weight",
        "    extra.bias",
        "    extra.weight",
    ]


def test_mapped_names_are_restored_with_their_optimizer_state(saved):
    paths, weights, state = saved
    bags = {f"{BAGS}.{table}.weight": f"{BAGS}.c.weight" for table in "de"}

    *_, after, state_after, said = tuned(paths["adam"], TwoOfC, bags)

    # One table for two, wherever ranks hold them.
    assert_equal(after, weights, bags)
    theirs = f"sparse.{BAGS}.c.weight.c.momentum1"
    states = {f"sparse.{BAGS}.{table}.weight.{table}.momentum1": theirs for table in "de"}
    assert_equal(state_after, state, states)
    assert "restored from another name (2):" in said[0][0]
    assert "4 of 4 tensors restored" in said[0][0]


def test_the_state_of_another_optimizer_is_left_aside_whole(saved):
    paths, *_ = saved

    # Both Adagrad and Adam count steps: a count without its moments would be worse than none.
    *_, state_after, said = tuned(paths["adagrad"], SmallModel, {}, ROWWISE, "adam")

    assert "5 of 5 tensors restored" in said[0][0]
    assert not any(name.startswith("dense.") for name in state_after)
    assert all((sums == 0).all() for sums in state_after.values())
    assert "  optimizer state: 0 tensors restored" in said[0][0]
    assert "start anew (another optimizer's: exp_avg, exp_avg_sq, sum differ) (2):" in said[0][0]
    assert "start anew (another optimizer's: momentum1 differ) (3):" in said[0][0]


def test_state_that_is_there_from_the_start_begins_anew(saved):
    paths, _, state = saved

    _, state_before, _, state_after, _ = tuned(paths["adam"], SmallModel, {}, ADAGRAD, "adagrad")

    dense = [name for name in state_before if name.startswith("dense.")]
    assert len(dense) == 4
    assert_equal(state_after, state_before, {name: name for name in dense})
    assert_equal(state_after, state, {n: n for n in state_after if n.startswith("sparse.")})


def test_a_part_of_the_optimizer_can_be_left_aside(saved):
    paths, _, state = saved

    _, state_before, _, state_after, said = tuned(
        paths["adam"], SmallModel, {}, ADAGRAD, "adam", {"sparse": "it is of lars"}
    )

    tables = [name for name in state_before if name.startswith("sparse.")]
    assert_equal(state_after, state_before, {name: name for name in tables})
    assert_equal(state_after, state, {n: n for n in state_after if n.startswith("dense.")})
    assert "start anew (it is of lars) (3):" in said[0][0]


def test_without_the_optimizer_weights_alone_are_restored(saved):
    paths, weights, _ = saved

    _, state_before, after, state_after, said = tuned(paths["adam"], SmallModel, {}, ADAGRAD, None)

    assert_equal(after, weights, {name: name for name in weights})
    assert state_after.keys() == state_before.keys()
    assert_equal(state_after, state_before, {name: name for name in state_after})
    assert said[0][0].splitlines() == [
        f"Fine-tuning from {paths['adam']}: 5 of 5 tensors restored",
        "  optimizer state: left aside",
    ]


def test_a_checkpoint_with_nothing_for_the_model_is_refused_on_every_rank(saved):
    paths, *_ = saved

    before, _, after, _, said = tuned(paths["adam"], Stranger, {})

    assert said[0] == said[1]
    assert "has nothing for this model: " in said[0][0]
    assert "linear.weight: the checkpoint has no such tensor" in said[0][0]
    assert "head.linear.weight: the checkpoint's is [1, 19]" in said[0][0]
    assert_equal(after, before, {name: name for name in before})


def test_a_map_of_names_that_do_not_exist_is_refused(saved):
    paths, *_ = saved
    param_map = {"head.lineal.weight": "head.linear.weight", "extra.weight": f"{BAGS}.x.weight"}

    *_, said = tuned(paths["adam"], OtherModel, param_map)

    assert said[0] == said[1]
    assert (
        "head.lineal.weight is not in this model (did you mean head.linear.weight?)" in said[0][0]
    )
    assert f"{BAGS}.x.weight is not in the checkpoint (did you mean {BAGS}.c.weight?)" in said[0][0]


def test_a_mapped_name_hides_the_tensor_of_the_same_name():
    matches = match_tensors(
        {"a": (1,), "b": (2,)}, {"a": (1,), "b": (2,), "c": (1,)}, {"a": "c", "b": "a"}
    )

    assert matches.restored == {"a": "c"}
    assert matches.left == {"b": "the checkpoint's a is [1]"}
    assert matches.unused == ["a", "b"]


def test_a_param_map_has_a_pair_of_names_in_each_line(tmp_path):
    path = tmp_path / "map"
    path.write_text("new.weight\told.weight\n\n  b \t a \nc\ta\n")

    assert read_param_map(path) == {"new.weight": "old.weight", "b": "a", "c": "a"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a b\n", "line 1: must be the name in this model, a tab, .*, got 'a b'"),
        ("a\tb\nc\t\n", "line 2: must be"),
        ("\tb\n", "line 1: must be"),
        ("a\tb\tc\n", "line 1: must be"),
        ("a\tb\na\tc\n", "line 2: a was mapped before"),
        (None, "fine_tune_ckpt_param_map .*map cannot be read: .*No such file"),
    ],
)
def test_a_param_map_of_another_form_is_refused(tmp_path, text, error):
    path = tmp_path / "map"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ValueError, match=error):
        read_param_map(path)
