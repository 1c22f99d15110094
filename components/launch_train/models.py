"""Checks parts of a manifest against the types of Kubernetes' own Python client.

An API server drops a field that it does not know, so that a typing error in a rule of placement
would go unnoticed.
"""

import re

from kubernetes.client import models

_SIMPLE = {"str": (str, "a text"), "int": (int, "a whole number"), "bool": (bool, "true or false")}


def check(value: object, type_name: str, where: str) -> None:
    """Checks that a value is of a type, as the client writes it: ``list[V1Toleration]``.

    Raises:
        ValueError: It is not; says where in the value.
    """
    if match := re.fullmatch(r"list\[(.*)\]", type_name):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {value!r}")
        for index, item in enumerate(value):
            check(item, match[1], f"{where}[{index}]")
    elif type_name in _SIMPLE:
        expected, name = _SIMPLE[type_name]
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise ValueError(f"{where} must be {name}, got {value!r}")
    elif not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {value!r}")
    elif match := re.fullmatch(r"dict\(str, (.*)\)", type_name):
        for name, item in value.items():
            check(item, match[1], f"{where}.{name}")
    else:
        _check_model(value, type_name, where)


def _check_model(value: dict[str, object], type_name: str, where: str) -> None:
    model = getattr(models, type_name)
    types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    for name, item in value.items():
        if name not in types:
            raise ValueError(f"{where} has no {name!r}; there are {', '.join(types)}")
        check(item, types[name], f"{where}.{name}")
