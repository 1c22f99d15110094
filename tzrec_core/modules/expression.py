"""Reads the ``a=-0.1,b=0.1`` part of functions and modules that a config names."""

import ast
from collections.abc import Callable
from inspect import signature
from typing import Any


def bind_arguments(
    function: Callable[..., Any], arguments: str, *, source: str, skip: int
) -> dict[str, Any]:
    """Returns the literal ``arguments`` of a call of ``function`` by parameter name.

    Nothing is evaluated: values are numbers, strings, booleans or None.

    Args:
        function: What is to be called.
        arguments: Text between the parentheses of the call; may be empty.
        source: The whole text, for the error.
        skip: Leading parameters that the caller fills itself.

    Raises:
        ValueError: ``arguments`` is no list of literals, or ``function`` does not take them.
    """
    parameters = list(signature(function).parameters.values())[skip:]
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call)
        positional = [ast.literal_eval(value) for value in call.args]
        named = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg is not None}
        bound = signature(function).replace(parameters=parameters).bind(*positional, **named)
    except (SyntaxError, TypeError, ValueError, AssertionError) as error:
        allowed = ", ".join(parameter.name for parameter in parameters)
        raise ValueError(
            f"{source!r}: arguments must be literals for {allowed or 'nothing'}; {error}"
        ) from error
    return dict(bound.arguments)
