import math

import numpy as np
import pytest

from tzrec_core.features.normalizers import parse_normalizer

X = np.array([-3.0, 0.0, 1e-12, 0.04, 0.05, 2.0, 100.0])


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("method=log10", lambda x: math.log10(x) if x > 1e-10 else -10),
        (
            "method=log10,threshold=0.05,default=-5",
            lambda x: math.log10(x) if x > 0.05 else -5,
        ),
        (" method = log10 , default = 1 ", lambda x: math.log10(x) if x > 1e-10 else 1),
        ("method=zscore,mean=2,standard_deviation=4", lambda x: (x - 2) / 4),
        ("method=minmax,min=-1,max=3", lambda x: (x + 1) / 4),
        ("method=expression,expr=max(x, 0)", lambda x: max(x, 0)),
        ("method=expression, expr=x*x", lambda x: x * x),
    ],
)
def test_normalizer_is_its_formula(text, reference):
    np.testing.assert_allclose(parse_normalizer(text)(X), [reference(x) for x in X])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log10", "must be one of method=log10"),
        ("method=log2", "must be one of method=log10"),
        ("method=expression", "must be one of method=log10"),
        ("method=expression,expr=y", "'y' is not known"),
        ("method=log10,base=2", "'base' must be one of threshold, default"),
        ("method=log10,threshold=-1", "threshold must be 0 or more"),
        ("method=log10,threshold=low", "threshold must be a number, got 'low'"),
        ("method=log10,default=nan", "default must be a number, got 'nan'"),
        ("method=zscore", "needs mean and standard_deviation"),
        ("method=zscore,mean=1,standard_deviation=0", "more than 0"),
        ("method=minmax,min=1", "needs max"),
        ("method=minmax,min=1,max=1", "max must be more than min"),
    ],
)
def test_a_bad_normalizer_is_an_error_that_says_what_is_allowed(text, message):
    with pytest.raises(ValueError, match=message):
        parse_normalizer(text)
