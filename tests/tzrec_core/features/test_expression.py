import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tzrec_core.features.parsing import few
from tzrec_core.features.expression import CONSTANTS, FOLDS, FUNCTIONS, compile_expression

X = np.array([-2.5, -1.0, 0.0, 0.5, 1.0, 3.0])


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("x", lambda x: x),
        ("2", lambda x: 2),
        (" 1.5e-2 * x + .5 ", lambda x: 0.015 * x + 0.5),
        ("x - 1 - 2", lambda x: (x - 1) - 2),
        ("8 / 4 / 2", lambda x: 1),
        ("2 ^ 3 ^ 2", lambda x: 2 ** (3**2)),
        ("-x ^ 2", lambda x: -(x**2)),
        ("2 ^ -1", lambda x: 0.5),
        ("2 * -x", lambda x: -2 * x),
        ("+x", lambda x: x),
        ("1 + 2 * x > 2 - x", lambda x: float(1 + 2 * x > 2 - x)),
        ("x >= 0 && x < 1 || x == 3", lambda x: float((0 <= x < 1) or x == 3)),
        ("x != 0", lambda x: float(x != 0)),
        ("x <= 0", lambda x: float(x <= 0)),
        ("x > 0 ? log(x) : -1", lambda x: math.log(x) if x > 0 else -1),
        ("x < 0 ? 1 : x < 1 ? 2 : 3", lambda x: 1 if x < 0 else 2 if x < 1 else 3),
        ("(x < 0 ? 1 : 2) * 10", lambda x: 10 if x < 0 else 20),
        ("max(x, 0, 1 - x)", lambda x: max(x, 0, 1 - x)),
        ("min(x) + sum(x, 1) + avg(x, 2)", lambda x: x + (x + 1) + (x + 2) / 2),
        ("sigmoid(x) * _pi - _e", lambda x: 1 / (1 + math.exp(-x)) * math.pi - math.e),
        ("sqrt(abs(x)) + sign(x) + rint(x)", lambda x: math.sqrt(abs(x)) + np.sign(x) + round(x)),
        ("ln(exp(x)) + log2(8) + log10(100)", lambda x: x + 3 + 2),
        ("asinh(sinh(x)) + atan(tan(1))", lambda x: x + 1),
    ],
)
def test_expression_means_what_it_does_in_python(text, reference):
    np.testing.assert_allclose(compile_expression(text)(X), [reference(x) for x in X], rtol=1e-12)


@few
@given(
    st.recursive(
        st.sampled_from(["x", "1", "2.5", "0.5"]),
        lambda inner: (
            st.tuples(inner, st.sampled_from(["+", "-", "*", "<", ">="]), inner).map(" ".join)
            | inner.map("({})".format)
            | inner.map("-{}".format)
        ),
        max_leaves=12,
    )
)
def test_precedence_is_that_of_c(text):
    # Python's comparisons chain, C's do not, so only expressions without two of them compare.
    if text.count("<") + text.count(">=") <= 1:
        expected = [float(eval(text, {"x": x})) for x in X.tolist()]
        np.testing.assert_allclose(compile_expression(text)(X), expected)


def test_every_function_is_known_by_its_name():
    for name in FUNCTIONS:
        assert compile_expression(f"{name}(x)")(X).shape == X.shape
    for name in FOLDS:
        assert compile_expression(f"{name}(x, 1)")(X).shape == X.shape
    for name in CONSTANTS:
        assert compile_expression(name)(X).tolist() == [CONSTANTS[name]] * len(X)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x +",
        "x x",
        "(x",
        "x)",
        "y + 1",
        "log(x, 2)",
        "max()",
        "x ? 1",
        "x = 1",
        "__import__('os')",
        "x.real",
        "x[0]",
        "1;2",
        "min",
        "x & 1",
    ],
)
def test_anything_else_is_an_error_that_says_what_is_allowed(text):
    with pytest.raises(ValueError, match="allowed are numbers, x, "):
        compile_expression(text)
