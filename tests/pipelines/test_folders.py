"""What containers may read and write, and whose it is; only root can make what is others'."""

import os

import pytest

from pipelines.local.folders import User, check_readable, make_writable, named_in, user_of_steps

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


def uids(folder):
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("rootless", [False, True])
def test_containers_never_run_as_root_and_else_as_the_caller(rootless):
    user = user_of_steps(rootless=rootless)

    assert user.uid == (os.getuid() or 1000)


def test_a_new_folder_is_the_users(tmp_path):
    user = user_of_steps(rootless=False)
    make_writable(tmp_path / "runs" / "a", user, is_ours=False)

    assert uids(tmp_path / "runs" / "a") == {user.uid}


@as_root
def test_what_root_has_made_in_a_folder_of_ours_is_given_to_the_user_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows").write_text("")
    (folder / "theirs").write_text("")
    os.chown(folder / "theirs", 1234, 1234)
    (tmp_path / "outside").write_text("")
    (folder / "link").symlink_to(tmp_path / "outside")

    make_writable(folder, User(1000, 1000), is_ours=True)

    assert uids(folder) == {1000, 1234}
    assert (folder / "theirs").stat().st_uid == 1234
    assert (tmp_path / "outside").stat().st_uid == 0


@as_root
@pytest.mark.parametrize(("is_ours", "owner"), [(False, 0), (True, 1234)])
def test_a_folder_that_is_not_ours_to_give_is_an_error_and_is_left_as_it_is(
    tmp_path, is_ours, owner
):
    (tmp_path / "run" / "data").mkdir(parents=True)
    for path in (tmp_path / "run", tmp_path / "run" / "data"):
        os.chown(path, owner, owner)

    message = rf"uid 1000 and cannot write to {tmp_path}/run, which is of uid {owner}; `chown -R"
    with pytest.raises(ValueError, match=message):
        make_writable(tmp_path / "run", User(1000, 1000), is_ours=is_ours)
    assert uids(tmp_path / "run") == {owner}


def test_a_folder_in_a_run_directory_that_cannot_be_written_to_is_an_error(tmp_path):
    me = User(os.getuid(), os.getgid())
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "data").chmod(0o500)

    with pytest.raises(ValueError, match="run/data"):
        make_writable(tmp_path / "run", me, is_ours=False)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "groups", "can"),
    [
        (0o640, 0, 0, (), True),
        (0o640, 1, 0, (), True),
        (0o640, 1, 1, (0,), True),
        (0o640, 1, 1, (), False),
        (0o004, 1, 1, (), True),
        (0o044, 0, 0, (), False),  # the owner's own bits count, though others have more
    ],
)
@as_root
def test_rights_are_those_of_the_system(tmp_path, mode, uid, gid, groups, can):
    path = tmp_path / "file"
    path.write_text("")
    path.chmod(mode)

    user = User(uid, gid, groups)
    assert user.may(path, 4) == can
    if can:
        check_readable(path, user)
    else:
        with pytest.raises(ValueError, match=f"uid {uid} and cannot read {path}"):
            check_readable(path, user)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("a.config", ["a.config"]),
        ("clicks", ["clicks"]),
        ("clicks/, ./a.config", ["clicks", "a.config"]),
        ("../{here}/clicks", ["clicks"]),
        ("clicks/part-*.csv", ["clicks"]),
        ("cl?cks/part-0.csv", ["."]),
        ("clicks/none-*.csv", []),
        ('{{"data_config.batch_size": [1, 2]}}', []),
        ("s3://clicks/a", []),
        ("", []),
        ("x" * 5000, []),
        ("a\0b", []),
    ],
)
def test_a_value_names_the_files_and_folders_that_are_there(tmp_path, monkeypatch, value, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.config").write_text("")
    (tmp_path / "clicks").mkdir()
    (tmp_path / "clicks" / "part-0.csv").write_text("")

    assert named_in(value.format(here=tmp_path.name)) == [tmp_path / name for name in named]
