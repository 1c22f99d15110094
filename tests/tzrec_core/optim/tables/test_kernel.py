"""Every rule updates the rows that were looked up as a plain loop over rows does."""

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    BoundsCheckMode,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    WeightDecayMode,
)
from torch import Tensor
from torch.nn.functional import embedding_bag

from tests.tzrec_core.optim.tables.plain_rules import COMMON, ON_CUDA, RULES, PlainTable, close
from tzrec_core.optim import sparse
from tzrec_core.optim.sparse import SparseRule
from tzrec_core.optim.tables.kernel import TableKernel

# Two neighbours of one width, one of another, and the first width again; the second table has two
# features, the fourth a single row.
TABLES = ((9, 4), (6, 4), (7, 8), (1, 4))
FEATURES = (0, 1, 1, 2, 3)
POOLINGS = {PoolingMode.SUM: "sum", PoolingMode.MEAN: "mean"}


def made(
    rule: SparseRule,
    *,
    pooling: PoolingMode = PoolingMode.SUM,
    tables: tuple[tuple[int, int], ...] = TABLES,
    features: tuple[int, ...] = FEATURES,
    device_type: str = "cpu",
) -> TableKernel:
    """Makes tables as TorchRec does, with random weights."""
    place = (EmbeddingLocation.HOST, ComputeDevice.CPU)
    if device_type == "cuda":
        place = (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    arguments = dict(rule.arguments)
    kernel = TableKernel(
        embedding_specs=[(rows, dim, *place) for rows, dim in tables],
        feature_table_map=list(features),
        pooling_mode=pooling,
        bounds_check_mode=BoundsCheckMode.FATAL,
        learning_rate=arguments.pop("lr"),
        **arguments,
    )
    for weights in kernel.split_embedding_weights():
        weights.normal_()
    return kernel


def lookup(step: int, batch_size: int = 5) -> tuple[list[list[Tensor]], Tensor, Tensor]:
    """Returns each feature's bags, some empty, ids repeated in and among them; ids, offsets."""
    generator = torch.Generator().manual_seed(step)
    bags = [
        [
            torch.randint(TABLES[table][0], (int(length),), generator=generator)
            for length in torch.randint(4, (batch_size,), generator=generator)
        ]
        for table in FEATURES
    ]
    flat = [bag for of_feature in bags for bag in of_feature]
    lengths = torch.tensor([0, *[len(bag) for bag in flat]])
    return bags, torch.cat(flat), lengths.cumsum(0)


def plain_lookup(bags: list[list[Tensor]], tables: list[Tensor], mode: str, weights: Tensor | None):
    columns, first = [], 0
    for table, of_feature in zip(FEATURES, bags, strict=True):
        ids = torch.cat(of_feature)
        offsets = torch.tensor([0, *[len(bag) for bag in of_feature]]).cumsum(0)[:-1]
        of_ids = None if weights is None else weights[first : first + len(ids)]
        first += len(ids)
        columns.append(
            embedding_bag(ids, tables[table], offsets, mode=mode, per_sample_weights=of_ids)
        )
    return torch.cat(columns, dim=1)


def train_both(
    kernel: TableKernel, plain: list[PlainTable], *, mode: str, weighted=False, clip: float | None
) -> None:
    """Trains three steps, the last at another rate; compares outputs on the way."""
    for step in (1, 2, 3):
        lr = 0.02 if step == 3 else 0.1
        kernel.set_learning_rate(lr)
        bags, ids, offsets = lookup(step)
        weights = torch.rand(len(ids)) + 0.5 if weighted else None
        tables = [table.weights.float().requires_grad_() for table in plain]
        expected = plain_lookup(bags, tables, mode, weights)
        device = kernel.D_offsets.device
        output = kernel(
            ids.to(device), offsets.to(device), None if weights is None else weights.to(device)
        ).cpu()
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        if clip is not None:
            expected.register_hook(lambda gradient: gradient.clamp(-clip, clip))
        slopes = torch.randn(output.shape)
        for out in (output, expected):
            (out * slopes + 0.1 * out.square()).sum().backward()
        for index, table in enumerate(plain):
            of_table = [b for f, of in zip(FEATURES, bags, strict=True) if f == index for b in of]
            table.update(torch.cat(of_table), tables[index].grad, lr=lr, step=step)


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: pooling.name)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_updates_each_row_looked_up_once_a_batch_as_a_plain_loop_does(name, pooling):
    make, plain_rule = RULES[name]
    kernel = made(make(**COMMON), pooling=pooling)
    plain = [PlainTable(weights, plain_rule) for weights in kernel.split_embedding_weights()]

    train_both(kernel, plain, mode=POOLINGS[pooling], clip=None)

    for weights, table in zip(kernel.split_embedding_weights(), plain, strict=True):
        close(weights, table)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ON_CUDA)
