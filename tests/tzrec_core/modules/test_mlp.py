import dataclasses

import pytest
import torch
from torch import nn

from tzrec_core.modules.mlp import MLP, AnySizeBatchNorm, Layers

PLAIN = Layers(
    name="deep",
    hidden_units=(5, 3),
    activation="nn.ReLU",
    dropout_ratio=(),
    use_bn=False,
    use_ln=False,
    bias=True,
)


def parameters_by_kind(mlp):
    return [type(module).__name__ for module in mlp.layers]


def test_output_is_that_of_plain_matrix_products():
    mlp = MLP(4, PLAIN)
    inputs = torch.randn(7, 4)
    first, second = (module for module in mlp.layers if isinstance(module, nn.Linear))
    hidden = (inputs @ first.weight.T + first.bias).clamp(min=0)

    assert mlp.out_features == 3
    torch.testing.assert_close(mlp(inputs), (hidden @ second.weight.T + second.bias).clamp(min=0))


def test_norm_comes_before_the_activation_and_batch_norm_replaces_the_bias():
    mlp = MLP(4, dataclasses.replace(PLAIN, use_bn=True, dropout_ratio=(0.5,)))
    assert parameters_by_kind(mlp) == ["Linear", "AnySizeBatchNorm", "ReLU", "Dropout"] * 2
    assert mlp.layers[0].bias is None

    mlp = MLP(4, dataclasses.replace(PLAIN, use_ln=True))
    assert parameters_by_kind(mlp) == ["Linear", "LayerNorm", "ReLU"] * 2
    assert mlp.layers[0].bias is not None


def test_without_bias_no_layer_has_one():
    mlp = MLP(4, dataclasses.replace(PLAIN, bias=False))
    assert [name for name, _ in mlp.named_parameters()] == ["layers.0.weight", "layers.2.weight"]


@pytest.mark.parametrize(
    ("ratios", "expected"), [((), []), ((0.3,), [0.3, 0.3]), ((0.0, 0.2), [0.2])]
)
def test_dropout_ratio_is_for_all_layers_or_per_layer(ratios, expected):
    mlp = MLP(4, dataclasses.replace(PLAIN, dropout_ratio=ratios))
    assert [m.p for m in mlp.layers if isinstance(m, nn.Dropout)] == expected


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_units": ()},
        {"hidden_units": (4, 0)},
        {"dropout_ratio": (0.1, 0.1, 0.1)},
        {"dropout_ratio": (1.0,)},
        {"use_bn": True, "use_ln": True},
    ],
)
def test_layers_that_cannot_be_built_are_refused_by_name(change):
    with pytest.raises(ValueError, match="deep") as error:
        MLP(4, dataclasses.replace(PLAIN, **change))
    assert next(iter(change)) in str(error.value)


@pytest.mark.parametrize("rows", [0, 1])
def test_batch_norm_survives_the_small_batches_at_the_end_of_an_epoch(rows):
    norm = AnySizeBatchNorm(3)
    norm(torch.randn(64, 3) * 2 + 1)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    inputs = torch.randn(rows, 3, requires_grad=True)

    outputs = norm(inputs)
    outputs.sum().backward()

    torch.testing.assert_close(outputs, (inputs - mean) / (var + norm.eps).sqrt())
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.weight.grad.isfinite().all()


def test_batch_norm_is_torchs_for_two_rows_and_more():
    ours, theirs = AnySizeBatchNorm(3), nn.BatchNorm1d(3)
    for _ in range(3):
        inputs = torch.randn(8, 3)
        torch.testing.assert_close(ours(inputs), theirs(inputs))
    torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))
