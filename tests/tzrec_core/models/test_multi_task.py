"""Models with several tasks: each tower's logits, recomputed by the formula of its docstring."""

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from tests.distributed.ranks import run
from tests.tzrec_core.models.samples import FEATURES, MULTI_TASK_MODELS, make_batch, model_config
from tzrec_core.distributed.sharding import shard
from tzrec_core.models.build import build_model
from tzrec_core.modules.experts import MixtureOfExperts
from tzrec_core.modules.mlp import Layers
from tzrec_core.optim.sparse import apply_sparse_optimizer, sgd
from tzrec_core.protos.model_pb2 import ModelConfig

CPU = torch.device("cpu")
LR = 0.1
MEMBERS = ["user", "tags", "city"]


def build(name, device=CPU):
    torch.manual_seed(1)
    return build_model(model_config(name), FEATURES, device)


def group(model, batch):
    """The group's numbers and embeddings side by side."""
    deep, _ = model.embeddings(batch.sparse, batch.weighted)
    by_name = {name: value for keyed in deep for name, value in keyed.to_dict().items()}
    return torch.cat([batch.dense[:, :1], *(by_name[name] for name in MEMBERS)], dim=1)


def linear(module, inputs):
    weight, bias = (getattr(module, name).detach().numpy() for name in ("weight", "bias"))
    return inputs @ weight.T + bias


def layers_of(mlp, inputs):
    """Layers of linear maps and ReLU, in numpy."""
    for module in mlp.layers:
        inputs = linear(module, inputs) if hasattr(module, "weight") else inputs.clip(min=0)
    return inputs


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_simple_multi_task_has_a_tower_per_task_over_the_group():
    model, batch = build("simple_multi_task"), make_batch()
    network = model.head.network
    inputs = group(model, batch)

    logits = model(batch)

    expected = {
        "ctr": network.towers[0].output(network.towers[0].mlp(inputs)),
        "rating": network.towers[1].output(inputs),
    }
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("name", ["mmoe", "mmoe_with_gate_mlp"])
def test_mmoe_mixes_the_experts_for_each_task_by_its_gate(name):
    model, batch = build(name), make_batch()
    network = model.head.network
    inputs = group(model, batch).detach().numpy()
    opinions = np.stack([layers_of(expert, inputs) for expert in network.mixture.experts])
    assert len(opinions) == 4

    logits = model(batch)

    assert list(logits) == ["ctr", "rating"]
    for gate, tower, found in zip(
        network.mixture.gates, network.towers, logits.values(), strict=True
    ):
        has_mlp = isinstance(gate, torch.nn.Sequential)
        assert has_mlp == (name == "mmoe_with_gate_mlp")
        scores = linear(gate[1], layers_of(gate[0], inputs)) if has_mlp else linear(gate, inputs)
        mixture = np.einsum("be,ebd->bd", softmax(scores), opinions)
        expected = linear(tower.output, layers_of(tower.mlp, mixture) if tower.mlp else mixture)
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [5, 1])
@pytest.mark.parametrize("name", MULTI_TASK_MODELS)
def test_logits_have_one_column_per_class_of_the_tower(name, size):
    shapes = {task: logits.shape for task, logits in build(name)(make_batch(size=size)).items()}

    assert shapes == {"ctr": (size, 1), "rating": (size, 3)}


@pytest.mark.parametrize("name", MULTI_TASK_MODELS)
def test_scripted_network_gives_the_same_logits(name):
    model, inputs = build(name), []
    hook = model.head.network.register_forward_pre_hook(lambda _, args: inputs.extend(args))
    expected = model(make_batch())
    hook.remove()

    torch.testing.assert_close(torch.jit.script(model.head.network)(*inputs), expected)