def test_fbgemms_cuda_kernels_do_the_same_and_name_their_states_alike(name):
    kernel = made(ON_CUDA[name](**COMMON), device_type="cuda")
    plain = [
        PlainTable(weights.cpu(), RULES[name][1]) for weights in kernel.split_embedding_weights()
    ]

    train_both(kernel, plain, mode="sum", clip=None)

    for weights, table in zip(kernel.split_embedding_weights(), plain, strict=True):
        close(weights.cpu(), table)
    ours = made(RULES[name][0](**COMMON))
    for state, of_ours in zip(
        kernel.get_optimizer_state(), ours.get_optimizer_state(), strict=True
    ):
        assert {key: value.shape for key, value in state.items()} == {
            key: value.shape for key, value in of_ours.items()
        }


def test_ids_with_weights_count_by_their_weight():
    make, plain_rule = RULES["adam"]
    kernel = made(make(**COMMON))
    plain = [PlainTable(weights, plain_rule) for weights in kernel.split_embedding_weights()]

    train_both(kernel, plain, mode="sum", weighted=True, clip=None)

    for weights, table in zip(kernel.split_embedding_weights(), plain, strict=True):
        close(weights, table)


def test_the_gradient_of_the_output_is_clipped_before_gradients_of_a_row_are_added():
    make, plain_rule = RULES["rmsprop"]
    rule = make(lr=0.1, gradient_clipping=True, max_gradient=0.25)
    kernel = made(rule)
    plain = [PlainTable(weights, plain_rule) for weights in kernel.split_embedding_weights()]

    train_both(kernel, plain, mode="sum", clip=0.25)

    for weights, table in zip(kernel.split_embedding_weights(), plain, strict=True):
        close(weights, table)


def sgd_row(w, g, state, lr, t):
    return w - lr * g


def test_fbgemm_clips_the_same_gradient():
    kernel = made(sparse.sgd(lr=0.1, gradient_clipping=True, max_gradient=0.25))
    plain = [PlainTable(weights, sgd_row) for weights in kernel.split_embedding_weights()]

    train_both(kernel, plain, mode="sum", clip=0.25)

    for weights, table in zip(kernel.split_embedding_weights(), plain, strict=True):
        close(weights, table)


@pytest.mark.parametrize("mode", [WeightDecayMode.L2, WeightDecayMode.DECOUPLE])
def test_weight_decay_of_rowwise_adagrad_is_fbgemms(mode):
    # FBGEMM's CPU kernel ignores it, except for tables that several features share.
    decoupled = mode == WeightDecayMode.DECOUPLE
    ours = sparse.decayed_rowwise_adagrad(
        **COMMON, weight_decay=0.3, decoupled=decoupled, device_type="cpu"
    )
    theirs = SparseRule(
        ours.optimizer_class,
        {
            **COMMON,
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "weight_decay": 0.3,
            "weight_decay_mode": mode,
        },
    )
    kernels = [made(rule, tables=((9, 8),), features=(0, 0)) for rule in (ours, theirs)]
    kernels[1].weights_host.data.copy_(kernels[0].weights_host)
    slopes = torch.randn(3, 16)
    for ids in ([0, 1, 1, 2, 2, 2], [1, 5, 6, 1, 0, 8]):
        for kernel in kernels:
            output = kernel(torch.tensor(ids), torch.tensor([0, 1, 2, 3, 4, 6, 6]))
            (output * slopes).sum().backward()

    (weights, fbgemm_weights), (state, fbgemm_state) = zip(
        *[(k.split_embedding_weights()[0], k.get_optimizer_state()[0]["sum"]) for k in kernels],
        strict=True,
    )
    torch.testing.assert_close(weights, fbgemm_weights)
    torch.testing.assert_close(state, fbgemm_state)


def test_adam_is_sparse_adam_of_torch():
    rule = sparse.with_moments(
        sparse.ADAM, **COMMON, beta1=0.9, beta2=0.999, weight_decay=0.0, device_type="cpu"
    )
    kernel = made(rule, tables=((9, 4),), features=(0,))
    table = torch.nn.Embedding.from_pretrained(
        kernel.split_embedding_weights()[0].clone(), freeze=False, sparse=True
    )
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    for step in range(4):
        ids = torch.randint(9, (6,), generator=torch.Generator().manual_seed(step))
        slopes = torch.randn(6, 4)
        optimizer.zero_grad()
        (table(ids) * slopes).sum().backward()
        optimizer.step()
        (kernel(ids, torch.arange(7)) * slopes).sum().backward()

    torch.testing.assert_close(kernel.split_embedding_weights()[0], table.weight.data)


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (
            sparse.with_moments(
                sparse.ADAM, **COMMON, beta1=0.7, beta2=0.9, weight_decay=0.3, device_type="cpu"
            ),
            lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.7, 0.9), weight_decay=0.3),
        ),
        (
            sparse.adadelta(**COMMON, rho=0.8, eps=1e-3, weight_decay=0.3),
            lambda p: torch.optim.Adadelta(p, lr=0.1, rho=0.8, eps=1e-3, weight_decay=0.3),
        ),
        (
            sparse.rmsprop(**COMMON, alpha=0.8, eps=1e-6, weight_decay=0.3),
            lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.8, eps=1e-6, weight_decay=0.3),
        ),
    ],
    ids=["adamw", "adadelta", "rmsprop"],
)
def test_when_all_rows_are_looked_up_rules_are_those_of_torch(rule, make):
    kernel = made(rule, tables=((6, 4),), features=(0,))
    weight = kernel.split_embedding_weights()[0].clone().requires_grad_()
    optimizer = make([weight])
    for _ in range(4):
        ids, slopes = torch.randperm(6), torch.randn(6, 4)
        optimizer.zero_grad()
        (weight[ids] * slopes).sum().backward()
        optimizer.step()
        (kernel(ids, torch.arange(7)) * slopes).sum().backward()

    torch.testing.assert_close(kernel.split_embedding_weights()[0], weight.data)


