from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.train_pipeline import EvalPipelineSparseDist
from torchrec.streamable import Pipelineable

from tzrec_core.batch import Batch
from tzrec_core.distributed.ranks import process_group


def make_batch(seed: int, num_rows: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def ids(keys: list[str], *, weighted: bool) -> KeyedJaggedTensor:
        lengths = torch.randint(3, (len(keys) * num_rows,), generator=generator, dtype=torch.int32)
        num_values = int(lengths.sum())
        values = torch.randint(10, (num_values,), generator=generator)
        weights = torch.rand(num_values, generator=generator) if weighted else None
        return KeyedJaggedTensor(keys, values, weights, lengths, stride=num_rows)

    return Batch(
        dense=torch.rand(num_rows, 3, generator=generator),
        sparse=ids(["a", "b"], weighted=False),
        weighted=ids(["w"], weighted=True),
        labels={"click": torch.randint(2, (num_rows,), generator=generator)},
        sample_weights={"weight": torch.rand(num_rows, generator=generator)},
        group_ids={"user": torch.arange(num_rows)},
        position={3: 17},
        normalizer=torch.tensor(2.0),
        share=torch.tensor(0.5),
    )


def tensors(batch: Batch) -> Iterator[Tensor]:
    yield batch.dense
    for ids in (batch.sparse, batch.weighted):
        if ids is not None:
            yield ids.values()
            yield ids.lengths()
            if ids.weights_or_none() is not None:
                yield ids.weights()
    yield from (*batch.labels.values(), *batch.sample_weights.values(), *batch.group_ids.values())
    yield from (part for part in (batch.normalizer, batch.share) if part is not None)


def test_length_is_the_number_of_rows_even_without_dense_features():
    assert len(Batch(torch.zeros(4, 0), None, None, {}, {}, {}, {})) == 4


def test_ids_are_those_of_the_grouping_key():
    batch = make_batch(0)

    assert batch.ids("user") is batch.group_ids["user"]
    with pytest.raises(ValueError, match=r"must be one of \['user'\], got 'session'"):
        batch.ids("session")


def test_every_tensor_moves_and_the_position_stays():
    batch = make_batch(0)
    moved = batch.to(torch.device("meta"))

    assert isinstance(batch, Pipelineable)
    assert len(list(tensors(batch))) == 11
    assert all(tensor.is_meta for tensor in tensors(moved))
    assert not any(tensor.is_meta for tensor in tensors(batch))
    assert moved.position == {3: 17}


def test_a_batch_without_ids_and_normalizer_moves():
    batch = Batch(torch.zeros(2, 1), None, None, {"y": torch.zeros(2)}, {}, {}, {})

    assert all(tensor.is_meta for tensor in tensors(batch.to(torch.device("meta"))))


def fill(weight: Tensor) -> None:
    weight.data.copy_(torch.arange(weight.numel()).view_as(weight) % 7)


def table(key: str) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=f"{key}_table",
        num_embeddings=10,
        embedding_dim=4,
        feature_names=[key],
        init_fn=fill,
    )


class Scorer(nn.Module):
    """Reads every part of a batch that models read."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = EmbeddingBagCollection([table("a"), table("b")])
        self.weighted = EmbeddingBagCollection([table("w")], is_weighted=True)
        self.head = Head()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.head(self.plain(batch.sparse), self.weighted(batch.weighted), batch.dense)


class Head(nn.Module):
    def forward(
        self, plain: KeyedTensor, weighted: KeyedTensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        scores = torch.cat([plain["a"], plain["b"], weighted["w"], dense], dim=1)
        return scores.sum(), scores


def test_torchrecs_pipeline_traces_a_model_of_batches_and_takes_them_ahead():
    batches = [make_batch(seed, num_rows=4 + seed) for seed in range(3)]
    sharders = [EmbeddingBagCollectionSharder()]
    topology = Topology(world_size=1, compute_device="cpu")
    with process_group() as ranks, torch.no_grad():
        plan = EmbeddingShardingPlanner(topology=topology).plan(Scorer(), sharders)
        model = DistributedModelParallel(
            Scorer().eval(), device=ranks.device, plan=plan, sharders=sharders
        )
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
        pipeline = EvalPipelineSparseDist(model, optimizer, ranks.device)
        iterator = iter(batches)
        outputs = [pipeline.progress(iterator) for _ in batches]

    for batch, output in zip(batches, outputs, strict=True):
        torch.testing.assert_close(output, Scorer()(batch)[1])


@pytest.mark.gpu
def test_every_tensor_is_pinned_and_belongs_to_the_stream():
    pinned = make_batch(0).pin_memory()
    assert all(tensor.is_pinned() for tensor in tensors(pinned))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        moved = pinned.to(torch.device("cuda"), non_blocking=True)
    moved.record_stream(torch.cuda.current_stream())
    stream.synchronize()
    for there, here in zip(tensors(moved), tensors(pinned), strict=True):
        torch.testing.assert_close(there.cpu(), here)
