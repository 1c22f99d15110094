from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from tests.tzrec_core.features.parsing import (
    encoded_values,
    few,
    parse_feature,
    sliced,
    string_forms,
)
from tzrec_core.features.schema import FeatureCounts

VOCABULARY = ["7", "-3", "é", "unk", "a:b"]
WORDS = st.sampled_from([*VOCABULARY, "", "0", "5", "x", "日本"]) | st.text("ab|é", max_size=3)
NUMBERS = st.integers(-3, 12) | st.sampled_from([-(2**63), 2**63 - 1])


def id_feature(source: str, rest: str = "") -> str:
    return (
        f'id_feature {{ feature_name: "f" expression: "user:c" embedding_dim: 4 separator: "|" '
        f"{source} {rest} }}"
    )


def listed(values: Sequence[str]) -> str:
    return " ".join(f'vocab_list: "{value}"' for value in values)


def find(token: str, source: str, default: str = "", unknown: int | None = None) -> int | None:
    """Returns the id of one value, None if it has none of its own."""
    match source:
        case "hash":
            return xxh64_intdigest(token.encode()) % 10
        case "buckets":
            return int(token) if 0 <= int(token) < 10 else None
    if unknown is None:
        entries = {entry: i + 2 for i, entry in enumerate(VOCABULARY)} | {default: 0}
    else:
        entries = {entry: i for i, entry in enumerate(VOCABULARY)}
    return entries.get(token)


def reference(
    tokens: Sequence[object], source: str, default: str = "", unknown: int | None = None
) -> tuple[list[int], int]:
    """Encodes one row's values one by one; returns its ids and how many values are unknown."""
    fallback = 1 if source == "vocabulary" and unknown is None else unknown
    found = [
        find(str(token), source, default, unknown) for token in tokens if token not in (None, "")
    ]
    ids = [fallback if value is None else value for value in found]
    ids = [value for value in ids if value is not None]
    if not ids and default:
        first = find(default, source, default, unknown)
        ids = [unknown if first is None else first]
    return ids, found.count(None)


SOURCES = {
    "hash": "hash_bucket_size: 10",
    "buckets": "num_buckets: 10",
    "vocabulary": listed(VOCABULARY),
}
OPTIONS = [("", None), ("", 4), ("7", None), ("7", 4), ("unk", None), ("x", 4)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("default", "unknown"), OPTIONS)
@few
@given(data=st.data())
def test_ids_are_those_of_encoding_value_by_value(source, default, unknown, data):
    if source == "buckets" and not default.isdigit():
        default = ""
    tokens = NUMBERS.filter(lambda n: abs(n) < 10**18).map(str) if source == "buckets" else WORDS
    rest = f'default_value: "{default}"' + (
        "" if unknown is None else f" default_bucketize_value: {unknown}"
    )
    rows = data.draw(st.lists(st.none() | st.lists(st.just("") | tokens, max_size=4), max_size=6))
    split = [None if row is None else "|".join(row).split("|") for row in rows]
    expected = [reference(row or [], source, default=default, unknown=unknown) for row in split]

    feature = parse_feature(id_feature(SOURCES[source], rest))
    columns = [pa.array(split, kind(pa.string())) for kind in (pa.list_, pa.large_list)]
    columns += [sliced(columns[0])]
    columns += string_forms([None if row is None else "|".join(row) for row in split])
    for column in columns:
        encoded, counts = feature.transform(column)
        encoded.validate(full=True)
        assert encoded.type == pa.list_(pa.int64())
        assert encoded.to_pylist() == [ids for ids, _ in expected]
        assert counts == FeatureCounts(
            rows=len(rows),
            nulls=sum(not any(row or []) for row in split),
            values=sum(bool(value) for row in split for value in row or []),
            out_of_vocabulary=sum(num_unknown for _, num_unknown in expected),
        )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("default", "unknown"), [("", None), ("7", None), ("7", 4)])
