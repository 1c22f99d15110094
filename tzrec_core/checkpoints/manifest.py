"""What the files of a folder consist of, so that a truncated, altered or missing one is found.

``manifest.json`` is written last. Its hash finds what disks, copies and interruptions do to files;
it is no signature: who can write files can write a manifest for them.
"""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

FILE = "manifest.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """What a file consists of.

    Attributes:
        bytes: Their number.
        xxh3_128: Their hash. Among the sound ones it is the one that costs nothing beside a disk.
    """

    bytes: int
    xxh3_128: str


class HashedWriter(io.BufferedWriter):
    """A new file that is hashed while it is written, from front to back.

    Attributes:
        failure: Why it could not be written, which not every caller of ``write`` passes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._hash = xxhash.xxh3_128()
        self._size = 0
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self._size += memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise

    def record(self) -> FileRecord:
        """Returns what was written."""
        return FileRecord(self._size, self._hash.hexdigest())


def write_json(path: Path, content: object) -> FileRecord:
    """Writes a JSON file and waits until it is on the disk."""
    with HashedWriter(path) as file:
        file.write(json.dumps(content, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    return file.record()


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Writes the manifest: what the files consist of, by name relative to ``folder``."""
    write_json(folder / FILE, {name: asdict(files[name]) for name in sorted(files)})


def damage(folder: Path, *, rank: int, world_size: int) -> list[str]:
    """Returns what is wrong with the files of ``folder``; each rank looks at its share of them.

    Files that the manifest does not name are not looked at.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
        files = [(name, FileRecord(**record)) for name, record in sorted(content.items())]
    except FileNotFoundError:
        return [f"{FILE} is missing"]
    except (OSError, AttributeError, TypeError, ValueError) as error:
        return [f"{FILE} cannot be read: {error}"]
    problems = [_damage(folder / name, record) for name, record in files[rank::world_size]]
    return [
        f"{name} {problem}"
        for (name, _), problem in zip(files[rank::world_size], problems, strict=True)
        if problem is not None
    ]


def _damage(path: Path, record: FileRecord) -> str | None:
    try:
        size = path.stat().st_size
        if size != record.bytes:
            return f"has {size} bytes, not {record.bytes}"
        digest = xxhash.xxh3_128()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if digest.hexdigest() == record.xxh3_128 else "has another content"
