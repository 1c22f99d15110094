import csv
import random
from pathlib import Path

import pyarrow as pa
import pytest

from tzrec_core.data import csv_reader
from tzrec_core.data.csv_reader import CsvReader
from tzrec_core.data.input_files import find_files


def read(path: Path, **settings: object) -> CsvReader:
    defaults = {"delimiter": ",", "with_header": True, "names": [], "types": {}}
    return CsvReader(find_files(str(path)), **(defaults | settings))


def rows_of(reader: CsvReader, columns: list[str] | None = None) -> list[dict]:
    return [row for part in reader.parts for row in reader.read(part, columns).to_pylist()]


@pytest.fixture
def small_parts(monkeypatch):
    """Cuts even the small files of these tests into many parts."""
    monkeypatch.setattr(csv_reader, "_MIN_PART_BYTES", 16)


@pytest.fixture
def small_sample(monkeypatch):
    """Infers types from the first rows only."""
    monkeypatch.setattr(csv_reader, "_SAMPLE_BYTES", 16)


@pytest.mark.parametrize("end_of_line", ["\n", "\r\n"])
@pytest.mark.parametrize("last_line_ends", [True, False])
@pytest.mark.parametrize("with_header", [True, False])
@pytest.mark.parametrize("longest", [4, 80])  # rows shorter and longer than a part
def test_parts_hold_each_row_once_as_python_reads_it(
    tmp_path, small_parts, end_of_line, last_line_ends, with_header, longest
):
    draw = random.Random(longest)
    lines = ["id,text,number"] if with_header else []
    for index in range(200):
        text = "".join(draw.choices("abé ,", k=draw.randint(1, longest)))
        lines.append(f'{index},"x{text}",{draw.random() if index else 0.5}')
        lines.extend([""] * (draw.random() < 0.1))
    content = end_of_line.join(lines) + (end_of_line if last_line_ends else "")
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())

    names = ["id", "text", "number"]
    reader = read(path, with_header=with_header, names=[] if with_header else names)

    with path.open(newline="") as file:
        expected = [row for row in csv.reader(file) if row][with_header:]
    found = rows_of(reader)
    assert [[str(row["id"]), row["text"]] for row in found] == [row[:2] for row in expected]
    assert [row["number"] for row in found] == [float(row[2]) for row in expected]
    assert len(reader.parts) > 30
    sizes = [reader.read(part, ["id"]).num_rows for part in reader.parts]
    assert sum(part.expected_rows for part in reader.parts) == pytest.approx(sum(sizes), rel=0.5)


def test_files_may_have_their_columns_in_another_order(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,a\n")
    (tmp_path / "b.csv").write_text("y,x\nb,2\n")

    assert rows_of(read(tmp_path)) == [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]
    assert rows_of(read(tmp_path), ["y"]) == [{"y": "a"}, {"y": "b"}]


def test_delimiter_quotes_and_byte_order_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf\'x\'\t"y z"\n1\t"a\t""b"\n')

    assert rows_of(read(tmp_path, delimiter="\t")) == [{"'x'": 1, "y z": 'a\t"b'}]


def test_nulls_are_empty_fields_and_what_databases_write(tmp_path):
    (tmp_path / "a.csv").write_text('x,y\n1,NA\n,""\n\\N,\\N\nNULL,null\n2,nan\n')

    assert rows_of(read(tmp_path)) == [
        {"x": 1, "y": "NA"},
        {"x": None, "y": None},
        {"x": None, "y": None},
        {"x": None, "y": None},
        {"x": 2, "y": "nan"},
    ]


def test_types_are_inferred_once_and_hold_for_all_parts(tmp_path, small_parts, small_sample):
    lines = ["i,f,s,d,b,n"] + ["1,2.5,a,2020-01-01,true,"] * 20 + ["2,3,4,5,6,7"] * 20
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (tmp_path / "b.csv").write_text("i,f,s,d,b,n\n2,3,4,5,6,7\n")

    reader = read(tmp_path)

    assert dict(zip(reader.schema.names, reader.schema.types, strict=True)) == {
        "i": pa.int64(),
        "f": pa.float64(),
        "s": pa.string(),
        "d": pa.string(),
        "b": pa.string(),
        "n": pa.string(),
    }
    assert {str(reader.read(part, None).schema) for part in reader.parts} == {str(reader.schema)}


