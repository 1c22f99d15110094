"""The images that ``make images`` has built: what is in them, what is not, what they may do."""

import gzip
import json
import os
import re
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from components import steps

pytestmark = pytest.mark.docker

IMAGES = ("runtime", "launcher", "mlflow")
LIMITED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"]
LOOK = """
import json, os, shutil, sys
from importlib.metadata import distributions
from pathlib import Path

packages = Path(sys.prefix) / "lib/python3.11/site-packages"
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
try:
    Path("/opt/new").touch()
    read_only = False
except OSError:
    read_only = True
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "capabilities": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")],
    "read_only": read_only,
    "distributions": [found.metadata["Name"].lower() for found in distributions()],
    "programs": [p for p in ("gcc", "g++", "cc", "c++", "clang", "make", "ld", "pip", "pip3", "uv")
                 if shutil.which(p, path="/opt/venv/bin:" + os.environ["PATH"])],
    "elevated": [str(Path(folder) / name)
                 for start in ("/usr", "/bin", "/sbin", "/opt")
                 for folder, _, names in os.walk(start) for name in names
                 if os.lstat(Path(folder) / name).st_mode & 0o6000],
    "certificates": [str(p) for p in Path("/usr/local/share/ca-certificates").glob("**/*")],
    "not_compiled": [str(p) for name in ("tzrec_core", "components")
                     for p in (packages / name).glob("**/*.py")
                     if not list((p.parent / "__pycache__").glob(p.stem + ".*.pyc"))],
    "writable_home": os.access(os.environ["HOME"], os.W_OK),
}))
"""
FILES = """
import hashlib, json, os, sys
from pathlib import Path
files = [Path(folder) / name for folder, _, names in os.walk(sys.prefix) for name in names]
print(json.dumps({
    str(path): [path.stat().st_mode, path.stat().st_uid, hashlib.md5(path.read_bytes()).hexdigest()]
    for path in files if "tzrec_core" in str(path) or "components" in str(path)
}))
"""


def docker(*arguments: str, text: str | None = None) -> str:
    ended = subprocess.run(
        ["docker", *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def name_of(image: str) -> str:
    return f"tzrec-pipelines/{image}:{version('tzrec-pipelines')}"


def python(image: str, program: str) -> str:
    """Runs a program in an image with as few rights as the pipeline gives it."""
    limits = [*LIMITED, "--network=none", "--rm", "--interactive"]
    return docker("run", *limits, "--entrypoint=python3", name_of(image), "-", text=program)


@pytest.fixture(scope="module", params=IMAGES)
def image(request):
    return request.param


@pytest.fixture(scope="module")
def described(image):
    [description] = json.loads(docker("image", "inspect", name_of(image)))
    return description


@pytest.fixture(scope="module")
def seen(image):
    return json.loads(python(image, LOOK))


def test_a_container_has_no_rights(seen):
    assert seen["ids"] == [1000, 1000]
    assert seen["capabilities"] == [0, 0, 0]
    assert seen["read_only"]
    assert seen["elevated"] == []
    assert seen["writable_home"]


def test_the_image_names_its_user_by_number(described):
    # Kubernetes cannot tell that a user with a name is not root.
    assert described["Config"]["User"] == "1000:1000"


def test_nothing_of_the_build_is_left(image, seen):
    leftovers = "find /wheels /wheel /code /root/.cache /tmp /var/lib/apt/lists -type f || true"
    command = ["--rm", "--user=0", "--network=none", "--entrypoint=sh", name_of(image), "-c"]
    assert docker("run", *command, leftovers) == ""
    assert seen["programs"] == []
    assert seen["certificates"] == []
    assert not {"pip", "uv", "wheel"} & set(seen["distributions"])


def test_each_image_has_the_packages_of_its_lock_file(image, seen):
    lock = Path("requirements") / f"{image}.lock"
    wanted = {line.partition("==")[0] for line in lock.read_text().splitlines()}
    found = {name.replace("_", "-").replace(".", "-") for name in seen["distributions"]}

    code = set() if image == "mlflow" else {"tzrec-pipelines"}
    assert found == wanted | code


@pytest.mark.parametrize(
    ("image", "unwanted"),
    [
        ("runtime", {"kfp", "mlflow", "docker", "kubernetes", "pytest"}),
        ("launcher", {"kfp", "mlflow", "docker", "torch", "numpy", "pyarrow", "pytest"}),
    ],
    indirect=["image"],
)
def test_steps_carry_nothing_that_they_do_not_use(seen, unwanted):
    assert not unwanted & set(seen["distributions"])


@pytest.mark.parametrize("image", ["runtime", "launcher"], indirect=True)
def test_the_code_comes_with_bytecode(seen):
    # The file system is read-only: Python cannot write it later.
    assert seen["not_compiled"] == []


def test_every_step_can_be_loaded_in_its_image():
    for_cluster = ("launch_train",)
    others = tuple(step for step in steps.STEPS if step not in for_cluster)
    for image, names in (("launcher", for_cluster), ("runtime", others)):
        python(image, f"from components import steps\nfor s in {names}: steps.load(s)")


def test_the_labels_say_what_the_image_was_made_of(image, described):
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in described["Config"]["Labels"].items()
    }
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%H %cI"], capture_output=True, text=True, check=False
    ).stdout.split()

    assert labels["title"].startswith("TZRec Pipelines: ")
    assert labels["version"] == version("tzrec-pipelines")
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"]
    assert [labels["revision"], labels["created"]] == (commit or ["", ""])
    assert "tzrec-pipelines.intermediate" not in described["Config"]["Labels"]
    if image == "runtime":  # MLflow's runs name it
        assert f"TZREC_GIT_REVISION={labels['revision']}" in described["Config"]["Env"]


