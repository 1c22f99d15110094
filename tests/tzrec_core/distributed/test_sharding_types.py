"""However tables are split, the same model is trained, and checkpoints move between plans."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tests.distributed.ranks import run
from tests.tzrec_core.config_sample import sample
from tests.tzrec_core.small_model import Rows, SmallModel, weight_of
from tests.tzrec_core.small_training import DENSE, save
from tzrec_core.assembly import assemble
from tzrec_core.checkpoints import restoring
from tzrec_core.config import edit
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.ranks import Ranks, process_group
from tzrec_core.distributed.sharding import shard
from tzrec_core.distributed.table_plan import TableConstraint
from tzrec_core.distributed.train_pipeline import train_pipeline
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import (
    ADAM,
    SparseRule,
    adagrad,
    apply_sparse_optimizer,
    kernel_for,
    rowwise_adagrad,
    sgd,
    with_moments,
)
from tzrec_core.optim.state import named_state

TABLE = "ebc.embedding_bags.c.weight"
COMMON = {"lr": 0.1, "gradient_clipping": False, "max_gradient": 1.0}
RULES = {
    "sgd": sgd(**COMMON),
    "adagrad": adagrad(**COMMON, initial_accumulator_value=0.1),
    "rowwise_adagrad": rowwise_adagrad(**COMMON),
    "adam": with_moments(
        ADAM, **COMMON, beta1=0.9, beta2=0.99, weight_decay=0.01, device_type="cpu"
    ),
}
# Table a is 5 x 4, b 9 x 4 with the mean of embeddings, and c 40 x 8.
PLANS = {
    "table_wise": {"fa": "table_wise", "fb": "table_wise", "fc": "table_wise"},
    "row_wise": {"fa": "row_wise", "fb": "row_wise", "fc": "row_wise"},
    "table_row_wise": {"fa": "table_row_wise", "fb": "table_row_wise", "fc": "table_row_wise"},
    "column_wise": {"fa": "table_wise", "fb": "row_wise", "fc": "column_wise"},
}
ROW_PLANS = ["table_wise", "row_wise", "table_row_wise"]
# A checkpoint goes from each plan to the next. A mean over a row needs the whole row.
CHAINS = {name: ROW_PLANS if name == "rowwise_adagrad" else list(PLANS) for name in RULES}
# The rows of each step by rank: rank 1 has fewer each time, and none in the last.
SHARES = {
    1: [[(0, 8), (8, 16), (16, 24)]],
    2: [[(0, 2), (8, 15), (16, 24)], [(2, 8), (15, 16), (0, 0)]],
}

Parts = list[tuple[str, int, int, Tensor]]


def build(ranks: Ranks, rule: SparseRule, plan: str, *, seed: int = 1, kernel: str = "fused"):
    torch.manual_seed(seed)
    model = SmallModel()
    apply_sparse_optimizer(model, rule)
    constraints = {
        feature: TableConstraint((kind,), (kernel,)) for feature, kind in PLANS[plan].items()
    }
    with kernel_for(rule):
        sharded = shard(model, ranks, batch_size=8, seed=seed, constraints=constraints)
    kinds = {sharding.sharding_type for sharding in sharded.plan.plan["ebc"].values()}
    assert kinds == set(PLANS[plan].values())
    return sharded, build_optimizer(DENSE["momentum"], sharded, rule)


def train(ranks: Ranks, model, optimizer, first: int, last: int, *, overlap: bool = False) -> None:
    """Takes steps ``first`` to ``last``; with the pipeline of a GPU if they ``overlap``."""
    rows = Rows(24)
    batches = agree(
        iter([rows.batch(*share) for share in SHARES[ranks.world_size][ranks.rank][first:last]]),
        ranks,
        weigh=weight_of,
        drop_remainder=False,
        empty=rows.batch(0, 0),
    )
    pipeline = train_pipeline(model, optimizer, ranks)
    if overlap:
        pipeline = TrainPipelineSparseDist(model, optimizer, ranks.device)
    for _ in range(first, last):
        pipeline.progress(batches)


def parts(model, optimizer) -> Parts:
    """Returns what this rank has: name, first row and first column in the whole, and the part."""
    found = []
    for name, tensor in (*model.state_dict().items(), *named_state(optimizer).items()):
        if not isinstance(tensor, DTensor):
            found.append((name, 0, 0, tensor.detach().clone()))
            continue
        local = tensor.to_local()
        for offsets, part in zip(local.local_offsets(), local.local_shards(), strict=False):
            if part.numel():
                found.append((name, *(*offsets, 0)[:2], part.clone()))
    return found


def whole(of_ranks: list[Parts]) -> dict[str, Tensor]:
    """Returns the whole tensors from the parts of all ranks."""
    found: dict[str, list[tuple[int, int, Tensor]]] = {}
    for name, row, column, part in (item for of_rank in of_ranks for item in of_rank):
        found.setdefault(name, []).append((row, column, part))
    tensors = {}
    for name, pieces in found.items():
        if pieces[0][2].dim() == 0:
            tensors[name] = pieces[0][2]
            continue
        num_rows = max(row + part.shape[0] for row, _, part in pieces)
        width = max(column + part[0].numel() for _, column, part in pieces)
        tensors[name] = torch.full((num_rows, width), torch.nan)
        for row, column, part in pieces:
            part = part.view(len(part), -1)
            tensors[name][row : row + len(part), column : column + part.shape[1]] = part
    return tensors


def train_under_changing_plans(ranks: Ranks, folder: Path) -> dict[tuple[str, str], list[Parts]]:
    """Returns, by optimizer and the second of two plans, what each rank has at three points.

    They are before the first step, and before and after the last step, which is taken under the
    second plan from a checkpoint of the first.
    """
    found = {}
    for name, rule in RULES.items():
        for plan, other in pairwise([*CHAINS[name], CHAINS[name][0]]):
            model, optimizer = build(ranks, rule, plan)
            start = parts(model, optimizer)
            train(ranks, model, optimizer, 0, 2, overlap=name == "sgd")
            path = save(ranks, folder / name / plan, 2, model, optimizer)
            model, optimizer = build(ranks, rule, other, seed=2)
            restoring.restore(path, ranks, model=model, optimizer=optimizer)
            restored = parts(model, optimizer)
            train(ranks, model, optimizer, 2, 3)
            found[name, other] = [start, restored, parts(model, optimizer)]
    return found


def train_whole_tables(ranks: Ranks, folder: Path) -> dict[str, list[dict[str, Tensor]]]:
    """Returns, by optimizer, the same of one rank; and the last from two ranks' row shards."""
    found = {}
    for name, rule in RULES.items():
        model, optimizer = build(ranks, rule, "table_wise")
        points = [whole([parts(model, optimizer)])]
        train(ranks, model, optimizer, 0, 2)
        points.append(whole([parts(model, optimizer)]))
        train(ranks, model, optimizer, 2, 3)
        points.append(whole([parts(model, optimizer)]))
        model, optimizer = build(ranks, rule, "table_wise", seed=2)
        path = folder / name / "row_wise" / "model.ckpt-2"
        restoring.restore(path, ranks, model=model, optimizer=optimizer)
        train(ranks, model, optimizer, 2, 3)
        found[name] = [*points, whole([parts(model, optimizer)])]
    return found