@few
@given(values=st.lists(st.none() | NUMBERS, max_size=8))
def test_an_integer_column_has_one_id_or_none_per_row(source, default, unknown, values):
    rest = f'default_value: "{default}"' + (
        "" if unknown is None else f" default_bucketize_value: {unknown}"
    )
    feature = parse_feature(id_feature(SOURCES[source], rest))
    expected = [reference([v], source, default=default, unknown=unknown)[0] for v in values]
    column = pa.array(values, pa.int64())

    for form in (column, sliced(column), column.dictionary_encode()):
        encoded, _ = feature.transform(form)
        encoded.validate(full=True)
        assert encoded.type == pa.int64()
        assert encoded.to_pylist() == [ids[0] if ids else None for ids in expected]


@pytest.mark.parametrize("source", SOURCES)
@few
@given(values=st.lists(st.none() | WORDS, max_size=8))
def test_a_string_column_with_value_dim_1_is_not_split(source, values):
    if source == "buckets":
        values = [value if value is None or value.isdigit() else "" for value in values]
    feature = parse_feature(id_feature(SOURCES[source], "value_dim: 1"))
    expected = [reference([value], source)[0] for value in values]

    for column in string_forms(values):
        assert encoded_values(feature, column) == [ids[0] if ids else None for ids in expected]


@pytest.mark.parametrize(
    "kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "double"]
)
@pytest.mark.parametrize("source", SOURCES)
def test_ids_do_not_depend_on_the_width_of_the_integers(kind, source):
    feature = parse_feature(id_feature(SOURCES[source]))
    values = [0, 9, 10, 7, None, 127]

    assert encoded_values(feature, pa.array(values, pa.int64()).cast(kind)) == encoded_values(
        feature, pa.array(values)
    )
    assert encoded_values(
        feature,
        pa.array([values, None], pa.list_(pa.int64())).cast(pa.list_(pa.type_for_alias(kind))),
    ) == encoded_values(feature, pa.array([values, None]))


def test_an_unsigned_integer_above_int64_is_out_of_range_and_hashes_as_itself():
    column = pa.array([2**64 - 1, 3], pa.uint64())

    assert encoded_values(parse_feature(id_feature("num_buckets: 5")), column) == [None, 3]
    hashed = encoded_values(parse_feature(id_feature("hash_bucket_size: 1000")), column)
    assert hashed == [xxh64_intdigest(str(v).encode()) % 1000 for v in (2**64 - 1, 3)]


def test_floats_that_are_integers_are_ids_and_nan_is_none():
    feature = parse_feature(id_feature("num_buckets: 5"))

    assert encoded_values(feature, pa.array([1.0, np.nan, None, -0.0, 4, 1e300 * 0])) == [
        1,
        None,
        None,
        0,
        4,
        0,
    ]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.0, 1.5]), "ids must be integers, got 1.5"),
        (pa.array([1.0, np.inf]), "ids must be integers, got inf"),
        (pa.array([2.0**63]), "ids must be integers, got 9.2"),
        (pa.array(["1", "one"]), "ids must be integers of at most 18 digits, got 'one'"),
        (pa.array(["0x1"]), "got '0x1'"),
        (pa.array(["1|1.0"]), "got '1.0'"),
        (pa.array(["9" * 19]), "got '9999999999999999999'"),
        (pa.array([["1"], [" 2"]]), "got ' 2'"),
        (pa.array([[[1]]]), "ids must be integers, strings or lists of them, got list"),
        (pa.array([1], pa.timestamp("s")), "ids must be integers, strings or lists of them"),
        (pa.array([1], pa.decimal128(9, 2)), "ids must be integers, strings or lists of them"),
        (pa.array([{"a": 1}]), "ids must be integers, strings or lists of them"),
    ],
)
def test_a_value_that_is_no_id_is_an_error_that_shows_it(column, message):
    with pytest.raises(ValueError, match=message):
        parse_feature(id_feature("num_buckets: 5")).transform(column)


def test_a_column_of_only_nulls_has_no_ids():
    assert encoded_values(parse_feature(id_feature("num_buckets: 5")), pa.nulls(2)) == [[], []]
    single = parse_feature(id_feature("num_buckets: 5", "value_dim: 1"))
    assert encoded_values(single, pa.nulls(2)) == [None, None]


