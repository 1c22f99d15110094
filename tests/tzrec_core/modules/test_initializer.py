import pytest
import torch
from torch import nn

from tzrec_core.modules.initializer import parse_initializer

SHAPE = {"num_rows": 500, "dim": 8}


def test_arguments_reach_the_function():
    table = torch.empty(500, 8)
    parse_initializer("nn.init.uniform_,a=-0.1,b=0.3", **SHAPE)(table)
    assert -0.1 <= table.min() < -0.09
    assert 0.29 < table.max() <= 0.3


@pytest.mark.parametrize(
    ("text", "value"),
    [("nn.init.constant_, 0.5", 0.5), ("torch.nn.init.zeros_", 0.0), ("ones_", 1.0)],
)
def test_positional_arguments_and_prefixes(text, value):
    table = torch.empty(3, 4)
    parse_initializer(text, **SHAPE)(table)
    torch.testing.assert_close(table, torch.full((3, 4), value))


def test_parsing_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    parse_initializer("nn.init.normal_,std=0.01", **SHAPE)
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize(
    "text",
    [
        "nn.init.unifrom_",
        "nn.init.uniform_,low=1",
        "nn.init.uniform_,a=__import__('os').getpid()",
        "nn.init.uniform_,a='x'",
        "nn.init.constant_",
        "nn.init.uniform_,a=",
        "nn.init.uniform_,a=1)+(2",
        "",
    ],
)
def test_other_texts_are_refused_and_shown(text):
    with pytest.raises(ValueError, match="init") as error:
        parse_initializer(text, **SHAPE)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "function", "arguments"),
    [
        ("nn.init.xavier_uniform_", nn.init.xavier_uniform_, {}),
        ("nn.init.xavier_normal_,gain=2.0", nn.init.xavier_normal_, {"gain": 2.0}),
        ("nn.init.kaiming_uniform_,a=0.5", nn.init.kaiming_uniform_, {"a": 0.5}),
        (
            "nn.init.kaiming_normal_,mode='fan_out',nonlinearity='relu'",
            nn.init.kaiming_normal_,
            {"mode": "fan_out", "nonlinearity": "relu"},
        ),
    ],
)
def test_any_rows_are_spread_as_the_whole_table(text, function, arguments):
    whole, rows = torch.empty(20_000, 16), torch.empty(1000, 16)
    torch.manual_seed(0)
    function(whole, **arguments)
    torch.manual_seed(0)
    parse_initializer(text, num_rows=20_000, dim=16)(rows)

    torch.testing.assert_close(rows, whole[:1000])
