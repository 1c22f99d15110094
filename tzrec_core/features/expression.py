"""Arithmetic on one variable, as ``method=expression`` normalizers spell it."""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Formula = Callable[[Numbers], Numbers]

CONSTANTS = {"_pi": np.pi, "_e": np.e}
FUNCTIONS: dict[str, Callable[[Numbers], Numbers]] = {
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "log2": np.log2,
    "log10": np.log10,
    "log": np.log,
    "ln": np.log,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "sign": np.sign,
    "rint": np.rint,
    "abs": np.abs,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
FOLDS: dict[str, Callable[[Numbers], Numbers]] = {
    "min": lambda stacked: stacked.min(axis=0),
    "max": lambda stacked: stacked.max(axis=0),
    "sum": lambda stacked: stacked.sum(axis=0),
    "avg": lambda stacked: stacked.mean(axis=0),
}
"""Functions of any number of arguments, which they get stacked."""

OPERATORS: dict[str, tuple[int, Callable[[Numbers, Numbers], Numbers]]] = {
    "||": (1, lambda a, b: np.asarray((a != 0) | (b != 0), np.float64)),
    "&&": (2, lambda a, b: np.asarray((a != 0) & (b != 0), np.float64)),
    "<=": (3, lambda a, b: np.asarray(a <= b, np.float64)),
    ">=": (3, lambda a, b: np.asarray(a >= b, np.float64)),
    "!=": (3, lambda a, b: np.asarray(a != b, np.float64)),
    "==": (3, lambda a, b: np.asarray(a == b, np.float64)),
    "<": (3, lambda a, b: np.asarray(a < b, np.float64)),
    ">": (3, lambda a, b: np.asarray(a > b, np.float64)),
    "+": (4, np.add),
    "-": (4, np.subtract),
    "*": (5, np.multiply),
    "/": (5, np.divide),
    "^": (7, np.power),
}
"""Binary operators with their precedence; a sign (6) binds less than a power: -x^2 is -(x^2)."""
SIGN = 6

TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<operator>\|\||&&|<=|>=|!=|==|[-+*/^<>?:(),]))"
)


def compile_expression(text: str) -> Formula:
    """Returns the function of ``x`` that ``text`` describes.

    The language is C's arithmetic without assignment: numbers, ``x``, ``_pi``, ``_e``,
    ``+ - * /``, ``^`` for power, comparisons and ``&& ||`` (1 or 0), ``condition ? a : b`` and
    the functions in ``FUNCTIONS`` and ``FOLDS``. Both branches of a condition are computed.

    Raises:
        ValueError: The text is not such an expression.
    """
    parser = _Parser(text)
    formula = parser.condition()
    parser.expect("")

    def evaluate(x: Numbers) -> Numbers:
        with np.errstate(all="ignore"):
            return np.broadcast_to(formula(x), x.shape)

    return evaluate


class _Parser:
    """Precedence climbing; each method consumes what it recognises."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.kind = self.token = ""
        self.advance()

    def advance(self) -> str:
        """Moves to the next token and returns the one before it."""
        before = self.token
        match = TOKEN.match(self.text, self.position)
        if match is not None:
            self.kind, self.token = match.lastgroup or "", match[match.lastgroup or 0]
            self.position = match.end()
        elif self.text[self.position :].strip():
            raise self.error(f"{self.text[self.position :].strip()[0]!r} is not known")
        else:
            self.kind = self.token = ""
        return before

    def error(self, reason: str) -> ValueError:
        names = ", ".join(["x", *CONSTANTS, *FUNCTIONS, *FOLDS])
        return ValueError(
            f"expression {self.text!r}: {reason}; allowed are numbers, {names}, "
            f"{' '.join(OPERATORS)} ?: and parentheses"
        )

    def expect(self, token: str) -> None:
        if self.token != token:
            raise self.error(
                f"expected {repr(token) if token else 'the end'}, got {self.token or 'the end'!r}"
            )
        self.advance()

    def condition(self) -> Formula:
        test = self.binary(1)
        if self.token != "?":
            return test
        self.advance()
        then = self.condition()
        self.expect(":")
        otherwise = self.condition()
        return lambda x: np.where(test(x) != 0, then(x), otherwise(x))

    def binary(self, lowest: int) -> Formula:
        left = self.operand()
        while self.kind == "operator" and self.token in OPERATORS:
            precedence, operator = OPERATORS[self.token]
            if precedence < lowest:
                break
            # A power groups from the right, everything else from the left.
            right_lowest = precedence if self.advance() == "^" else precedence + 1
            left = _apply(operator, left, self.binary(right_lowest))
        return left

    def operand(self) -> Formula:
        kind, token = self.kind, self.token
        self.advance()
        if kind == "number":
            value = np.float64(token)
            return lambda x: np.asarray(value)
        if kind == "name":
            return self.named(token)
        if token == "(":
            inside = self.condition()
            self.expect(")")
            return inside
        if token in ("-", "+"):
            signed = self.binary(SIGN)
            return signed if token == "+" else lambda x: -signed(x)
        raise self.error(f"a value is missing before {token or 'the end'!r}")

    def named(self, name: str) -> Formula:
        if name == "x":
            return lambda x: x
        if name in CONSTANTS:
            return lambda x: np.asarray(CONSTANTS[name])
        if name not in FUNCTIONS and name not in FOLDS:
            raise self.error(f"{name!r} is not known")
        self.expect("(")
        arguments = [self.condition()]
        while self.token == ",":
            self.advance()
            arguments.append(self.condition())
        self.expect(")")
        if name in FUNCTIONS:
            if len(arguments) != 1:
                raise self.error(f"{name} takes one argument, got {len(arguments)}")
            function, argument = FUNCTIONS[name], arguments[0]
            return lambda x: function(argument(x))
        fold = FOLDS[name]
        return lambda x: fold(np.stack([np.broadcast_to(each(x), x.shape) for each in arguments]))


def _apply(
    operator: Callable[[Numbers, Numbers], Numbers], left: Formula, right: Formula
) -> Formula:
    return lambda x: operator(left(x), right(x))
