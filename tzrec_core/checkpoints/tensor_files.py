"""Folders of named tensors, written and read by all ranks with torch.distributed.checkpoint (DCP).

Nothing that is read is executed. DCP loads tensors with ``weights_only``, but its index, the file
``.metadata``, is a pickle, and so is everything that is not a tensor: here the index may only
refer to the records of names, shapes and file offsets that DCP writes, and to tensors.
"""

import io
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from tzrec_core.checkpoints.manifest import FileRecord, HashedWriter

Shapes = dict[str, tuple[int, ...]]

_RECORDS = frozenset(
    {
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"),
        ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
        ("torch.distributed.checkpoint.metadata", "Metadata"),
        ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
        ("torch.distributed.checkpoint.metadata", "StorageMeta"),
        ("torch.distributed.checkpoint.metadata", "TensorProperties"),
        ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
        ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
        ("torch.serialization", "_get_layout"),
    }
)


def write(
    folder: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup
) -> dict[str, FileRecord]:
    """Writes the tensors of all ranks; call it on every rank of ``group``.

    A DTensor's shards come from the ranks that hold them; a plain tensor is the same on all ranks
    that have it. What returns is on the disk, but for the names of the files in the folder.

    Returns:
        By name in the folder, what the files that this rank has written consist of.

    Raises:
        OSError: A rank could not write its part; on every rank.
    """
    writer = FileSystemWriter(folder)
    writer.fs = files = _HashingFileSystem()
    try:
        save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as error:  # which is not an Exception
        raise OSError(f"cannot write {folder}: {_reason(error)}") from error
    return files.written


def read(folder: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Fills ``tensors``, which must be in the folder with their shapes; others there are skipped.

    Args:
        folder: Written by any number of ranks.
        tensors: Plain tensors or DTensors, filled in place.
        group: Of the ranks that call this together; None for this process alone.

    Raises:
        ValueError: The folder is damaged; on every rank.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(
                dict(tensors),
                storage_reader=_Reader(folder),
                process_group=group,
                no_dist=group is None,
            )
    except CheckpointException as error:  # which is not an Exception
        raise ValueError(f"cannot read {folder}: {_reason(error)}") from error


def shapes(folder: Path) -> Shapes:
    """Returns the shapes of the tensors in the folder, whole ones where they are sharded.

    Raises:
        ValueError: The folder has no index, or one that holds anything but tensors.
    """
    return {
        name: tuple(entry.size)
        for name, entry in _Reader(folder).read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


class _HashingFileSystem(FileSystem):
    """Knows what the files that were written through it consist of."""

    def __init__(self) -> None:
        self.written: dict[str, FileRecord] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb"
        with HashedWriter(path) as file:
            try:
                yield file
            except RuntimeError as error:  # torch.save's of a failing write, without its reason
                raise file.failure or error from error
        self.written[Path(path).name] = file.record()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _RECORDS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def _member(of: Any, name: str) -> Enum:
    """Returns a member of an enumeration, which Pythons before 3.11.4 pickle as an attribute."""
    if not (isinstance(of, type) and issubclass(of, Enum) and name in of.__members__):
        raise pickle.UnpicklingError(f"it refers to {name!r} of {of!r}")
    return of.__members__[name]


class _Reader(FileSystemReader):
    def read_metadata(self) -> Metadata:
        index = Path(self.path) / ".metadata"
        try:
            with index.open("rb") as file:
                metadata: Metadata = _Unpickler(file).load()
            for name, entry in metadata.state_dict_metadata.items():
                if not isinstance(entry, TensorStorageMetadata):
                    raise TypeError(f"{name} is not a tensor")
            for place in metadata.storage_data.values():
                if Path(place.relative_path).name != place.relative_path:
                    raise ValueError(f"{place.relative_path} is not a file beside it")
        except Exception as error:  # a damaged pickle raises anything
            raise ValueError(f"cannot read {index}: {error}") from error
        return metadata


def _reason(error: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items())
