"""What the schema says about its fields: which exist, which are only planned, what to offer."""

import difflib
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tzrec_core.protos import options_pb2

# What the members of a oneof are called in messages to the user.
MEMBERS = {
    "feature": "features",
    "learning_rate": "learning rates",
    "loss": "losses",
    "metric": "metrics",
    "model": "models",
    "optimizer": "optimizers",
}


class FieldError(ValueError):
    """A field that is wrong: its path, and what is wrong with it and what would be right."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}".strip())
        self.path = path
        self.reason = reason


def join(path: str, name: str) -> str:
    """Appends a field's name to the path of the message that holds it."""
    return f"{path}.{name}" if path else name


def is_planned(field: FieldDescriptor) -> bool:
    """Whether the schema knows ``field`` while nothing implements it yet."""
    return bool(field.GetOptions().Extensions[options_pb2.planned])


def is_map(field: FieldDescriptor) -> bool:
    """Whether ``field`` is a map, which protobuf stores as a repeated message of key and value."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def not_supported(descriptor: Descriptor, name: str) -> str:
    """Says that ``descriptor`` has no field ``name``, and which ones it has."""
    usable = [field for field in descriptor.fields if not is_planned(field)]
    offers = []
    for oneof in descriptor.oneofs:
        members = sorted(field.name for field in usable if field.containing_oneof is oneof)
        offers.append(f"supported {MEMBERS[oneof.name]}: {', '.join(members)}")
    others = sorted(field.name for field in usable if field.containing_oneof is None)
    if others:
        offers.append(f"{'other' if offers else 'supported'} fields: {', '.join(others)}")
    meant = difflib.get_close_matches(name, [field.name for field in usable], n=1, cutoff=0.8)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    return f"is not supported{hint}; {'; '.join(offers) or 'it has no fields'}"


def planned_fields(message: Message, path: str = "") -> Iterator[str]:
    """Yields the path of every planned field that ``message`` sets, at any depth.

    One that is set to nothing (0, false, empty), or a switch that is set to its default, asks for
    nothing and is let through.
    """
    for field, value in message.ListFields():
        here = join(path, field.name)
        if is_planned(field):
            is_switch = field.cpp_type == field.CPPTYPE_BOOL
            if value != field.default_value or not (is_switch or not value):
                yield here
        elif field.message_type is not None and not is_map(field):
            if field.is_repeated:
                for index, entry in enumerate(value):
                    yield from planned_fields(entry, f"{here}[{index}]")
            else:
                yield from planned_fields(value, here)