@pytest.mark.parametrize("name", RULES)
def test_a_row_whose_gradient_is_zero_or_whose_weights_are_stays_finite(name):
    kernel = made(RULES[name][0](**COMMON), tables=((3, 4),), features=(0,))
    kernel.split_embedding_weights()[0][1] = 0.0
    for slope in (0.0, 1.0):
        output = kernel(torch.arange(3), torch.arange(4))
        (slope * output).sum().backward()

    assert kernel.weights_host.isfinite().all()
    assert all(state.isfinite().all() for state in kernel.get_optimizer_state()[0].values())


@pytest.mark.parametrize("batch_size", [0, 3])
def test_a_batch_without_ids_changes_nothing_but_the_number_of_updates(batch_size):
    kernel = made(RULES["adam"][0](**COMMON))
    before = kernel.weights_host.clone()

    offsets = torch.zeros(batch_size * len(FEATURES) + 1, dtype=torch.int64)
    output = kernel(torch.zeros(0, dtype=torch.int64), offsets)
    output.sum().backward()

    assert output.shape == (batch_size, sum(TABLES[table][1] for table in FEATURES))
    assert torch.equal(kernel.weights_host, before)
    assert [int(state["iter"]) for state in kernel.get_optimizer_state()] == [1] * len(TABLES)


def test_tables_without_rows_can_be_looked_up_in_vain():
    kernel = made(RULES["adam"][0](**COMMON), tables=((0, 4), (0, 8)), features=(0, 1))

    output = kernel(torch.zeros(0, dtype=torch.int64), torch.zeros(5, dtype=torch.int64))
    output.sum().backward()

    assert output.tolist() == [[0.0] * 12] * 2


def test_rows_that_are_not_pooled_are_updated_too():
    make, plain_rule = RULES["adam"]
    kernel = made(
        make(**COMMON), pooling=PoolingMode.NONE, tables=((9, 4), (6, 4)), features=(0, 1)
    )
    plain = [PlainTable(weights, plain_rule) for weights in kernel.split_embedding_weights()]
    ids, slopes = torch.tensor([3, 3, 8, 0, 5, 5, 5]), torch.randn(7, 4)
    for step in (1, 2):
        output = kernel(ids, torch.tensor([0, 1, 3, 5, 7]))  # three ids of one feature, then four
        (output * slopes).sum().backward()
        for table, its_ids, of_ids in zip(
            plain, ids.split([3, 4]), slopes.split([3, 4]), strict=True
        ):
            gradients = torch.zeros(table.weights.shape).index_add_(0, its_ids, of_ids)
            table.update(its_ids, gradients, lr=0.1, step=step)

    for weights, table in zip(kernel.split_embedding_weights(), plain, strict=True):
        close(weights, table)


def test_equal_batches_give_equal_bits():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        kernel = made(RULES["lamb"][0](**COMMON), tables=((50_000, 4),), features=(0,))
        ids = torch.randint(50_000, (70_000,))  # several blocks of rows, many of them repeated
        output = kernel(ids, torch.arange(len(ids) + 1))
        (output * torch.randn(output.shape)).sum().backward()
        results.append(kernel.weights_host.clone())

    assert torch.equal(*results)


FBGEMM_ROWWISE = SparseRule(
    torch.optim.Adagrad, {**COMMON, "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD}
)


@pytest.mark.parametrize(
    "rule", [RULES["adam"][0](**COMMON), FBGEMM_ROWWISE], ids=["ours", "fbgemm"]
)
def test_evaluation_does_not_count_as_an_update(rule):
    kernel = made(rule, tables=((9, 4),), features=(0,))
    ids, offsets = torch.arange(3), torch.arange(4)
    for _ in range(2):
        kernel(ids, offsets).sum().backward()
        with torch.no_grad():
            kernel(ids, offsets)

    assert int(kernel.iter) == 2
