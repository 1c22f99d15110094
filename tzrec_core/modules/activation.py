"""Activations, as a config spells them."""

from typing import Final

from torch import nn

from tzrec_core.modules.expression import bind_arguments

_ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "ELU": nn.ELU,
    "SELU": nn.SELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
    "Hardswish": nn.Hardswish,
    "Softplus": nn.Softplus,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "Identity": nn.Identity,
}


def build_activation(text: str) -> nn.Module:
    """Builds the activation that ``text`` names.

    ``text`` is a class of ``torch.nn``, with arguments where wanted: ``nn.ReLU``,
    ``nn.LeakyReLU(negative_slope=0.2)``. An empty text is no activation.

    Raises:
        ValueError: Unknown class, or arguments that it does not take.
    """
    name, opening, arguments = text.strip().partition("(")
    if not name and not opening:
        return nn.Identity()
    module = _ACTIVATIONS.get(name.removeprefix("torch.").removeprefix("nn."))
    if module is None or (opening and not arguments.endswith(")")):
        allowed = ", ".join(f"nn.{known}" for known in _ACTIVATIONS)
        raise ValueError(
            f"activation {text!r} must be one of {allowed}, arguments in parentheses after it"
        )
    return module(**bind_arguments(module, arguments.removesuffix(")"), source=text, skip=0))
