"""Every optimizer of the schema builds, or is refused by name, with every field of its message."""

import pytest
import torch

from tzrec_core.optim.build import build_dense_factory, build_sparse_rule
from tzrec_core.protos import optimizer_pb2
from tzrec_core.protos.options_pb2 import planned

SPARSE = optimizer_pb2.SparseOptimizer.DESCRIPTOR.oneofs_by_name["optimizer"].fields
DENSE = optimizer_pb2.DenseOptimizer.DESCRIPTOR.oneofs_by_name["optimizer"].fields


@pytest.mark.parametrize("field", SPARSE, ids=lambda field: field.name)
def test_every_sparse_optimizer_builds_with_its_defaults_or_is_planned(field):
    config = optimizer_pb2.SparseOptimizer()
    getattr(config, field.name).SetInParent()

    if field.GetOptions().Extensions[planned]:
        with pytest.raises(ValueError, match=field.name):
            build_sparse_rule(config)
    else:
        arguments = build_sparse_rule(config).arguments
        chosen = getattr(config, field.name)
        assert arguments == {
            "lr": chosen.lr,
            "gradient_clipping": chosen.gradient_clipping,
            "max_gradient": chosen.max_gradient,
        }


def test_sparse_fields_reach_the_rule():
    config = optimizer_pb2.SparseOptimizer(
        adagrad_optimizer=optimizer_pb2.FusedAdagradOptimizer(
            lr=0.5, gradient_clipping=True, max_gradient=0.25, initial_accumulator_value=0.125
        )
    )

    rule = build_sparse_rule(config)

    assert rule.arguments == {"lr": 0.5, "gradient_clipping": True, "max_gradient": 0.25}
    assert rule.initial_accumulator_value == 0.125


def test_what_the_cpu_kernel_would_ignore_is_refused_by_name():
    config = optimizer_pb2.SparseOptimizer(
        rowwise_adagrad_optimizer=optimizer_pb2.FusedRowWiseAdagradOptimizer(weight_decay=0.5)
    )

    with pytest.raises(ValueError, match=r"rowwise_adagrad_optimizer.weight_decay must be 0.*0.5"):
        build_sparse_rule(config)


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


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (build_sparse_rule, optimizer_pb2.SparseOptimizer()),
        (build_dense_factory, optimizer_pb2.DenseOptimizer()),
    ],
)
def test_no_optimizer_at_all_is_an_error_that_lists_the_supported_ones(build, config):
    with pytest.raises(ValueError, match=r"must be one of sgd_optimizer, adagrad_optimizer"):
        build(config)
