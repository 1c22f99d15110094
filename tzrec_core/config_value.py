"""Puts values into fields of a config, whether they come as Python, JSON or protobuf text.

One implementation for JSON files and for edits, so both convert and complain alike.
"""

import math
import re
import struct
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from tzrec_core.config_fields import FieldError, is_map, join, not_supported
from tzrec_core.config_text import find_field, survey

INTEGER_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def assign(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    """Replaces what ``field`` of ``message`` holds.

    Args:
        message: changed in place; half-changed when an error is raised.
        field: one of its fields.
        value: a scalar of any type that can be read as the field's; protobuf text or a mapping for
            a message; a list, or text in brackets, or a single entry for a repeated field; a
            mapping for a map; None to unset the field.
        path: of the field, for messages to the user.

    Raises:
        FieldError: the value does not fit; names the innermost path, the value and what is allowed.
    """
    message.ClearField(field.name)
    if value is None:
        return
    if field.is_repeated and isinstance(value, str) and (is_map(field) or value.startswith("[")):
        _parse_repeated(message, field, value, path)
    elif is_map(field):
        _assign_map(message, field, value, path)
    elif field.is_repeated:
        entries = getattr(message, field.name)
        for index, entry in enumerate(value if isinstance(value, list | tuple) else [value]):
            here = f"{path}[{index}]"
            if field.message_type is None:
                entries.append(convert(field, entry, here))
            else:
                fill(entries.add(), entry, here)
    elif field.message_type is not None:
        target = getattr(message, field.name)
        target.SetInParent()
        fill(target, value, path)
    else:
        setattr(message, field.name, convert(field, value, path))


def assign_entry(
    message: Message, field: FieldDescriptor, index: int, value: object, path: str
) -> None:
    """Replaces one entry of a repeated field; otherwise like :func:`assign`."""
    entries = getattr(message, field.name)
    if field.message_type is None:
        entries[index] = convert(field, value, path)
    else:
        entries[index].Clear()
        fill(entries[index], value, path)


def fill(message: Message, value: object, path: str) -> None:
    """Fills an empty message from protobuf text (outer braces optional) or from a mapping.

    Raises:
        FieldError: unknown field, value that does not fit, two members of one oneof.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{") and text.endswith("}"):
            text = text[1:-1]
        parse(text, message, path)
        return
    if not isinstance(value, Mapping):
        raise FieldError(path, f"is {value!r}; must be a message: text like '{{field: value}}'")
    seen = set()
    for name, entry in value.items():
        field = find_field(message.DESCRIPTOR, str(name), json=True)
        if field is None:
            reason = not_supported(message.DESCRIPTOR, str(name))
            raise FieldError(join(path, str(name)), reason)
        here = join(path, field.name)
        if field.name in seen:
            raise FieldError(here, "is set twice")
        seen.add(field.name)
        rival = rival_of(message, field)
        if rival and entry is not None:
            raise FieldError(here, f"is set beside {rival}; only one of them is allowed")
        assign(message, field, entry, here)


def rival_of(message: Message, field: FieldDescriptor) -> str | None:
    """The member that is set in ``field``'s oneof, if it is another one."""
    if field.containing_oneof is None:
        return None
    chosen: str | None = message.WhichOneof(field.containing_oneof.name)
    return None if chosen == field.name else chosen


def parse(text: str, message: Message, path: str) -> None:
    """Reads protobuf text into ``message``, which is empty.

    Raises:
        FieldError: syntax error, unknown field, or value that does not fit.
    """
    found = survey(text, message.DESCRIPTOR, path)
    if found.unknown:
        raise FieldError("", "; ".join(reason for _, reason in found.unknown))
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        where = found.path_at(error.GetLine() or 1, error.GetColumn() or 1) or path
        raise FieldError(where, f"cannot be read: {explain(error)}") from None


def explain(error: text_format.ParseError) -> str:
    """The parser's reason without the position and the quoted line in front of it."""
    reason = re.sub(r"^\d+:\d+ : ", "", str(error)).strip()
    return re.sub(r"^'.*': ", "", reason, flags=re.DOTALL).rstrip(".")


def convert(field: FieldDescriptor, value: object, path: str) -> Any:
    """Reads a scalar as the type of ``field``.

    Integers may be written as text, in powers of ten or as whole floats; booleans as true, false, 1
    or 0; enums by name or number; numbers may stand where text is asked for.

    Raises:
        FieldError: with the value and what is allowed.
    """
    kind = field.cpp_type
    if kind in INTEGER_RANGES:
        return _integer(value, *INTEGER_RANGES[kind], path)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return _number(value, path, single=kind == FieldDescriptor.CPPTYPE_FLOAT)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _boolean(value, path)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum(field.enum_type, value, path)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise FieldError(path, f"is {value!r}; must be text")


def _integer(value: object, smallest: int, largest: int, path: str) -> int:
    allowed = f"must be a whole number from {smallest} to {largest}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise FieldError(path, f"is {value!r}; {allowed}")
    try:
        # Decimal reads "1e3" exactly and does not build the digits of "1e999999".
        number = Decimal(value.strip() if isinstance(value, str) else value)
    except InvalidOperation:
        raise FieldError(path, f"is {value!r}; {allowed}") from None
    if not number.is_finite() or not smallest <= number <= largest or number % 1:
        raise FieldError(path, f"is {value!r}; {allowed}")
    return int(number)


def _number(value: object, path: str, *, single: bool) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        number = float(value)
        # As it will be stored: comparing 0.1 with a float field needs the same rounding.
        rounded = struct.unpack("<f", struct.pack("<f", number))[0] if single else number
    except (TypeError, ValueError, OverflowError):
        rounded = math.nan
    if math.isnan(rounded):
        kind = "single precision" if single else "double precision"
        raise FieldError(path, f"is {value!r}; must be a number in {kind}")
    return float(rounded)


def _boolean(value: object, path: str) -> bool:
    known = BOOLEANS.get(str(value).strip().lower())
    if known is None:
        raise FieldError(path, f"is {value!r}; must be true, false, 1 or 0")
    return known


def _enum(kind: EnumDescriptor, value: object, path: str) -> int:
    by_name = {name: entry.number for name, entry in kind.values_by_name.items()}
    if isinstance(value, str) and value.strip() in by_name:
        return int(by_name[value.strip()])
    if str(value).isdecimal() and int(str(value)) in by_name.values():
        return int(str(value))
    raise FieldError(path, f"is {value!r}; allowed: {', '.join(by_name)}")


def _parse_repeated(message: Message, field: FieldDescriptor, text: str, path: str) -> None:
    """Reads ``[...]`` (or the entries of a map) by parsing it as that field of its message."""
    scratch = type(message)()
    outer = path.removesuffix(field.name).removesuffix(".")
    parse(f"{field.name}: {text}", scratch, outer)
    message.MergeFrom(scratch)


def _assign_map(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    if not isinstance(value, Mapping):
        raise FieldError(path, f"is {value!r}; must map keys to values")
    parts = field.message_type.fields_by_name
    entries = getattr(message, field.name)
    for key, entry in value.items():
        here = f"{path}[{key}]"
        entries[convert(parts["key"], key, here)] = convert(parts["value"], entry, here)
