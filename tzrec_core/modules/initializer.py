"""Initial values of embedding tables, as a config spells them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from tzrec_core.modules.expression import bind_arguments

_INITIALIZERS: Final[dict[str, Callable[..., Tensor]]] = {
    "uniform_": nn.init.uniform_,
    "normal_": nn.init.normal_,
    "trunc_normal_": nn.init.trunc_normal_,
    "constant_": nn.init.constant_,
    "zeros_": nn.init.zeros_,
    "ones_": nn.init.ones_,
    "xavier_uniform_": nn.init.xavier_uniform_,
    "xavier_normal_": nn.init.xavier_normal_,
    "kaiming_uniform_": nn.init.kaiming_uniform_,
    "kaiming_normal_": nn.init.kaiming_normal_,
}


def parse_initializer(text: str, *, num_rows: int, dim: int) -> Callable[[Tensor], Tensor]:
    """Returns the in-place initializer that ``text`` names, of any of a table's rows [any, dim].

    ``text`` is a function of ``torch.nn.init`` followed by its arguments after the tensor:
    ``nn.init.uniform_,a=-0.1,b=0.1``. The spread that some derive from the shape is that of the
    whole table, [num_rows, dim].

    Raises:
        ValueError: Unknown function, or arguments that it does not take.
    """
    name, _, arguments = text.partition(",")
    function = _INITIALIZERS.get(name.strip().removeprefix("torch.").removeprefix("nn.init."))
    if function is None:
        allowed = ", ".join(f"nn.init.{known}" for known in _INITIALIZERS)
        raise ValueError(f"init_fn {text!r}: the function must be one of {allowed}")
    bound = bind_arguments(function, arguments, source=text, skip=1)
    try:
        function(torch.empty(2, 2, device="meta"), **bound)  # neither memory nor random numbers
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"init_fn {text!r}: {error}") from error
    if function in (nn.init.xavier_uniform_, nn.init.xavier_normal_):
        std = _xavier_std(num_rows, dim, **bound)
    elif function in (nn.init.kaiming_uniform_, nn.init.kaiming_normal_):
        std = _kaiming_std(num_rows, dim, **bound)
    else:
        return partial(function, **bound)
    if function in (nn.init.xavier_normal_, nn.init.kaiming_normal_):
        return partial(nn.init.normal_, std=std)
    return partial(nn.init.uniform_, a=-math.sqrt(3) * std, b=math.sqrt(3) * std)


def _xavier_std(num_rows: int, dim: int, gain: float = 1.0) -> float:
    return gain * math.sqrt(2 / (num_rows + dim))


def _kaiming_std(
    num_rows: int,
    dim: int,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: Any = "leaky_relu",
) -> float:
    fan = dim if mode.lower() == "fan_in" else num_rows
    return nn.init.calculate_gain(nonlinearity, a) / math.sqrt(fan)