def test_every_plan_trains_the_same_model_also_from_a_checkpoint_of_another(tmp_path):
    of_ranks = run(train_under_changing_plans, 2, tmp_path)
    [alone] = run(train_whole_tables, 1, tmp_path)

    for name in RULES:
        start, before, after, continued = alone[name]
        close(continued, after)
        assert not torch.equal(after[TABLE], before[TABLE])
        for plan in CHAINS[name]:
            points = zip(*(found[name, plan] for found in of_ranks), strict=True)
            [start_here, restored, after_here] = map(whole, points)
            for key, weight in start.items():
                if ".embedding_bags." in key and key.endswith("weight"):
                    assert torch.equal(start_here[key], weight), f"{plan}: {key}"
            close(restored, before)
            close(after_here, after)


def close(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


MANY = 60_000  # rows of 20 weights: more than are initialised at a time


class Weighted(nn.Module):
    """Tables of weighted ids, of which one is too small for each rank to have a row."""

    def __init__(self) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(
                name=name, num_embeddings=num_rows, embedding_dim=dim, feature_names=[f"f{name}"]
            )
            for name, num_rows, dim in (("one", 1, 4), ("few", 7, 12), ("many", MANY, 20))
        ]
        self.ebc = EmbeddingBagCollection(tables, is_weighted=True, device=torch.device("meta"))
        self.linear = nn.Linear(36, 1)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        embeddings = self.ebc(ids).to_dict()
        return self.linear(torch.cat([embeddings[name] for name in sorted(embeddings)], dim=1))