def test_given_types_are_used(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z\n007,1,1\n")

    reader = read(tmp_path, names=["y", "x"], types={"x": pa.string(), "y": pa.float32()})

    assert rows_of(reader) == [{"x": "007", "y": 1.0, "z": 1}]
    assert reader.schema.types == [pa.string(), pa.float32(), pa.int64()]


@pytest.mark.parametrize("bad", ["7,x", "7,x,1,1"])
@pytest.mark.parametrize("line", [2, 3, 57, 100])
def test_a_row_with_another_number_of_fields_is_an_error_with_file_line_and_count(
    tmp_path, small_parts, small_sample, line, bad
):
    lines = ["id,text,number", *(f"{i},é{'' if i % 5 else 'long' * 9},1" for i in range(2, 101))]
    lines[20] = ""
    lines[line - 1] = bad
    (tmp_path / "a.csv").write_text("\n".join(lines))

    with pytest.raises(ValueError, match=rf"a\.csv, line {line}: expected 3 fields, got \d: '7,x"):
        rows_of(read(tmp_path))


def test_a_value_of_another_type_is_an_error_with_file_line_and_column(
    tmp_path, small_parts, small_sample
):
    lines = ["text,id"] + [f"a,{i}" for i in range(2, 100)] + ["a,x7"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    reader = read(tmp_path)

    with pytest.raises(ValueError, match=r"a\.csv, line 100: column 'id': .*int64.*'x7'"):
        rows_of(reader)
    with pytest.raises(ValueError, match=r"a\.csv, line 100: column 'id': .*int64.*'x7'"):
        rows_of(reader, ["id"])


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({"a.csv": "x,y\n1,2\n", "b.csv": "x\n1\n"}, {}, r"b\.csv: column 'y' is missing"),
        ({"a.csv": "x\n1\n", "b.csv": "x,y\n1,2\n"}, {}, r"b\.csv: column 'y' is not in .*a\.csv"),
        ({"a.csv": "x,x\n1,2\n"}, {}, r"a\.csv: column 'x' is there more than once"),
        ({"a.csv": "x,y\n"}, {}, r"no rows: .*a\.csv"),
        ({"a.csv": "x,y\n\n\n"}, {}, r"no rows: .*a\.csv"),
        ({"a.csv": ""}, {}, "no rows: .*empty"),
        ({"a.csv": "1,2\n"}, {"with_header": False}, "needs the names of all columns"),
        ({"a.csv": "x\n1\n"}, {"delimiter": "ab"}, "delimiter must be one ASCII character"),
        ({"a.csv.gz": "x\n1\n"}, {}, r"a\.csv\.gz: compressed CSV"),
    ],
)
def test_files_that_cannot_be_one_input_are_an_error_that_says_why(
    tmp_path, files, settings, message
):
    for name, content in files.items():
        (tmp_path / name).write_text(content)

    with pytest.raises(ValueError, match=message):
        read(tmp_path, **settings)


def test_a_column_that_is_not_there_matters_when_it_is_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")

    reader = read(tmp_path, names=["x", "click"], types={"click": pa.int64(), "x": pa.string()})

    assert rows_of(reader) == [{"x": "1", "y": 2}]
    with pytest.raises(ValueError, match=r"a\.csv: there is no column 'click'"):
        rows_of(reader, ["x", "click"])


@pytest.mark.parametrize("with_header", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        b"PAR1\x15\x04\x15\x80}L\xff\n\xfe\xff\n" * 9,
        "näme,x\nä,1,2\n".encode("latin-1"),
        "name,x\na,1\n".encode("utf-16"),
        bytes(99),
    ],
    ids=["parquet", "latin-1", "utf-16", "zeros"],
)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_file_that_is_no_csv_is_an_error_that_names_it(tmp_path, with_header, content):
    (tmp_path / "a.csv").write_bytes(content)

    with pytest.raises(ValueError, match=r"^[^']*a\.csv[:,]"):
        rows_of(read(tmp_path, with_header=with_header, names=["name", "x"]))


def test_an_empty_file_among_others_has_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("x\n")
    (tmp_path / "c.csv").write_text("x\n1\n")

    assert rows_of(read(tmp_path)) == [{"x": 1}]


def test_a_file_that_became_shorter_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x\n" + "1\n" * 100)
    reader = read(tmp_path)
    path.write_text("x\n" + "1\n" * 50 + "1")

    with pytest.raises(ValueError, match=r"a\.csv: cannot be read: the file became shorter"):
        rows_of(reader)
