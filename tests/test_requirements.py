"""What is tested is what the images have."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "requirements"


def versions(name: str) -> dict[str, str]:
    lines = (LOCKS / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if "==" in line)


@pytest.mark.parametrize(
    ("image", "tested"),
    [
        ("runtime.lock", "dev.lock"),
        ("launcher.lock", "dev.lock"),
        ("mlflow.lock", "dev.lock"),
        ("runtime-cuda.lock", "dev-cuda.lock"),
    ],
)
def test_an_image_has_the_versions_that_are_tested(image, tested):
    known = versions(tested)
    found = versions(image)

    assert len(found) > 10
    assert found == {name: known.get(name) for name in found}


@pytest.mark.parametrize("lock", ["dev.lock", "dev-cuda.lock"])
def test_what_builds_the_wheel_is_installed_with_everything_else(lock):
    [builder] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]

    name, found = builder.split("==")
    assert versions(lock)[name] == found
