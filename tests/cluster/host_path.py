"""Makes a volume's folder known to this machine by the path that it has in containers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def linked(path: Path, folder: Path) -> Iterator[None]:
    """Has ``path`` lead to ``folder`` until the block ends.

    Raises:
        RuntimeError: There is something else at ``path``, or only root may put something there.
    """
    if path.is_symlink() and not path.exists():  # of a session that was killed
        path.unlink()
    try:
        path.symlink_to(folder)
    except OSError as error:
        raise RuntimeError(f"the whole pipeline is tested in {path}: {error}") from error
    try:
        yield
    finally:
        path.unlink()
