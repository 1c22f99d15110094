"""Python programs of their own that are not to import some packages."""

import subprocess
import sys
from collections.abc import Collection

BEYOND_SERVING = ("torchrec", "fbgemm_gpu", "tensordict", "torchmetrics")
"""What an exported model is served without."""

_BEGINNING = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise AssertionError(f"{{name}} is imported")  # which nobody catches to do without
sys.meta_path.insert(0, Blocked())
"""


def run_without(packages: Collection[str], program: str, **settings) -> str:
    """Runs a program that does not even try to import ``packages``; returns what it prints.

    Args:
        packages: Names of modules on the top level.
        program: Its text.
        settings: Of ``subprocess.run``.
    """
    text = _BEGINNING.format(packages=sorted(packages)) + program
    command = [sys.executable, "-W", "ignore", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout
