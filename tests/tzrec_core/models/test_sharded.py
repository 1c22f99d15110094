"""Sharded models score and learn as unsharded ones do."""

from functools import partial

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.distributed.embedding_types import ShardingType
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tests.distributed.ranks import run
from tests.tzrec_core.models.samples import FEATURES, MODELS, make_batch, model_config
from tzrec_core.distributed.ranks import Ranks, process_group
from tzrec_core.distributed.sharding import shard
from tzrec_core.models.build import build_model
from tzrec_core.optim.dense import combine
from tzrec_core.optim.sparse import apply_sparse_optimizer, sgd

LR = 0.5


class Training(torch.nn.Module):
    """A model with the loss of its rows, summed."""

    def __init__(self, name, device):
        super().__init__()
        self.model = build_model(model_config(name), FEATURES, torch.device(device))
        self.loss = SummedLoss()

    def forward(self, batch):
        return self.loss(self.model(batch), batch)


class SummedLoss(torch.nn.Module):
    def forward(self, logits, batch):
        target = batch.labels["click"].float()
        loss = binary_cross_entropy_with_logits(logits.squeeze(1), target, reduction="sum")
        return loss, logits


def reference(name):
    torch.manual_seed(3)
    return Training(name, "cpu")


def sharded(name, ranks):
    rule = sgd(lr=LR, gradient_clipping=False, max_gradient=1.0)
    model = Training(name, "meta")
    apply_sparse_optimizer(model, rule)
    model = shard(model, ranks, batch_size=8, seed=0)
    kinds = {p.sharding_type for plan in model.plan.plan.values() for p in plan.values()}
    assert kinds == {ShardingType.TABLE_WISE.value}
    expected = dict(reference(name).named_parameters())
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.numel():
                parameter.copy_(expected[path])
    return model, combine(model, partial(torch.optim.SGD, lr=LR))


def two_steps(ranks: Ranks, name: str, sizes: list[int]):
    """Logits of two training steps on this rank's rows, and the parameters that it holds then."""
    model, optimizer = sharded(name, ranks)
    scores = []
    for step in range(2):
        optimizer.zero_grad()
        loss, logits = model(make_batch(size=sizes[ranks.rank], seed=10 * step + ranks.rank))
        loss.backward()
        optimizer.step()
        scores.append(logits.detach().clone())
    held = {path: p.detach().clone() for path, p in model.named_parameters() if p.numel()}
    return scores, held


ONE_RANK = [(name, [6]) for name in MODELS]
TWO_RANKS = [(name, sizes) for name in ("deepfm", "dlrm") for sizes in ([6, 3], [5, 0])]


@pytest.mark.parametrize(("name", "sizes"), ONE_RANK + TWO_RANKS)
def test_sharded_model_scores_and_learns_as_the_unsharded_one_on_all_rows(name, sizes):
    results = run(two_steps, len(sizes), name, sizes)

    model = reference(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(2):
        optimizer.zero_grad()
        for rank, size in enumerate(sizes):
            scores = results[rank][0][step]
            assert scores.shape == (size, 1)
            if size:
                loss, logits = model(make_batch(size=size, seed=10 * step + rank))
                torch.testing.assert_close(scores, logits.detach())
                (loss / len(sizes)).backward()
        optimizer.step()
    held = {path for _, parameters in results for path in parameters}
    expected = dict(model.named_parameters())
    assert held == set(expected)
    for _, parameters in results:
        for path, parameter in parameters.items():
            torch.testing.assert_close(parameter, expected[path].detach(), msg=path)


@pytest.mark.parametrize("name", MODELS)
def test_the_pipeline_that_traces_the_model_trains_it_like_a_plain_loop(name):
    batches = [make_batch(seed=seed) for seed in range(4)]
    with process_group() as ranks:
        model, optimizer = sharded(name, ranks)
        pipeline = TrainPipelineSparseDist(model, optimizer, ranks.device)
        waiting = iter(batches)
        traced = [pipeline.progress(waiting).detach().clone() for _ in batches]

        model, optimizer = sharded(name, ranks)
        plain = []
        for batch in batches:
            optimizer.zero_grad()
            loss, logits = model(batch)
            loss.backward()
            optimizer.step()
            plain.append(logits.detach().clone())
    torch.testing.assert_close(traced, plain)


def keys_of_embeddings(ranks):
    model, _ = sharded("deepfm", ranks)
    batch = make_batch()
    [deep, _], _ = model.module.model.embeddings(batch.sparse, batch.weighted)
    return deep.keys()


def test_the_case_of_two_ranks_covers_keys_that_sharding_has_reordered():
    batch = make_batch()
    [deep, _], _ = reference("deepfm").model.embeddings(batch.sparse, batch.weighted)
    for keys in run(keys_of_embeddings, 2):
        assert sorted(keys) == sorted(deep.keys())
        assert keys != deep.keys()
