import os
from pathlib import Path

import pytest

from tzrec_core.data.input_files import find_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.csv", "a.csv", "_SUCCESS", ".hidden", "c.parquet", "sub/d.csv", "sub2/e.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(input_path: str, folder: Path) -> list[str]:
    return [os.path.relpath(file.name, folder) for file in find_files(input_path)]


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/b.csv", ["b.csv"]),
        ("", ["a.csv", "b.csv", "c.parquet"]),
        ("/", ["a.csv", "b.csv", "c.parquet"]),
        ("/*.csv", ["a.csv", "b.csv"]),
        ("/[bc].*", ["b.csv", "c.parquet"]),
        ("/*/*.csv", ["sub/d.csv", "sub2/e.csv"]),
        ("/sub*/d*", ["sub/d.csv"]),
        ("/_SUCCESS", ["_SUCCESS"]),
    ],
)
def test_file_folder_and_pattern_stand_for_their_visible_files_sorted(
    folder, prefix, pattern, expected
):
    assert names(f"{prefix}{folder}{pattern}", folder) == expected


def test_a_list_is_the_union_sorted_by_name(folder):
    assert names(f"{folder}/sub/d.csv, file://{folder}/b.csv,{folder}/a*", folder) == [
        "a.csv",
        "b.csv",
        "sub/d.csv",
    ]


def test_a_relative_path_is_of_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)

    assert names("*.csv", folder) == ["a.csv", "b.csv"]
    assert names("sub", folder) == ["sub/d.csv"]


def test_a_name_with_a_wildcard_character_is_taken_literally_if_it_exists(folder):
    (folder / "x[1].csv").write_text("")

    assert names(f"{folder}/x[1].csv", folder) == ["x[1].csv"]


def test_a_uri_may_have_spaces(folder):
    (folder / "a b.csv").write_text("")

    assert names(f"file://{folder}/a b.csv", folder) == ["a b.csv"]


def test_files_carry_size_and_time_of_change(folder):
    (file,) = find_files(str(folder / "a.csv"))

    stat = (folder / "a.csv").stat()
    assert (file.size, file.mtime_ns) == (stat.st_size, stat.st_mtime_ns)


@pytest.mark.parametrize(
    ("input_path", "message"),
    [
        ("{}/missing.csv", "missing.csv' does not exist"),
        ("{}/*.orc", r"\*.orc' stands for no file"),
        ("{}/empty", "empty' stands for no file"),
        ("{0}/a.csv,{0}/*.csv", "names .*/a.csv twice"),
        ("{0}/a.csv,,", "is empty, or one of its comma-separated items"),
        ("", "is empty"),
        ("nosuchscheme://x/y", "nosuchscheme://x/y' cannot be opened"),
    ],
)
def test_what_stands_for_no_files_is_an_error_that_names_it(folder, input_path, message):
    (folder / "empty").mkdir()

    with pytest.raises(ValueError, match=message):
        find_files(input_path.format(folder))