@pytest.mark.parametrize("name", ["simple_multi_task", "mmoe"])
def test_64_rows_are_learnt_by_heart_in_both_tasks(name):
    model, batch = build(name), make_batch(size=64)
    clicks, ratings = batch.labels["click"].float(), torch.randint(0, 3, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        logits = model(batch)
        losses = (
            torch.nn.functional.binary_cross_entropy_with_logits(logits["ctr"][:, 0], clicks),
            torch.nn.functional.cross_entropy(logits["rating"], ratings),
        )
        sum(losses).backward()
        optimizer.step()
    assert max(losses) < 0.1


def test_one_expert_and_one_task_are_an_mlp():
    layers = Layers(
        name="expert",
        hidden_units=[4, 3],
        activation="nn.ReLU",
        dropout_ratio=[],
        use_bn=False,
        use_ln=False,
        bias=True,
    )
    mixture = MixtureOfExperts(
        5, expert_layers=layers, gate_layers=None, num_experts=1, num_tasks=1
    )
    inputs = torch.randn(6, 5)

    torch.testing.assert_close(mixture(inputs), [mixture.experts[0](inputs)])
    assert [task.shape for task in mixture(inputs[:0])] == [(0, 3)]


class SquaredLogits(torch.nn.Module):
    """A model with a loss that moves every parameter."""

    def __init__(self, name, device):
        super().__init__()
        self.model = build(name, torch.device(device))

    def forward(self, batch):
        logits = self.model(batch)
        return sum(
            (index + 1) * x.square().sum() for index, x in enumerate(logits.values())
        ), logits


def backward_on_ranks(ranks, name, sizes):
    """Logits of this rank's rows, the gradients of the network and the tables after the step."""
    model = SquaredLogits(name, "meta")
    apply_sparse_optimizer(model, sgd(lr=LR, gradient_clipping=False, max_gradient=1.0))
    model = shard(model, ranks, batch_size=8, seed=0)
    expected = dict(SquaredLogits(name, "cpu").named_parameters())
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.numel():
                parameter.copy_(expected[path])
    loss, logits = model(make_batch(size=sizes[ranks.rank], seed=ranks.rank))
    loss.backward()
    parameters = {path: p for path, p in model.named_parameters() if p.numel()}
    gradients = {path: p.grad for path, p in parameters.items() if ".head." in path}
    tables = {path: p.detach().clone() for path, p in parameters.items() if path not in gradients}
    return {task: x.detach() for task, x in logits.items()}, gradients, tables


def test_two_ranks_score_and_learn_as_one_model_on_all_rows():
    name, sizes = "mmoe_with_gate_mlp", [6, 3]
    results = run(backward_on_ranks, 2, name, sizes)

    model = SquaredLogits(name, "cpu")
    for rank, size in enumerate(sizes):
        loss, logits = model(make_batch(size=size, seed=rank))
        torch.testing.assert_close(results[rank][0], logits)
        (loss / len(sizes)).backward()
    expected = dict(model.named_parameters())
    assert {path for result in results for part in result[1:] for path in part} == set(expected)
    for _, gradients, tables in results:
        for path, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[path].grad, msg=path)
        for path, table in tables.items():
            moved = expected[path] - LR * expected[path].grad
            torch.testing.assert_close(table, moved, msg=path)


GROUP = 'feature_groups { group_name: "all" feature_names: "user" }'
TOWER = 'task_towers { tower_name: "a" }'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"simple_multi_task {{ {TOWER} }}", r"one DEEP feature group, .* are \[\]"),
        (
            f"{GROUP} {GROUP.replace('all', 'b')} simple_multi_task {{ {TOWER} }}",
            r"one DEEP feature group, .* are \['all', 'b'\]",
        ),
        (f"{GROUP} simple_multi_task {{ }}", r"tower_names that differ, got \[\]"),
        (f"{GROUP} simple_multi_task {{ {TOWER} {TOWER} }}", r"got \['a', 'a'\]"),
        (f"{GROUP} simple_multi_task {{ task_towers {{ }} }}", r"got \[''\]"),
        (f"{GROUP} mmoe {{ {TOWER} }}", "mmoe.expert_mlp.hidden_units"),
        (
            f"{GROUP} mmoe {{ num_expert: 0 expert_mlp {{ hidden_units: 4 }} {TOWER} }}",
            "num_expert must be at least 1, got 0",
        ),
        (
            f'{GROUP} simple_multi_task {{ task_towers {{ tower_name: "a" mlp {{ }} }} }}',
            "tower 'a'.hidden_units",
        ),
    ],
)
def test_configs_that_cannot_be_built_are_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        build_model(text_format.Parse(text, ModelConfig()), FEATURES, CPU)
