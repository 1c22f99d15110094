import pytest
import torch
from torch import nn

from tzrec_core.modules import linear
from tzrec_core.modules.linear import Linear


@pytest.fixture(autouse=True)
def _with_onednn_on_every_cpu(monkeypatch):
    monkeypatch.setattr(linear, "_ONEDNN_IS_FASTER", True)


def layers(*, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours = Linear(29, 16, bias=bias).to(dtype)
    theirs = nn.Linear(29, 16, bias=bias).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(layer: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
    return [outputs.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("rows", [0, 1, 333])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_formula_in_double_precision(rows, bias):
    ours, _ = layers(bias=bias)
    _, exact = layers(bias=bias)
    inputs = torch.randn(rows, 29)

    for got, expected in zip(
        gradients(ours, inputs), gradients(exact.double(), inputs.double()), strict=True
    ):
        assert got.layout == torch.strided
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)


def test_it_is_not_torchs_product_where_onednn_is_faster(monkeypatch):
    ours, _ = layers(bias=True)
    kind = type(ours(torch.randn(3, 29)).grad_fn).__name__
    monkeypatch.setattr(linear, "_ONEDNN_IS_FASTER", False)
    other = type(ours(torch.randn(3, 29)).grad_fn).__name__

    assert (kind, other) == ("ToDenseBackward0", "AddmmBackward0")


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 5, 29), torch.float32), ((5, 29), torch.float64)], ids=str
)
def test_other_shapes_and_types_are_torchs(shape, dtype):
    ours, theirs = layers(bias=True, dtype=dtype)
    inputs = torch.randn(shape, dtype=dtype)

    assert torch.equal(ours(inputs), theirs(inputs))


def test_autocast_decides_the_type():
    ours, theirs = layers(bias=True)
    inputs = torch.randn(7, 29)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = ours(inputs), theirs(inputs)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected)


def test_what_is_scripted_computes_the_same():
    ours, _ = layers(bias=True)
    inputs = torch.randn(7, 29)

    torch.testing.assert_close(torch.jit.script(ours)(inputs), ours(inputs))