def weighted_ids(rank: int) -> KeyedJaggedTensor:
    generator = torch.Generator().manual_seed(rank)
    lengths = torch.tensor([1, 0, 2, 2, 1, 3, 0, 2, 2][: 9 - 3 * rank], dtype=torch.int32)
    num_ids = lengths.view(3, -1).sum(dim=1)
    ids = [
        torch.randint(num_rows, (int(number),), generator=generator)
        for num_rows, number in zip((1, 7, MANY), num_ids, strict=True)
    ]
    weights = torch.rand(int(lengths.sum()), generator=generator)
    return KeyedJaggedTensor(["fone", "ffew", "fmany"], torch.cat(ids), weights, lengths)


def train_weighted(ranks: Ranks, folder: Path) -> list[tuple[Tensor, Parts]]:
    """Returns what this rank has after a step, and the logits then, for each type of sharding.

    It is trained by the type, or restored from a checkpoint of the type before.
    """
    found, path = [], None
    for kind in ("table_wise", "row_wise", "column_wise", "table_wise"):
        for source in (None, path):
            torch.manual_seed(0)
            model = Weighted()
            apply_sparse_optimizer(model, RULES["adagrad"])
            constraint = TableConstraint((kind,), ("fused",))
            constraints = dict.fromkeys(["fone", "ffew", "fmany"], constraint)
            model = shard(model, ranks, batch_size=3, seed=1, constraints=constraints)
            optimizer = build_optimizer(DENSE["plain"], model, RULES["adagrad"])
            if source is None:
                model(weighted_ids(ranks.rank)).sum().backward()
                optimizer.step()
                path = save(ranks, folder / str(len(found)), 1, model, optimizer)
            else:
                restoring.restore(source, ranks, model=model, optimizer=optimizer)
            logits = model(weighted_ids(ranks.rank)).detach().clone()
            found.append((logits, parts(model, optimizer)))
    return found


def test_tables_of_weighted_ids_that_are_smaller_than_the_ranks_are_many(tmp_path):
    of_rank_0, of_rank_1 = run(train_weighted, 2, tmp_path)

    expected = whole([of_rank_0[0][1], of_rank_1[0][1]])
    for of_ranks in zip(of_rank_0, of_rank_1, strict=True):
        close(whole([has for _, has in of_ranks]), expected)
        for (logits, _), (same, _) in zip(of_ranks, (of_rank_0[0], of_rank_1[0]), strict=True):
            torch.testing.assert_close(logits, same)


def kinds_of_config(ranks: Ranks, edits: dict[str, object]) -> dict[str, str]:
    config = sample()
    edit(config, edits)
    plans = assemble(config, ranks).model.plan.plan
    return {
        table: sharding.sharding_type for plan in plans.values() for table, sharding in plan.items()
    }


def test_the_config_says_how_tables_are_sharded():
    edits = {
        "train_config.global_embedding_constraints.sharding_types": ["row_wise"],
        "feature_configs[2].id_feature.embedding_constraints.sharding_types": ["column_wise"],
    }
    expected = dict.fromkeys(["user_id_emb", "brand_emb", "age_emb"], "row_wise")

    assert run(kinds_of_config, 2, edits) == [{**expected, "category_emb": "column_wise"}] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tables_in_host_memory_are_trained_and_saved_like_those_of_the_gpu(tmp_path):
    results = {}
    with process_group() as ranks:
        for kernel in ("fused", "fused_uvm", "fused_uvm_caching"):
            for step in (0, 2):
                model, optimizer = build(
                    ranks, RULES["adagrad"], "row_wise", seed=1 + step, kernel=kernel
                )
                if step:
                    path = tmp_path / kernel / "model.ckpt-2"
                    restoring.restore(path, ranks, model=model, optimizer=optimizer)
                train(ranks, model, optimizer, step, min(step + 2, 3))
                save(ranks, tmp_path / kernel, min(step + 2, 3), model, optimizer)
            results[kernel] = whole([parts(model, optimizer)])
    close(results["fused_uvm"], results["fused"])
    close(results["fused_uvm_caching"], results["fused"])
