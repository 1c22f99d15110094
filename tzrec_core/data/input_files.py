"""Turns an input path into the list of files it stands for, on any file system that Arrow knows."""

import fnmatch
import os
import re
import urllib.parse
from dataclasses import dataclass

import pyarrow.fs as pafs

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class InputFile:
    """One file of an input.

    Attributes:
        name: what messages call it: an absolute local path, or a URI.
        filesystem: where ``path`` is to be opened.
        path: the file's path within ``filesystem``.
        size: bytes.
        mtime_ns: time of the last change in ns since 1970, None where the store keeps none.
    """

    name: str
    filesystem: pafs.FileSystem
    path: str
    size: int
    mtime_ns: int | None


def find_files(input_path: str) -> tuple[InputFile, ...]:
    """Lists the files of an input, sorted by name.

    Args:
        input_path: one or several (comma-separated) of: a file; a folder, meaning the files
            directly in it; a pattern with ``*``, ``?`` or ``[...]``, each within one folder level.
            Each is a local path or a URI such as ``s3://bucket/logs/*.parquet``.

    Returns:
        At least one file. Names that begin with ``.`` or ``_`` (markers, unfinished files) are
        left out of folders and patterns.

    Raises:
        ValueError: an item does not exist, stands for no file, or names a file a second time.
    """
    items = [item.strip() for item in input_path.split(",")]
    if not all(items):
        raise ValueError(f"input path {input_path!r} is empty, or one of its comma-separated items")
    found: dict[str, InputFile] = {}
    for item in items:
        for file in _files_of(item):
            if file.name in found:
                raise ValueError(f"input path {input_path!r} names {file.name} twice")
            found[file.name] = file
    return tuple(found[name] for name in sorted(found))


def _files_of(item: str) -> list[InputFile]:
    base, patterns = _split_pattern(item)
    filesystem, path = _open_filesystem(base)
    start = filesystem.get_file_info(path)
    if start.type == pafs.FileType.NotFound:
        raise ValueError(f"input path {item!r} does not exist")
    infos = [start]
    if start.type == pafs.FileType.Directory:
        for pattern in patterns or ["*"]:
            infos = [
                child
                for folder in infos
                if folder.type == pafs.FileType.Directory
                for child in filesystem.get_file_info(pafs.FileSelector(folder.path))
                if fnmatch.fnmatchcase(child.base_name, pattern)
                and not child.base_name.startswith((".", "_"))
            ]
    files = [info for info in infos if info.type == pafs.FileType.File]
    if not files:
        raise ValueError(
            f"input path {item!r} stands for no file; folders inside a folder are not searched, "
            "and names that begin with '.' or '_' are left out"
        )
    scheme = "" if isinstance(filesystem, pafs.LocalFileSystem) else base.split("://")[0] + "://"
    return [
        InputFile(scheme + file.path, filesystem, file.path, file.size, file.mtime_ns)
        for file in files
    ]


def _split_pattern(item: str) -> tuple[str, list[str]]:
    """Splits an item into the part without wildcards and the patterns of the levels below it."""
    path, query = item, ""
    if "://" in item:  # in a URI, "?" begins the query, as in s3://bucket/x?region=eu-west-1
        path, _, query = item.partition("?")
    elif os.path.exists(item):  # a real name may hold a bracket
        return item, []
    levels = path.split("/")
    first = next((i for i, level in enumerate(levels) if _WILDCARD.search(level)), len(levels))
    base = "/".join(levels[:first])
    if not base and first < len(levels):
        base = "/" if path.startswith("/") else "."
    return (f"{base}?{query}" if query else base), levels[first:]


def _open_filesystem(base: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in base:
        return pafs.LocalFileSystem(), os.path.abspath(base)
    scheme, _, rest = base.partition("://")
    path, mark, query = rest.partition("?")
    quoted = f"{scheme}://{urllib.parse.quote(path, safe='/:@%')}{mark}{query}"
    try:
        filesystem, inner = pafs.FileSystem.from_uri(quoted)
    except ValueError as error:
        raise ValueError(f"input path {base!r} cannot be opened: {error}") from error
    return filesystem, inner
