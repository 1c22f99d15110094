import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tzrec_core.features.parsing import (
    encoded_values,
    few,
    parse_feature,
    sliced,
    string_forms,
)
from tzrec_core.features.raw_transform import bucket
from tzrec_core.features.schema import FeatureCounts

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 0.5, 1.5, 2.0])
MISSING = st.sampled_from([None, math.nan])
ROWS_OF_3 = st.lists(
    st.none() | st.just([]) | st.lists(NUMBERS | st.none(), min_size=3, max_size=3), max_size=6
)
BAGS = st.lists(st.none() | st.lists(NUMBERS | st.none(), max_size=3), max_size=6)
BOUNDARIES = [-1.0, 0.5, 1.5, 2.0]


def raw_feature(rest: str = "") -> str:
    return f'raw_feature {{ feature_name: "f" expression: "user:c" separator: "|" {rest} }}'


def bucketized(rest: str = "") -> str:
    return raw_feature(f"boundaries: {BOUNDARIES} embedding_dim: 4 {rest}")


def count(x: float) -> int:
    return sum(boundary <= np.float32(x) for boundary in BOUNDARIES)


def is_missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def spelled(row: list[float | None] | None) -> str | None:
    return None if row is None else "|".join("" if v is None else repr(v) for v in row)


@few
@given(st.lists(NUMBERS), st.lists(NUMBERS, min_size=1, unique=True).map(sorted))
def test_bucket_counts_the_boundaries_up_to_x(x, boundaries):
    expected = [sum(boundary <= value for boundary in boundaries) for value in x]

    assert bucket(np.float32(x), np.float32(boundaries)).tolist() == expected


@pytest.mark.parametrize("default", [0.0, 2.5])
@few
@given(st.lists(NUMBERS | MISSING, max_size=8))
def test_a_number_is_normalized_and_a_missing_one_is_the_default(default, values):
    feature = parse_feature(
        raw_feature(
            f'default_value: "{default}" normalizer: "method=zscore,mean=1,standard_deviation=2"'
        )
    )
    expected = [np.float32(default if is_missing(value) else (value - 1) / 2) for value in values]
    texts = [None if value is None else str(value) for value in values]
    kinds = [pa.float64(), pa.float32()]
    columns = [pa.array(values, kind) for kind in kinds] + string_forms(texts)
    num_missing = sum(map(is_missing, values))
    for column in [*columns, sliced(columns[0])]:
        encoded, counts = feature.transform(column)
        assert encoded.type == pa.float32()
        assert encoded.to_pylist() == expected
        assert counts == FeatureCounts(len(values), num_missing, len(values) - num_missing, 0)


@pytest.mark.parametrize("default", ["0.25", "1|2|3"])
@few
@given(ROWS_OF_3)
def test_a_vector_is_filled_place_by_place(default, rows):
    feature = parse_feature(raw_feature(f'value_dim: 3 default_value: "{default}"'))
    defaults = [0.25] * 3 if default == "0.25" else [1.0, 2.0, 3.0]
    expected = [
        [
            fill if value is None else value
            for value, fill in zip(row or [None] * 3, defaults, strict=True)
        ]
        for row in rows
    ]
    assert feature.width == 3
    columns = [
        pa.array(rows, pa.list_(pa.float32())),
        pa.array(rows, pa.large_list(pa.float64())),
        pa.array([row or None for row in rows], pa.list_(pa.float32(), 3)),
        *string_forms([spelled(row) for row in rows]),
    ]
    for column in [*columns, *map(sliced, columns[:3])]:
        encoded, counts = feature.transform(column)
        encoded.validate(full=True)
        assert encoded.type == pa.list_(pa.float32(), 3)
        assert encoded.to_pylist() == expected
        assert counts.nulls == sum(not row or row == [None] * 3 for row in rows)
        assert counts.values == sum(value is not None for row in rows for value in row or [])


@pytest.mark.parametrize("default", ["", "1.75"])
@few
@given(st.lists(NUMBERS | MISSING, max_size=8))
def test_a_number_is_one_bucket_or_none(default, values):
    expected = [
        (count(1.75) if default else None) if is_missing(value) else count(value)
        for value in values
    ]
    for rest in (f'default_value: "{default}"', f'default_value: "{default}" value_dim: 1'):
        feature = parse_feature(bucketized(rest))
        for column in (pa.array(values, pa.float32()), pa.array(values, pa.float64())):
            encoded, _ = feature.transform(column)
            assert encoded.type == pa.int64()
            assert encoded.to_pylist() == expected
    for column in string_forms([None if v is None else str(v) for v in values]):
        assert encoded_values(feature, column) == expected


