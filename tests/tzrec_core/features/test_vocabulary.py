import pyarrow as pa
import pytest

from tzrec_core.features import vocabulary


def test_entries_are_numbered_from_start():
    assert vocabulary.number(["b", "a", ""], start=2) == {"b": 2, "a": 3, "": 4}


def test_an_entry_twice_is_an_error():
    with pytest.raises(ValueError, match="'a' twice"):
        vocabulary.number(["a", "b", "a"], start=0)


def test_a_file_has_an_entry_per_line_whatever_the_line_ends(tmp_path):
    path = tmp_path / "vocab"
    path.write_bytes("ä\r\nb\n\nc".encode())

    assert vocabulary.read(str(path), start=0) == {"ä": 0, "b": 1, "c": 2}


def test_a_file_may_give_the_ids(tmp_path):
    path = tmp_path / "vocab"
    path.write_text("a 5\nb 0\nc 5\n")

    assert vocabulary.read(str(path), start=2) == {"a": 5, "b": 0, "c": 5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no entries"),
        (b"\n\n", "no entries"),
        (b"a\nb\na\n", "'a' twice"),
        (b"a 1\na 2\n", "'a' twice"),
        (b"new york\nrome\n", "'new york'"),
        (b"a 1\nrome\n", "'rome'"),
        (b"a -1\n", "'a -1'"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_bad_file_is_an_error_that_shows_the_line(tmp_path, content, message):
    path = tmp_path / "vocab"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message):
        vocabulary.read(str(path), start=0)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.txt' does not exist"):
        vocabulary.read(str(tmp_path / "nowhere.txt"), start=0)


def test_what_is_not_an_entry_has_no_id():
    values = pa.array([3, 1, None, 3, 7])

    assert vocabulary.look_up(values, {"3": 0, "7": 9}).to_pylist() == [0, None, None, 0, 9]