def test_images_are_small(image, described):
    base = described["Config"]["Labels"]["org.opencontainers.image.base.name"]
    over_base = described["Size"] - int(docker("image", "inspect", "-f", "{{.Size}}", base))
    match image:
        case "runtime":
            assert described["Size"] <= 1.3e9
        case "launcher":
            assert over_base <= 150e6
        case "mlflow":
            assert "/health" in " ".join(described["Config"]["Healthcheck"]["Test"])


def test_nothing_of_this_machine_is_in_an_image(image, described):
    history = docker("history", "--no-trunc", "--format={{.CreatedBy}}", name_of(image))
    told = history + json.dumps(described["Config"])
    secret = re.compile("TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|^PIP_|^UV_|PROXY", re.IGNORECASE)
    # Short values, like 1 and 180, occur by chance.
    values = {name: value for name, value in os.environ.items() if secret.search(name)}
    leaked = [name for name, value in values.items() if len(value) > 8 and value in told]

    assert leaked == []
    assert not re.search(r"PIP_|https?://[^/]*@", told)


def saved(image: str) -> Iterator[bytes]:
    """Yields what an image consists of: its layers, uncompressed, its config and its manifest."""
    command = ["docker", "save", name_of(image)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as saving,
        tarfile.open(fileobj=saving.stdout, mode="r|") as parts,
    ):
        for part in parts:
            if part.isfile():
                content = parts.extractfile(part).read()
                yield gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    assert saving.returncode == 0


def test_secrets_of_the_environment_of_a_build_are_in_no_layer():
    names = (
        "AWS_SECRET_ACCESS_KEY", "KFP_TOKEN", "MLFLOW_TRACKING_PASSWORD", "GITHUB_TOKEN",
        "UV_INDEX_PRIVATE_PASSWORD", "UV_PUBLISH_TOKEN", "PIP_INDEX_PASSWORD",
    )  # fmt: skip
    canaries = {name: secrets.token_hex(16) for name in names}
    proxy = secrets.token_hex(16)
    env = {**os.environ, **canaries, "FTP_PROXY": f"http://somebody:{proxy}@localhost:1"}
    command = [sys.executable, "images/build.py", "launcher"]
    built = subprocess.run(command, env=env, capture_output=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    code = Path("components/secrets.py").read_bytes()
    revision = b"TZREC_GIT_REVISION="
    wanted = {value.encode(): name for name, value in canaries.items()}
    wanted |= {proxy.encode(): "FTP_PROXY", code: "the code", revision: "the environment"}

    found = {wanted[one] for part in saved("launcher") for one in wanted if one in part}

    assert found == {"the code", "the environment"}
    said = built.stdout + built.stderr
    assert not any(one in said for one in wanted if one not in (code, revision))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["runtimes"], "images are runtime, launcher, mlflow; got runtimes"),
        (
            ["--base=localhost:1/none"],
            "there is no image localhost:1/none, and it cannot be pulled",
        ),
    ],
)
def test_a_mistake_builds_nothing_and_is_said_in_one_line(flags, message):
    ended = subprocess.run(
        [sys.executable, "images/build.py", *flags], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr == f"error: {message}\n"


def test_both_builders_make_the_same_file_system():
    """Only the code is built: the packages are there."""
    found = {}
    for builder in ("buildkit", "legacy"):
        command = [sys.executable, "images/build.py", "launcher", f"--builder={builder}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if builder == "buildkit" and "has BuildKit" in ended.stderr:
            pytest.skip("no docker on the PATH has BuildKit")
        assert ended.returncode == 0, ended.stderr[-2000:]
        found[builder] = json.loads(python("launcher", FILES))

    assert found["legacy"] == found["buildkit"]
