"""Each model's logits, recomputed from its weights by the formula of its docstring."""

from itertools import combinations

import pytest
import torch

from tests.tzrec_core.models.samples import FEATURES, MODELS, make_batch, model_config
from tzrec_core.models.build import build_model

CPU = torch.device("cpu")
WIDE = ["item", "user", "tags"]
DEEP = ["user", "item", "tags", "last_item", "city"]
INTERACTING = ["tags", "user", "item", "last_item", "city"]


@pytest.fixture
def batch():
    return make_batch()


def build(name, num_class=1):
    torch.manual_seed(1)
    return build_model(model_config(name, num_class), FEATURES, CPU)


def lookups(model, batch):
    """Pooled embeddings by feature name, deep and wide."""
    deep, wide = model.embeddings(batch.sparse, batch.weighted)
    return tuple({k: v for kt in kts for k, v in kt.to_dict().items()} for kts in (deep, wide))


def dense_columns(batch, *names):
    columns = {"age": batch.dense[:, :1], "stats": batch.dense[:, 1:]}
    return [columns[name] for name in names]


def wide_part(model, batch):
    _, wide = lookups(model, batch)
    [age] = dense_columns(batch, "age")
    return sum(wide[name] for name in WIDE) + age @ model.head.network.wide.linear.weight.T


def fm_part(model, batch, names):
    deep, _ = lookups(model, batch)
    return sum(deep[a] * deep[b] for a, b in combinations(names, 2))


def deep_part(model, batch):
    deep, _ = lookups(model, batch)
    inputs = [*dense_columns(batch, "age", "stats"), *(deep[name] for name in DEEP)]
    return model.head.network.deep(torch.cat(inputs, dim=1))


def top(model, *parts):
    network = model.head.network
    return network.output(network.final(torch.cat(parts, dim=1)))


@pytest.mark.parametrize(
    ("name", "fm"), [("deepfm", DEEP), ("deepfm_with_fm", ["last_item", "user"])]
)
def test_deepfm_feeds_wide_fm_and_deep_to_the_final_layers(name, fm, batch):
    model = build(name)
    expected = top(
        model, wide_part(model, batch), fm_part(model, batch, fm), deep_part(model, batch)
    )
    torch.testing.assert_close(model(batch), expected)


@pytest.mark.parametrize("num_class", [1, 3])
def test_deepfm_without_final_adds_its_three_parts(num_class, batch):
    model = build("deepfm_without_final", num_class)
    expected = (
        wide_part(model, batch).sum(1, keepdim=True)
        + fm_part(model, batch, DEEP).sum(1, keepdim=True)
        + model.head.network.output(deep_part(model, batch))
    )
    torch.testing.assert_close(model(batch), expected)


def test_wide_and_deep_feeds_both_parts_to_the_final_layers(batch):
    model = build("wide_and_deep")
    expected = top(model, wide_part(model, batch), deep_part(model, batch))
    torch.testing.assert_close(model(batch), expected)


def test_wide_and_deep_without_final_adds_both_parts(batch):
    model = build("wide_and_deep_without_final")
    expected = wide_part(model, batch).sum(1, keepdim=True) + model.head.network.output(
        deep_part(model, batch)
    )
    torch.testing.assert_close(model(batch), expected)


def test_multi_tower_feeds_mlps_and_bare_groups_to_the_final_layers(batch):
    model = build("multi_tower")
    deep, _ = lookups(model, batch)
    age, stats = dense_columns(batch, "age", "stats")
    first = model.head.network.towers[0](torch.cat([age, deep["user"]], dim=1))
    torch.testing.assert_close(model(batch), top(model, first, stats, deep["user"], deep["tags"]))


def test_dlrm_feeds_products_dense_vector_and_embeddings_to_the_final_layers(batch):
    model = build("dlrm")
    deep, _ = lookups(model, batch)
    vector = model.head.network.dense_mlp(torch.cat(dense_columns(batch, "stats", "age"), dim=1))
    vectors = [vector, *(deep[name] for name in INTERACTING)]
    products = [(a * b).sum(1, keepdim=True) for a, b in combinations(vectors, 2)]
    torch.testing.assert_close(model(batch), top(model, *products, *vectors))


def test_dlrm_can_do_with_products_only(batch):
    model = build("dlrm_products_only")
    deep, _ = lookups(model, batch)
    vectors = [deep[name] for name in INTERACTING]
    products = [(a * b).sum(1, keepdim=True) for a, b in combinations(vectors, 2)]
    torch.testing.assert_close(model(batch), top(model, *products))


@pytest.mark.parametrize("name", MODELS)
def test_logits_have_one_column_per_class(name):
    assert build(name, num_class=3)(make_batch(size=5)).shape == (5, 3)


@pytest.mark.parametrize("name", MODELS)
def test_scripted_network_gives_the_same_logits(name, batch):
    model = build(name)
    inputs = []
    hook = model.head.network.register_forward_pre_hook(lambda _, args: inputs.extend(args))
    expected = model(batch)
    hook.remove()
    torch.testing.assert_close(torch.jit.script(model.head.network)(*inputs), expected)


@pytest.mark.parametrize("name", MODELS)
def test_64_rows_are_learnt_by_heart(name):
    model = build(name)
    batch = make_batch(size=64)
    target = batch.labels["click"].float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch).squeeze(1), target)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