def test_an_unused_value_of_a_dictionary_is_not_looked_at():
    column = pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array(["1", "one"]))

    assert encoded_values(parse_feature(id_feature("num_buckets: 5")), column) == [[1], []]


def test_two_default_ids_do_not_fit_a_column_of_single_ids():
    feature = parse_feature(id_feature("num_buckets: 5", 'default_value: "1|2"'))

    assert encoded_values(feature, pa.array(["3", None])) == [[3], [1, 2]]
    with pytest.raises(ValueError, match=r"default_value has ids \(1, 2\)"):
        feature.transform(pa.array([3, None]))


WEIGHTS = st.floats(-100, 100, width=32)
PAIRS = st.lists(st.none() | st.lists(st.tuples(NUMBERS, WEIGHTS), max_size=3), max_size=6)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("default", ["", "7", "7:0.5|0:2"])
@few
@given(rows=PAIRS)
def test_weights_stay_with_their_ids(source, default, rows):
    rows = [row and [(key, w) for key, w in row if abs(key) < 10**18] for row in rows]
    feature = parse_feature(
        id_feature(SOURCES[source], f'weighted: true default_value: "{default}"')
    )
    defaults = {"": [], "7": [(7, 1.0)], "7:0.5|0:2": [(7, 0.5), (0, 2.0)]}[default]

    def encode_pairs(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
        ids = [find(str(key), source, default) for key, _ in pairs]
        if source == "vocabulary":
            ids = [1 if found is None else found for found in ids]
        return [(found, w) for found, (_, w) in zip(ids, pairs, strict=True) if found is not None]

    expected = [encode_pairs(row or []) or encode_pairs(defaults) for row in rows]
    texts = [None if row is None else [f"{key}:{weight}" for key, weight in row] for row in rows]
    structs = [row and [{"i": key, "w": w} for key, w in row] for row in rows]
    columns = [
        pa.array(rows, pa.map_(pa.int64(), pa.float64())),
        pa.array(structs, pa.list_(pa.struct([("i", pa.int64()), ("w", pa.float32())]))),
        pa.array(texts, pa.list_(pa.string())),
        *string_forms([None if text is None else "|".join(text) for text in texts]),
    ]
    columns += [sliced(column) for column in columns[:3]]
    for column in columns:
        encoded, counts = feature.transform(column)
        encoded.validate(full=True)
        assert encoded.type == pa.map_(pa.int64(), pa.float32())
        assert encoded.to_pylist() == expected
        assert counts.values == sum(len(row or []) for row in rows)
        assert counts.nulls == sum(not row for row in rows)


def test_a_weighted_id_is_split_at_its_last_colon():
    feature = parse_feature(id_feature(listed(VOCABULARY), "weighted: true"))

    assert encoded_values(feature, pa.array(["a:b:0.5||é:1e-1"])) == [
        [(6, 0.5), (4, pytest.approx(0.1))]
    ]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["1:0.5", "1|2:1"]), "weighted ids must be id:weight, got '1'"),
        (pa.array(["1:0.5", "2:"]), "weight of id '2' must be a finite number, got ''"),
        (pa.array(["1:heavy"]), "'heavy'"),
        (pa.array(["1:inf"]), "weight of id '1' must be a finite number, got 'inf'"),
        (pa.array([[(1, None)]], pa.map_("int64", "float")), "weight of id 1 .*, got None"),
        (pa.array([[{"i": 1, "w": np.nan}]]), "weight of id 1 must be a finite number, got nan"),
        (pa.array([1]), "weighted ids must be maps, .* got int64, which has no weights"),
        (pa.array([[1]]), "weighted ids must come with their weights, got lists of int64"),
        (pa.array([[{"i": 1}]]), "weighted ids must come with their weights"),
        (pa.array([["1"]]), "weighted ids must be id:weight, got '1'"),
    ],
)
def test_a_missing_weight_is_an_error_that_shows_the_id(column, message):
    with pytest.raises(ValueError, match=message):
        parse_feature(id_feature("num_buckets: 5", "weighted: true")).transform(column)
