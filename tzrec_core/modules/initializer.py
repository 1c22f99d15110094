"""Initial values of embedding tables, as a config spells them."""

from collections.abc import Callable
from functools import partial
from typing import Final

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


def parse_initializer(text: str) -> Callable[[Tensor], Tensor]:
    """Returns the in-place initializer that ``text`` names.

    ``text`` is a function of ``torch.nn.init`` followed by its arguments after the tensor:
    ``nn.init.uniform_,a=-0.1,b=0.1``.

    Raises:
        ValueError: Unknown function, or arguments that it does not take.
    """
    name, _, arguments = text.partition(",")
    function = _INITIALIZERS.get(name.strip().removeprefix("torch.").removeprefix("nn.init."))
    if function is None:
        allowed = ", ".join(f"nn.init.{known}" for known in _INITIALIZERS)
        raise ValueError(f"init_fn {text!r}: the function must be one of {allowed}")
    initializer = partial(function, **bind_arguments(function, arguments, source=text, skip=1))
    try:
        initializer(torch.empty(2, 2, device="meta"))  # neither memory nor random numbers
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"init_fn {text!r}: {error}") from error
    return initializer
