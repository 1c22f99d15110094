"""Which images ``make`` builds, and that it installs nothing else for them; nothing is run."""

import os
import subprocess

import pytest


def would_run(tmp_path, *arguments, installed, **env):
    """Returns what make would run where an environment of its own is installed."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("bin/uv", f".installed-{installed}"):
        (venv / name).touch()
    settings = {"ACCEL", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS"}  # also of a make that runs this
    ours = {name: value for name, value in os.environ.items() if name not in settings}
    command = ["make", "--dry-run", f"VENV={venv}", *arguments]
    return subprocess.run(
        command, env={**ours, **env}, text=True, stdout=subprocess.PIPE, check=True
    ).stdout


@pytest.mark.parametrize("installed", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("arguments", "env", "accel"),
    [
        (["images"], {}, "cpu"),
        (["images", "ACCEL=cuda"], {}, "cuda"),
        (["images"], {"ACCEL": "cuda"}, "cuda"),
        (["images", "ACCEL=cpu"], {"ACCEL": "cuda"}, "cpu"),
        (["test-docker"], {}, "cpu"),
    ],
)
def test_images_are_for_the_cpu_unless_asked_otherwise_whatever_is_installed(
    tmp_path, installed, arguments, env, accel
):
    commands = would_run(tmp_path, *arguments, installed=installed, **env)

    assert f"images/build.py --accel {accel} " in commands
    assert "pip install" not in commands


def test_the_images_that_tests_start_run_anywhere(tmp_path):
    commands = would_run(tmp_path, "test-cluster", "ACCEL=cuda", installed="cuda")

    assert "images/build.py --accel cpu " in commands
