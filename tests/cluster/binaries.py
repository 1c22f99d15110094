"""Where `make kubernetes` and `make images` have put what these tests start."""

import os
from pathlib import Path

import docker
import docker.errors

KUBERNETES = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    / "tzrec-pipelines"
    / "kubernetes-1.20.2"
)


class MissingError(Exception):
    """Something is not there that all of these tests need; the message says what to do."""


def kubernetes(name: str) -> Path:
    """Returns the program ``name`` of the control plane.

    Raises:
        MissingError: It has not been built.
    """
    path = KUBERNETES / name
    if not path.exists():
        raise MissingError(f"{path} does not exist; `make kubernetes` builds it")
    return path


def require_image(engine: docker.DockerClient, name: str) -> None:
    """Makes sure that there is an image.

    Raises:
        MissingError: It has not been built.
    """
    try:
        engine.images.get(name)
    except docker.errors.ImageNotFound:
        raise MissingError(f"there is no image {name}; `make images` builds it") from None
