"""Changes a config by paths, as TorchEasyRec's ``--edit_config_json`` does, without ``eval``."""

import json
import logging
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tzrec_core.config_fields import FieldError, join, not_supported
from tzrec_core.config_value import assign, assign_entry, convert, rival_of
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

logger = logging.getLogger(__name__)

BRACKETS = r"""\[(?:[^\[\]"']|"[^"]*"|'[^']*')*\]"""
STEP = re.compile(rf"(\w+)({BRACKETS})?(\.|$)")
PATHS = re.compile(rf"(?:[^;\[]|{BRACKETS}|\[)+")
SLICE = re.compile(r"(-?\d+)?\s*:\s*(-?\d+)?")
CONDITION = re.compile(r"([\w.]+)\s*(>=|<=|=|>|<)\s*(.*)", re.DOTALL)
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
ORDERED = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_FLOAT,
    FieldDescriptor.CPPTYPE_DOUBLE,
)


@dataclass(frozen=True)
class Step:
    """One name of a path, and what stood in brackets behind it (None without brackets)."""

    name: str
    selector: str | None


@dataclass(frozen=True)
class Target:
    """A field of a message, or one entry of a repeated field, that an edit sets."""

    message: Message
    field: FieldDescriptor
    index: int | None
    path: str


def edits_from_json(text: str) -> dict[str, object]:
    """Reads edits from a JSON object that maps paths to values.

    Raises:
        ValueError: not JSON, not an object, or the same path twice.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            raise ValueError(f"edits name a key twice: {[name for name, _ in pairs]}")
        return entries

    try:
        edits = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"edits are not JSON ({error}): {text!r}") from None
    if not isinstance(edits, dict):
        raise ValueError(f"edits must be a JSON object that maps paths to values, got {text!r}")
    return edits


def edit(config: EasyRecConfig, edits: Mapping[str, object]) -> None:
    """Sets the fields that the paths of ``edits`` name; all edits are made, or none.

    A path is names with dots between; an entry of a repeated field is chosen by ``[3]``, ``[-1]``,
    ``[1:4]``, ``[:]`` or ``[path=value]`` (also >=, <=, >, <, the path leading on from the entry).
    ``"a;b": "1;2"`` is two edits. Values are converted to the field's type; a message is given as
    text or a mapping and replaces the old one; None unsets a field.

    Messages on the way that are not set are created. A oneof is never switched on the way: a slice
    or condition passes over entries that hold another member, a plain path is an error. Only a
    plain path that ends in the member itself puts it in the other's place, and logs that.

    Raises:
        ValueError: a path or value is wrong, or an edit matches nothing.
    """
    edited = EasyRecConfig()
    edited.CopyFrom(config)
    for key, value in edits.items():
        for path, single in _split(key, value):
            try:
                _apply(edited, path, single)
            except FieldError as error:
                raise ValueError(f"edit {path!r}: {error}") from None
    config.CopyFrom(edited)


def _split(key: str, value: object) -> list[tuple[str, object]]:
    paths = [path.strip() for path in PATHS.findall(key)]
    if len(paths) < 2:
        return [(key.strip(), value)]
    values = value.split(";") if isinstance(value, str) else value
    if not isinstance(values, list) or len(values) != len(paths):
        raise ValueError(
            f"edit {key!r}: value is {value!r}; must be {len(paths)} values with ';' between"
        )
    return list(zip(paths, values, strict=True))


def _apply(config: EasyRecConfig, path: str, value: object) -> None:
    passed_over: list[str] = []
    targets = list(_targets(config, _parse(path), "", passed_over, many=False))
    if not targets:
        raise FieldError("", "; ".join(["matches nothing", *passed_over]))
    for target in targets:
        if target.index is not None:
            assign_entry(target.message, target.field, target.index, value, target.path)
            continue
        rival = rival_of(target.message, target.field)
        if rival and value is not None:
            logger.warning("edit: %s takes the place of %s", target.path, rival)
        assign(target.message, target.field, value, target.path)


def _parse(path: str) -> list[Step]:
    steps = []
    position, more = 0, True
    while more:
        match = STEP.match(path, position)
        if match is None:
            raise FieldError(
                "", f"cannot be read from {path[position:]!r} on; must be like a.b[0].c"
            )
        name, selector, dot = match.groups()
        steps.append(Step(name, selector[1:-1].strip() if selector else None))
        position, more = match.end(), bool(dot)
    return steps


def _targets(
    message: Message, steps: list[Step], path: str, passed_over: list[str], *, many: bool
) -> Iterator[Target]:
    """Yields what a path names below ``message``; ``many`` if it passed a slice or condition."""
    step, rest = steps[0], steps[1:]
    here = join(path, step.name)
    field = _field(message.DESCRIPTOR, step.name, here)
    if rest and field.message_type is None:
        raise FieldError(here, f"has no fields; the path goes on with {rest[0].name!r}")
    if step.selector is not None:
        if not field.is_repeated:
            raise FieldError(here, f"is not repeated; [{step.selector}] cannot choose from it")
        many = many or re.fullmatch(r"-?\d+", step.selector) is None
        entries = getattr(message, field.name)
        for index in _choose(entries, field, step.selector, here, passed_over):
            entry = f"{here}[{index}]"
            if rest:
                yield from _targets(entries[index], rest, entry, passed_over, many=many)
            else:
                yield Target(message, field, index, entry)
        return
    if rest and field.is_repeated:
        example = f"{step.name}[0], {step.name}[:] or {step.name}[name=value]"
        raise FieldError(here, f"is repeated; say which entries, for example {example}")
    if field.containing_oneof is not None and (rest or many):
        chosen = message.WhichOneof(field.containing_oneof.name)
        if many and chosen != field.name:
            passed_over.append(f"{path} has {chosen or 'nothing'} in place of {field.name}")
            return
        if chosen not in (None, field.name):
            raise FieldError(
                here, f"is not set, {chosen} is; edit that, or set {here} itself to replace it"
            )
    if rest:
        yield from _targets(getattr(message, field.name), rest, here, passed_over, many=many)
    else:
        yield Target(message, field, None, here)


def _field(descriptor: Descriptor, name: str, path: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(name)
    if field is None:
        raise FieldError(path, not_supported(descriptor, name))
    return field


def _choose(
    entries: Any, field: FieldDescriptor, selector: str, path: str, passed_over: list[str]
) -> list[int]:
    """The indices of ``entries`` that the text in brackets selects."""
    count = len(entries)
    if re.fullmatch(r"-?\d+", selector):
        index = int(selector)
        if not -count <= index < count:
            raise FieldError(path, f"has {count} entries; index {index} is outside")
        return [index % count]
    if match := SLICE.fullmatch(selector):
        start, stop = (int(bound) if bound else None for bound in match.groups())
        chosen = list(range(count))[start:stop]
        if not chosen:
            passed_over.append(f"{path} has {count} entries, none in [{selector}]")
        return chosen
    match = CONDITION.fullmatch(selector)
    if match is None:
        raise FieldError(
            path, f"cannot be chosen from by [{selector}]; must be like [0], [1:3] or [name=value]"
        )
    return _matching(entries, field, match, path, passed_over)


def _matching(
    entries: Any, field: FieldDescriptor, match: re.Match[str], path: str, passed_over: list[str]
) -> list[int]:
    """The indices of the entries that satisfy a condition."""
    names, symbol, text = match.groups()
    condition = f"{path}[{match.group()}]"
    if field.message_type is None:
        raise FieldError(condition, "needs a repeated message; this one holds plain values")
    leaf = None
    for name in names.split("."):
        descriptor = leaf.message_type if leaf is not None else field.message_type
        if descriptor is None:
            raise FieldError(condition, f"goes on with {name!r} behind a plain value")
        leaf = _field(descriptor, name, condition)
    assert leaf is not None
    if leaf.message_type is not None:
        raise FieldError(condition, "must end in a plain value, not a message")
    if symbol != "=" and leaf.cpp_type not in ORDERED:
        raise FieldError(condition, f"cannot use {symbol}; only numbers have an order")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    wanted = convert(leaf, text, condition)
    values = [list(_values(entry, names.split("."))) for entry in entries]
    chosen = [
        index
        for index, found in enumerate(values)
        if any(COMPARE[symbol](value, wanted) for value in found)
    ]
    if not chosen:
        there = sorted({str(value) for found in values for value in found})
        shown = ", ".join(there[:50]) + (", ..." if len(there) > 50 else "")
        passed_over.append(f"{condition}: the values there are {shown or 'none'}")
    return chosen


def _values(message: Message, names: list[str]) -> Iterator[Any]:
    """Yields the values at a path below ``message``: every entry where it meets a repeated field.

    A field that is not set counts with the schema's default, if there is one.
    """
    field = message.DESCRIPTOR.fields_by_name[names[0]]
    value = getattr(message, field.name)
    if not field.is_repeated and not (message.HasField(field.name) or field.has_default_value):
        return
    for entry in value if field.is_repeated else [value]:
        if len(names) == 1:
            yield entry
        else:
            yield from _values(entry, names[1:])
