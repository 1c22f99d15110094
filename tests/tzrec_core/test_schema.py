"""The schema against a list of TorchEasyRec's fields, written down independently of it."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tzrec_core.config_fields import is_map, is_planned
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

FIELD = re.compile(
    r"""(?P<name>\w+)\#(?P<number>\d+):\ (?P<repeated>repeated\ )?(?P<type>map<.*?>|\w+)
    (?:\ =\ (?P<default>"[^"]*"|'[^']*'|[^;\s]+))?(?=;|\ }|$)""",
    re.VERBOSE,
)
LINES = (Path(__file__).parent / "test_schema_fields.txt").read_text().splitlines()
ENUMS = {line.split()[1]: line for line in LINES if line.startswith("enum")}
MESSAGES = {line.split()[0]: line for line in LINES if line[0] not in "#e"}
# What our config has beyond TorchEasyRec's.
OURS = {
    ("JRCLoss", "same_label_competes"): 1000,
    ("GroupedAUC", "weighting"): 1000,
    ("XAUC", "exclude_tied_targets"): 1000,
    ("XAUC", "weight_batches_equally"): 1001,
    ("XAUC", "seed"): 1002,
    ("GroupedXAUC", "exclude_tied_targets"): 1000,
    ("GroupedXAUC", "seed"): 1001,
    ("EvalConfig", "rows_on_disk"): 1000,
    ("EvalConfig", "slices"): 1001,
    ("EvalConfig", "confidence_level"): 1002,
    ("EvalConfig", "bootstrap_key"): 1003,
    ("ExportConfig", "embedding_precision"): 1000,
    ("ExportConfig", "near_ties"): 1010,
    ("ExportConfig", "tie_break_metric"): 1011,
    ("ExportConfig", "tie_break_larger_is_better"): 1012,
    ("ExportConfig", "gate"): 1013,
    ("MetricConfig", "label_name"): 1000,
    ("MetricConfig", "log_loss"): 1001,
    ("MetricConfig", "calibration"): 1002,
    ("MetricConfig", "calibration_error"): 1003,
    ("MetricConfig", "ndcg_at_k"): 1004,
    ("TrainConfig", "save_checkpoints_async"): 1000,
    ("TrainConfig", "early_stopping"): 1001,
}
OUR_MESSAGES = {
    "Calibration",
    "CalibrationError",
    "EarlyStopping",
    "LogLoss",
    "Margin",
    "NDCGAtK",
    "Slices",
}


def messages(
    descriptor: Descriptor, follow: Callable[[FieldDescriptor], bool] = lambda field: True
) -> dict[str, Descriptor]:
    """Returns the message types that are reached through the fields to ``follow``, by name."""
    found, waiting = {}, [descriptor]
    while waiting:
        last = waiting.pop()
        found[last.name] = last
        kinds = [field.message_type for field in last.fields if follow(field) and not is_map(field)]
        waiting += [kind for kind in kinds if kind is not None and kind.name not in found]
    return found


SCHEMA = messages(EasyRecConfig.DESCRIPTOR)


def type_name(field: FieldDescriptor) -> str:
    if is_map(field):
        parts = field.message_type.fields_by_name
        return f"map<{type_name(parts['key'])}, {type_name(parts['value'])}>"
    if field.message_type is not None:
        return str(field.message_type.name)
    if field.enum_type is not None:
        return str(field.enum_type.name)
    return (
        {v: k for k, v in vars(FieldDescriptor).items() if k.startswith("TYPE_")}[field.type]
        .removeprefix("TYPE_")
        .lower()
    )


def default_of(field: FieldDescriptor) -> object:
    if not field.has_default_value:
        return None
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return pytest.approx(field.default_value, rel=1e-6)
    return field.default_value


def read_default(text: str | None) -> object:
    if text in (None, "true", "false"):
        return {None: None, "true": True, "false": False}[text]
    try:
        return ast.literal_eval(text or "")
    except ValueError:
        return text  # the name of an enum's value


def test_the_list_and_the_schema_have_the_same_messages():
    assert set(MESSAGES) == set(SCHEMA) - OUR_MESSAGES


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_every_field_has_torcheasyrecs_number_type_and_default(name):
    wanted = {
        match["name"]: (
            int(match["number"]),
            match["type"],
            bool(match["repeated"]) or match["type"].startswith("map"),
            read_default(match["default"]),
        )
        for match in FIELD.finditer(MESSAGES[name])
    }

    found = {
        field.name: (field.number, type_name(field), field.is_repeated, default_of(field))
        for field in SCHEMA[name].fields
        if (name, field.name) not in OURS
    }

    assert found == wanted


def test_our_own_fields_are_numbered_from_1000_up():
    found = {
        (name, field.name): field.number
        for name, descriptor in SCHEMA.items()
        for field in descriptor.fields
        if field.number >= 1000
    }

    assert found == OURS


def test_no_field_is_required():
    required = [
        f"{name}.{field.name}"
        for name, descriptor in SCHEMA.items()
        for field in descriptor.fields
        if field.is_required
    ]

    assert required == []


def test_enums_have_torcheasyrecs_numbers():
    for descriptor in SCHEMA.values():
        for field in descriptor.fields:
            if field.enum_type is None:
                continue
            wanted = dict(re.findall(r"(\w+)=(\d+)", ENUMS[field.enum_type.name]))
            for value in field.enum_type.values:
                assert value.number == int(wanted[value.name])


def test_planned_is_a_mark_on_some_fields_only():
    export = SCHEMA["ExportConfig"].fields_by_name

    assert is_planned(export["mixed_precision"])
    assert not is_planned(export["exporter_type"])
