import pytest
import torch
from torch import nn

from tzrec_core.modules.activation import build_activation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nn.ReLU", nn.ReLU()),
        ("torch.nn.Tanh", nn.Tanh()),
        ("nn.LeakyReLU(negative_slope=0.2)", nn.LeakyReLU(0.2)),
        ("nn.GELU(approximate='tanh')", nn.GELU(approximate="tanh")),
        ("nn.Sigmoid()", nn.Sigmoid()),
        ("", nn.Identity()),
    ],
)
def test_config_texts_name_torch_modules(text, expected):
    inputs = torch.linspace(-3, 3, 20)
    torch.testing.assert_close(build_activation(text)(inputs), expected(inputs))


@pytest.mark.parametrize(
    "text",
    ["nn.Linear(1, 1)", "relu", "nn.ReLU(", "nn.LeakyReLU(slope=1)", "nn.ELU(alpha=open('x'))"],
)
def test_other_texts_are_refused_and_shown(text):
    with pytest.raises(ValueError, match="nn") as error:
        build_activation(text)
    assert repr(text) in str(error.value)
