"""Every sparse optimizer of the schema builds with all its fields, or is refused by name."""

import pytest
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode

from tzrec_core.optim.sparse import SparseRule
from tzrec_core.optim.tables.build import CPU_ONLY, build_sparse_rule
from tzrec_core.protos import optimizer_pb2

FIELDS = optimizer_pb2.SparseOptimizer.DESCRIPTOR.oneofs_by_name["optimizer"].fields
DEVICES = ("cpu", "cuda")


def arguments_of(rule: SparseRule) -> dict[str, object]:
    """Returns all that the kernel is told, whichever it is."""
    arguments = dict(rule.arguments)
    row_rule = arguments.pop("row_rule", None)
    if row_rule is not None:
        arguments |= row_rule.update.keywords
    if rule.initial_accumulator_value:
        arguments["initial_accumulator_value"] = rule.initial_accumulator_value
    return arguments


@pytest.mark.parametrize(
    ("field", "device_type"),
    [
        pytest.param(field, device_type, id=f"{field.name}-{device_type}")
        for field in FIELDS
        for device_type in DEVICES
        if device_type == "cpu" or field.name not in CPU_ONLY
    ],
)
def test_every_field_of_every_sparse_optimizer_reaches_its_rule(field, device_type):
    config = optimizer_pb2.SparseOptimizer()
    message = getattr(config, field.name)
    for number, option in enumerate(message.DESCRIPTOR.fields, start=1):
        if option.name != "weight_decay_mode":
            # Values that binary floats hold exactly, a different one for every field.
            value = True if option.type == option.TYPE_BOOL else number / 64
            setattr(message, option.name, value)
    if field.name == "rowwise_adagrad_optimizer":
        message.weight_decay_mode = optimizer_pb2.L2

    arguments = arguments_of(build_sparse_rule(config, device_type=device_type))

    expected = {option.name: getattr(message, option.name) for option in message.DESCRIPTOR.fields}
    expected.pop("weight_decay_mode", None)
    assert {name: arguments[name] for name in expected} == expected


@pytest.mark.parametrize("device_type", DEVICES)
@pytest.mark.parametrize("mode", ["L2", "DECOUPLE"])
def test_rowwise_adagrad_decays_in_its_mode(mode, device_type):
    config = optimizer_pb2.SparseOptimizer()
    config.rowwise_adagrad_optimizer.weight_decay = 0.5
    config.rowwise_adagrad_optimizer.weight_decay_mode = optimizer_pb2.WeightDecayMode.Value(mode)

    arguments = build_sparse_rule(config, device_type=device_type).arguments

    if device_type == "cuda":
        assert arguments["weight_decay_mode"] == WeightDecayMode[mode]
    else:
        name = {"L2": "rowwise_adagrad_l2", "DECOUPLE": "rowwise_adagrad_decoupled"}[mode]
        assert arguments["row_rule"].update.func.__name__ == name


def test_a_decay_without_a_mode_is_refused_instead_of_ignored():
    config = optimizer_pb2.SparseOptimizer()
    config.rowwise_adagrad_optimizer.weight_decay = 0.5

    with pytest.raises(ValueError, match=r"weight_decay is 0.5; needs weight_decay_mode: L2 or"):
        build_sparse_rule(config, device_type="cpu")


@pytest.mark.parametrize("name", CPU_ONLY)
def test_what_a_gpu_cannot_do_is_refused_there_with_what_it_can(name):
    config = optimizer_pb2.SparseOptimizer()
    getattr(config, name).SetInParent()

    with pytest.raises(ValueError, match=rf"{name} is only for CPUs") as error:
        build_sparse_rule(config, device_type="cuda")

    allowed = str(error.value).partition("must be one of ")[2].split(", ")
    assert allowed == [field.name for field in FIELDS if field.name not in CPU_ONLY]


def test_no_optimizer_at_all_is_an_error_that_lists_all():
    with pytest.raises(
        ValueError, match=r"must be one of sgd_optimizer, .*, rmsprop_optimizer, got"
    ):
        build_sparse_rule(optimizer_pb2.SparseOptimizer(), device_type="cpu")