@pytest.mark.parametrize("default", ["", "1.75"])
@few
@given(BAGS)
def test_a_bag_of_numbers_is_a_bag_of_buckets(default, rows):
    feature = parse_feature(bucketized(f'default_value: "{default}"'))
    expected = [
        [count(value) for value in row or [] if value is not None] or [count(1.75)] * bool(default)
        for row in rows
    ]
    columns = [
        pa.array(rows, pa.list_(pa.float32())),
        pa.array(rows, pa.large_list(pa.float64())),
        *string_forms([spelled(row) for row in rows]),
    ]
    for column in [*columns, sliced(columns[0])]:
        encoded, counts = feature.transform(column)
        encoded.validate(full=True)
        assert encoded.type == pa.list_(pa.int64())
        assert encoded.to_pylist() == expected
        assert counts.nulls == sum(all(v is None for v in row or []) for row in rows)


@pytest.mark.parametrize("default", ["", "1.75"])
@few
@given(ROWS_OF_3)
def test_a_vector_of_numbers_is_a_bag_of_buckets_without_the_missing(default, rows):
    feature = parse_feature(bucketized(f'value_dim: 3 default_value: "{default}"'))
    filled = [
        [value if value is not None else default or None for value in row or [None] * 3]
        for row in rows
    ]
    expected = [[count(float(v)) for v in row if v is not None] for row in filled]

    assert encoded_values(feature, pa.array(rows, pa.list_(pa.float32()))) == expected


def test_a_boundary_is_compared_as_float32():
    feature = parse_feature(raw_feature("boundaries: [0.1] embedding_dim: 4"))

    assert np.float64(0.1) < np.float32(0.1)
    assert encoded_values(feature, pa.array([0.1, 0.0999])) == [1, 0]


def test_the_normalized_number_is_what_boundaries_are_compared_with():
    feature = parse_feature(bucketized('normalizer: "method=log10" default_value: "100"'))

    assert encoded_values(feature, pa.array([1.0, 31.7, 100.0, -1.0, None])) == [1, 3, 4, 0, 4]


@pytest.mark.parametrize(
    "kind", ["int8", "int16", "int32", "int64", "uint8", "uint64", "halffloat", pa.decimal128(22)]
)
def test_numbers_do_not_depend_on_their_type(kind):
    column = pa.array([1, None, 100]).cast(kind)

    assert encoded_values(parse_feature(raw_feature()), column) == [1, 0, 100]


@pytest.mark.parametrize(
    ("rest", "column", "message"),
    [
        ("", pa.array(["1", "one"]), "must be numbers: .*'one'"),
        ("", pa.array([[1.0], [1.0, 2.0]]), r"value_dim = 1 numbers, got 2: \[1.0, 2.0\]"),
        ("value_dim: 2", pa.array([[1, 2], [3]]), r"value_dim = 2 numbers, got 1: \[3\]"),
        ("value_dim: 3", pa.array(["1|2|3", "|"]), r"value_dim = 3 numbers, got 2: \['', ''\]"),
        ("value_dim: 2", pa.array(["1|2", "1|2|x"]), r"must be numbers: .*'x'"),
        ("value_dim: 2", pa.array(["1|2", "1|2|5"]), r"= 2 numbers, got 3: \['1', '2', '5'\]"),
        ("value_dim: 2", pa.array([1.0]), "value_dim = 2 numbers, got one number"),
        ("", pa.array([1.0, np.inf]), "must be finite as float32, got inf"),
        ("", pa.array([1e39]), r"must be finite as float32, got 1e\+39"),
        (
            'normalizer: "method=expression,expr=log(x)"',
            pa.array([1.0, -2.0]),
            "finite as float32, got -2.0, which normalizes to nan",
        ),
        ("", pa.array([{"a": 1}]), "must be numbers or strings that spell them, got struct"),
        ("", pa.array([[[1.0]]]), "must be numbers or strings that spell them, got list"),
    ],
)
def test_an_unusable_number_is_an_error_that_shows_it(rest, column, message):
    with pytest.raises(ValueError, match=message):
        parse_feature(raw_feature(rest)).transform(column)
