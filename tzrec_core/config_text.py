"""Where in a text each field of a config stands, for protobuf's text format and for JSON."""

import bisect
import re
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tzrec_core.config_fields import is_map, join, not_supported

# JSON has the same tokens but for comments and single quotes.
TOKEN = re.compile(
    r"""
    (?P<skip>\s+|\#[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<mark>[{}<>\[\]:,;])
    |(?P<word>[^\s{}<>\[\]:,;"'\#]+)
    |(?P<stray>.)
    """,
    re.VERBOSE | re.DOTALL,
)
OPENING = {"{": "}", "<": ">", "[": "]"}


@dataclass(frozen=True)
class Token:
    """A piece of the text: its kind (the group of TOKEN), its characters and where it starts."""

    kind: str
    text: str
    line: int
    column: int


@dataclass
class Survey:
    """The fields found in a text, in reading order, and complaints about those not in the schema.

    ``positions[i]`` is the (line, column), counted from 1, of the field at ``paths[i]``; entries of
    repeated fields have paths like ``feature_configs[3]``.
    """

    positions: list[tuple[int, int]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    unknown: list[tuple[int, str]] = field(default_factory=list)

    def line_of(self, path: str) -> int | None:
        """The line of ``path``, or of the closest field around it, or None.

        A repeated field stands where its first entry does.
        """
        lines: dict[str, int] = {}
        for (line, _), known in zip(self.positions, self.paths, strict=True):
            lines.setdefault(known, line)
            lines.setdefault(known.removesuffix("[0]"), line)
        while path not in lines and path:
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return lines.get(path)

    def path_at(self, line: int, column: int) -> str:
        """The path of the last field that starts at or before a position; empty if there is none.

        A parser reports where the offending value stands, which is after the name of its field.
        """
        index = bisect.bisect_right(self.positions, (line, column))
        return self.paths[index - 1] if index else ""


def tokens(text: str) -> list[Token]:
    """Cuts ``text`` into tokens, white space and comments left out."""
    found = []
    line, line_start = 1, 0
    for match in TOKEN.finditer(text):
        kind = match.lastgroup
        assert kind is not None
        if kind != "skip":
            found.append(Token(kind, match.group(), line, match.start() - line_start + 1))
        newlines = match.group().count("\n")
        if newlines:
            line += newlines
            line_start = match.start() + match.group().rfind("\n") + 1
    return found


def survey(text: str, descriptor: Descriptor, path: str = "") -> Survey:
    """Finds the fields of a message of type ``descriptor`` in its text or JSON spelling.

    It does not judge the syntax: where that is broken the survey is incomplete, and parsing the
    text tells why. ``path`` is where the message itself stands.
    """
    scan = _Scan(tokens(text))
    if scan.peek() == "{":
        scan.next_index += 1
    scan.message([descriptor], path)
    return scan.result


class _Scan:
    """A position in a list of tokens, moved forward by reading messages and values."""

    def __init__(self, found: list[Token]) -> None:
        self.tokens = found
        self.next_index = 0
        self.result = Survey()

    def peek(self) -> str:
        return self.tokens[self.next_index].text if self.next_index < len(self.tokens) else ""

    def take(self) -> Token:
        self.next_index += 1
        return self.tokens[self.next_index - 1]

    def message(self, descriptors: list[Descriptor], path: str) -> None:
        """Reads fields up to the closing bracket; the innermost descriptor is the last."""
        counts: dict[str, int] = {}
        while self.peek() not in ("", "}", ">"):
            name = self.take()
            if name.kind in ("word", "string"):
                self.field(name, descriptors, path, counts)
            elif name.text == "[":  # an extension: no message of ours has one
                self.next_index -= 1
                self.field(Token("word", "[...]", name.line, name.column), descriptors, path, {})

    def field(
        self, token: Token, descriptors: list[Descriptor], path: str, counts: dict[str, int]
    ) -> None:
        is_json = token.kind == "string"
        name = token.text[1:-1] if is_json else token.text
        known = find_field(descriptors[-1], name, json=is_json)
        if known is None:
            reason = not_supported(descriptors[-1], name)
            if any(name in outer.fields_by_name for outer in descriptors[:-1]):
                reason += "; or is a closing bracket missing above this line?"
            self.result.unknown.append((token.line, f"{join(path, name)} {reason}"))
        if self.peek() == "[" and name == "[...]":
            self.skip()
        if self.peek() == ":":
            self.next_index += 1
        if known is None or (is_json and is_map(known)):
            if known is not None:
                self.record(token, join(path, known.name))
            self.skip()
            return
        self.value(token, known, descriptors, join(path, known.name), counts)

    def value(
        self,
        token: Token,
        known: FieldDescriptor,
        descriptors: list[Descriptor],
        path: str,
        counts: dict[str, int],
    ) -> None:
        is_list = self.peek() == "["
        if is_list:
            self.record(token, path)
            self.next_index += 1
        while self.peek() not in ("", "]"):
            start = self.tokens[self.next_index] if is_list else token
            here = path
            if known.is_repeated:
                here = f"{path}[{counts.setdefault(known.name, 0)}]"
                counts[known.name] += 1
            self.record(start, here)
            if self.peek() in ("{", "<") and known.message_type is not None:
                self.next_index += 1
                self.message([*descriptors, known.message_type], here)
                self.next_index += 1
            else:
                self.skip()
            if not is_list:
                return
            if self.peek() == ",":
                self.next_index += 1
        self.next_index += 1

    def skip(self) -> None:
        """Passes one value: a word, strings side by side, or what is between two brackets."""
        depth = 0
        while self.next_index < len(self.tokens):
            token = self.take()
            if token.text in OPENING:
                depth += 1
            elif token.text in OPENING.values():
                depth -= 1
                if depth < 0:  # the bracket belongs to whatever is around the value
                    self.next_index -= 1
                    return
            more = token.kind == "string" and self.tokens[self.next_index :][:1]
            if depth == 0 and not (more and more[0].kind == "string"):
                return

    def record(self, token: Token, path: str) -> None:
        self.result.positions.append((token.line, token.column))
        self.result.paths.append(path)


def find_field(descriptor: Descriptor, name: str, *, json: bool = False) -> FieldDescriptor | None:
    """The field ``name`` of a message; JSON may also spell it in camel case."""
    known = descriptor.fields_by_name.get(name)
    if known is None and json:
        return next((field for field in descriptor.fields if field.json_name == name), None)
    return known
