"""Every optimizer of the schema builds, or is refused by name, with every field of its message."""

import pytest
import torch

from tzrec_core.optim.build import build_dense_factory
from tzrec_core.protos import optimizer_pb2

DENSE = optimizer_pb2.DenseOptimizer.DESCRIPTOR.oneofs_by_name["optimizer"].fields


@pytest.mark.parametrize("field", DENSE, ids=lambda field: field.name)
def test_every_dense_optimizer_passes_every_field_on_to_torch(field):
    config = optimizer_pb2.DenseOptimizer()
    message = getattr(config, field.name)
    for number, option in enumerate(message.DESCRIPTOR.fields, start=1):
        # Values that binary floats hold exactly, a different one for every field, none a default.
        value = True if option.type == option.TYPE_BOOL else number / 64
        setattr(message, option.name, value)
    if field.name == "sgd_optimizer":
        message.dampening = 0.0  # which nesterov demands
    weight = torch.ones(3, requires_grad=True)

    (group,) = build_dense_factory(config)([weight]).param_groups

    kind = field.name.removesuffix("_optimizer")
    assert type(build_dense_factory(config)([weight])).__name__.lower() == kind
    expected = {option.name: getattr(message, option.name) for option in message.DESCRIPTOR.fields}
    if "beta1" in expected:
        expected["betas"] = (expected.pop("beta1"), expected.pop("beta2"))
    assert {name: group[name] for name in expected if name != "initial_accumulator_value"} == {
        name: value for name, value in expected.items() if name != "initial_accumulator_value"
    }


def test_the_dense_accumulator_starts_with_its_value():
    config = optimizer_pb2.DenseOptimizer(
        adagrad_optimizer=optimizer_pb2.AdagradOptimizer(initial_accumulator_value=0.25)
    )
    weight = torch.ones(3, requires_grad=True)

    optimizer = build_dense_factory(config)([weight])

    assert optimizer.state[weight]["sum"].tolist() == [0.25] * 3


def test_no_optimizer_at_all_is_an_error_that_lists_the_supported_ones():
    with pytest.raises(ValueError, match=r"must be one of sgd_optimizer, adagrad_optimizer"):
        build_dense_factory(optimizer_pb2.DenseOptimizer())
