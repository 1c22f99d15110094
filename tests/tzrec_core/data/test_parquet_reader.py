from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tzrec_core.data.input_files import find_files
from tzrec_core.data.parquet_reader import ParquetReader


def write(path: Path, columns: dict[str, list], *, group: int = 4) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=group)


def read(folder: Path) -> ParquetReader:
    return ParquetReader(find_files(str(folder)))


def test_parts_hold_all_rows_in_order(tmp_path):
    write(tmp_path / "b.parquet", {"x": list(range(10, 15)), "y": ["b"] * 5})
    write(tmp_path / "a.parquet", {"x": list(range(10)), "y": ["a"] * 10})

    reader = read(tmp_path)

    tables = [reader.read(part, None) for part in reader.parts]
    assert pa.concat_tables(tables).column("x").to_pylist() == list(range(15))
    assert [len(table) for table in tables] == [part.num_rows for part in reader.parts]
    assert reader.num_rows == 15
    assert tables[0].schema == reader.schema


def test_columns_come_as_asked_for_whatever_their_order_in_the_file(tmp_path):
    write(tmp_path / "a.parquet", {"x": [1], "y": ["a"], "z": [1.5]})
    write(tmp_path / "b.parquet", {"z": [2.5], "y": ["b"], "x": [2]})

    reader = read(tmp_path)
    tables = [reader.read(part, ["z", "x"]) for part in reader.parts]

    assert pa.concat_tables(tables).to_pydict() == {"z": [1.5, 2.5], "x": [1, 2]}
    assert [table.column_names for table in tables] == [["z", "x"], ["z", "x"]]


def test_files_and_row_groups_without_rows_are_no_parts(tmp_path):
    write(tmp_path / "a.parquet", {"x": pa.array([], pa.int64())})
    write(tmp_path / "b.parquet", {"x": [1]})

    assert [Path(part.path).name for part in read(tmp_path).parts] == ["b.parquet"]


def test_no_rows_at_all_is_an_error(tmp_path):
    write(tmp_path / "a.parquet", {"x": pa.array([], pa.int64())})

    with pytest.raises(ValueError, match=r"no rows: .*a\.parquet"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1]}, r"b\.parquet: column 'y' is missing"),
        ({"x": [1.5], "y": ["a"]}, r"b\.parquet: column 'x' has type double, but int64"),
        ({"x": [1], "y": ["a"], "z": [0]}, r"b\.parquet: column 'z' is not in .*a\.parquet"),
    ],
)
def test_files_with_other_columns_are_an_error_that_names_file_and_column(
    tmp_path, columns, message
):
    write(tmp_path / "a.parquet", {"x": [1], "y": ["a"]})
    write(tmp_path / "b.parquet", columns)

    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_repeated_column_is_an_error(tmp_path):
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), tmp_path / "a.parquet")

    with pytest.raises(ValueError, match=r"a\.parquet: column 'x' is there more than once"):
        read(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, kept):
    write(tmp_path / "a.parquet", {"x": list(range(100))})
    content = (tmp_path / "a.parquet").read_bytes()
    write(tmp_path / "b.parquet", {"x": list(range(100))})
    (tmp_path / "b.parquet").write_bytes(content[:kept])

    with pytest.raises(ValueError, match=r"b\.parquet: not a readable Parquet file"):
        read(tmp_path)


def test_a_damaged_row_group_is_an_error_that_names_file_and_group(tmp_path):
    write(tmp_path / "a.parquet", {"x": list(range(4000))}, group=500)
    path = tmp_path / "a.parquet"
    reader = read(tmp_path)
    offset = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(content)

    assert reader.read(reader.parts[0], ["x"]).num_rows == 500
    with pytest.raises(ValueError, match=r"a\.parquet: row group 1 cannot be read"):
        reader.read(reader.parts[1], ["x"])


def test_a_single_row_group_is_cut_into_parts_that_hold_its_rows_once(tmp_path):
    pq.write_table(pa.table({"row": range(1003)}), tmp_path / "rows.parquet")
    reader = ParquetReader(find_files(str(tmp_path)))

    rows = [reader.read(part, ["row"])["row"].to_pylist() for part in reader.parts]

    assert len(rows) == 8
    assert {len(part) for part in rows} <= {125, 126}
    assert [row for part in rows for row in part] == list(range(1003))


def test_fewer_rows_than_parts_make_no_empty_part(tmp_path):
    pq.write_table(pa.table({"row": range(3)}), tmp_path / "rows.parquet")
    reader = ParquetReader(find_files(str(tmp_path)))

    assert [part.num_rows for part in reader.parts] == [1, 1, 1]
