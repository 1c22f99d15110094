"""Who owns what containers read and write, so that it is theirs and their caller's as well."""

import glob
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class User:
    """Whom the processes of a container run as."""

    uid: int
    gid: int
    other_groups: tuple[int, ...] = ()

    def may(self, path: Path, rights: int) -> bool:
        """Returns whether the user has ``rights``, a sum of 4, 2 and 1 as in chmod, to a path."""
        status = path.lstat()
        if status.st_uid == self.uid:
            granted = status.st_mode >> 6
        elif status.st_gid in (self.gid, *self.other_groups):
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & rights == rights


IMAGE_USER = User(1000, 1000)


def user_of_steps(*, rootless: bool) -> User:
    """Returns the caller, whose own their files then are; for root, who no step is, the images'.

    Args:
        rootless: Whether the engine is the caller's own, and so has no groups but one to give.
    """
    if os.getuid() == 0:
        return IMAGE_USER
    return User(os.getuid(), os.getgid(), () if rootless else tuple(os.getgroups()))


def make_writable(folder: Path, user: User, *, is_ours: bool) -> None:
    """Makes a folder if it is not there, for containers to write to.

    What root owns in it is given to the user if the folder is new or empty.

    Args:
        folder: Its parents are made, too.
        user: Whom containers run as.
        is_ours: Whether it is known to have nothing but what steps have written, so that it may
            be given away although it is neither new nor empty.

    Raises:
        ValueError: It, or a folder in it, is another user's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0 and (is_ours or not any(folder.iterdir())):
        for path in _tree(folder):
            if path.lstat().st_uid == 0:
                os.chown(path, user.uid, user.gid, follow_symlinks=False)
    for path in _tree(folder):
        if path.is_dir() and not path.is_symlink() and not user.may(path, 7):
            raise ValueError(
                f"containers run as uid {user.uid} and cannot write to {path}, which is of uid "
                f"{path.stat().st_uid}; `chown -R {user.uid}:{user.gid} {folder}` gives it to them"
            )


def check_readable(path: Path, user: User) -> None:
    """Checks that containers can read a file, or list a folder.

    Raises:
        ValueError: They cannot.
    """
    target = path.resolve()
    if not user.may(target, 5 if stat.S_ISDIR(target.stat().st_mode) else 4):
        raise ValueError(
            f"containers run as uid {user.uid} and cannot read {path}; "
            f"`chmod o+rX {path}` lets everybody, or give it to that user"
        )


def named_in(value: str) -> list[Path]:
    """Returns the files and folders that a value names, if it does so.

    That are the items between commas that exist; for a pattern that something matches, the folder
    it begins with.
    """
    found = []
    for item in value.split(","):
        path = item.strip()
        if (wildcard := _WILDCARD.search(path)) and any(glob.iglob(path)):
            path = os.path.dirname(path[: wildcard.start()]) or "."
        if path and os.path.exists(path):
            found.append(Path(os.path.abspath(path)))
    return found


def _tree(folder: Path) -> Iterator[Path]:
    yield folder
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)
