"""The images that ``make images`` has built: what is in them, what is not, what they may do."""

import base64
import gzip
import io
import json
import os
import re
import secrets
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from components import steps
from images import build

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
    "rights": [str(Path(folder) / name)  # too few for the user, too many for others
               for folder, folders, files in os.walk(sys.prefix) for name in (*folders, *files)
               if (mode := os.stat(Path(folder) / name).st_mode) & 0o444 != 0o444 or mode & 0o022],
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
    assert seen["rights"] == []
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

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False
        ).stdout.split()

    dirty = "-dirty" if git("status", "--porcelain") else ""
    commit = git("log", "-1", f"--format=%H{dirty} %cI")

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


def saved(name: str) -> Iterator[bytes]:
    """Yields what an image consists of: its layers, uncompressed, its config and its manifest."""
    command = ["docker", "save", name]
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

    found = {wanted[one] for part in saved(name_of("launcher")) for one in wanted if one in part}

    assert found == {"the code", "the environment"}
    said = built.stdout + built.stderr
    assert not any(one in said for one in wanted if one not in (code, revision))


class PrivateIndex(BaseHTTPRequestHandler):
    """An index of one package, for those who know the password."""

    password = secrets.token_hex(16)

    def do_GET(self):
        known = base64.b64encode(f"somebody:{self.password}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {known}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()
        else:
            is_page = self.path == "/simple/tiny/"
            self.send_response(200 if is_page or self.path == f"/{TINY}" else 404)
            self.send_header("Content-Type", "text/html" if is_page else "application/zip")
            self.end_headers()
            page = f"<a href='/{TINY}'>{TINY}</a>".encode()
            self.wfile.write(page if is_page else wheel())

    def log_message(self, *_):
        pass


TINY = "tiny-1.0-py3-none-any.whl"


def wheel() -> bytes:
    file = io.BytesIO()
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny.py", "TINY = 'the package'")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{about}/RECORD", "tiny.py,,\n")
    return file.getvalue()


@pytest.fixture
def client():
    return build._docker(None)


@pytest.fixture
def base():
    label = "org.opencontainers.image.base.name"
    facts = f'--format={{{{index .Config.Labels "{label}"}}}}'
    return docker("image", "inspect", facts, name_of("launcher")).strip()


@contextmanager
def removed(*names: str):
    """Removes images at the end, those that are there."""
    try:
        yield
    finally:
        subprocess.run(["docker", "rmi", "--force", *names], capture_output=True, check=False)


def test_the_password_of_an_index_is_in_no_layer_of_what_was_installed_from_it(
    tmp_path, monkeypatch, capfd, client, base
):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "launcher.lock").write_text("tiny==1.0\n")
    monkeypatch.setattr(build, "CHECKOUT", tmp_path)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    secret = PrivateIndex.password.encode()
    with ThreadingHTTPServer(("127.0.0.1", 0), PrivateIndex) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://somebody:{PrivateIndex.password}@127.0.0.1:{server.server_port}/simple"
        monkeypatch.setenv("UV_DEFAULT_INDEX", index)
        packages = build._packages(client, "launcher", "cpu", base, Path(sys.executable))
        server.shutdown()

    with removed(packages):
        wanted = (secret, b"TINY = 'the package'")
        found = {one for part in saved(packages) for one in wanted if one in part}
    assert found == {b"TINY = 'the package'"}
    assert PrivateIndex.password not in "".join(capfd.readouterr())


def test_what_was_installed_under_a_strict_umask_is_readable_and_nothing_is_everybodys(
    tmp_path, client, base
):
    modes = {"strict": 0o700, "strict/__init__.py": 0o600, "open.py": 0o666, "strict/run": 0o700}
    (tmp_path / "strict").mkdir()
    for name, mode in modes.items():
        if name != "strict":
            (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    tag = f"tzrec-pipelines/test:{secrets.token_hex(4)}"
    look = (
        "import json, os, strict\nfolder = '/opt/venv/lib/python3.11/site-packages/'\n"
        f"print(json.dumps([os.stat(folder + name).st_mode & 0o777 for name in {list(modes)}]))"
    )

    with removed(tag):
        client.build(tag, "packages.Dockerfile", tmp_path, {"BASE": base})
        seen = docker("run", "--rm", "--network=none", tag, "python3", "-c", look)

    assert json.loads(seen) == [0o755, 0o644, 0o644, 0o755]


def test_a_base_with_another_python_is_refused_before_anything_is_copied_to_it(
    tmp_path, client, base, capfd
):
    python = docker("run", "--rm", "--network=none", base, "sh", "-c", "command -v python3").strip()
    program = "import sys; sys.version_info = (3, 12, 1); exec(sys.argv[1])"
    (tmp_path / "python3").write_text(f"#!/bin/sh\nexec {python} -c '{program}' \"$2\"\n")
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base}\nCOPY python3 /other/\nENV PATH=/other:/usr/local/bin:/usr/bin:/bin\n"
    )
    tag, unwanted = (f"tzrec-pipelines/test:{secrets.token_hex(4)}" for _ in range(2))

    with removed(tag, unwanted):
        docker("build", "--network=none", f"--tag={tag}", str(tmp_path))
        with pytest.raises(build.BuildError):
            client.build(unwanted, "packages.Dockerfile", tmp_path, {"BASE": tag})

    said = "".join(capfd.readouterr())
    assert "the packages are for Python 3.11 on x86_64, the base has Python 3.12 on" in said


def test_packages_of_former_lock_files_are_removed_unless_they_are_in_use(base):
    names = ("launcher-000000000000", "launcher-used00000000", "launcher-cuda-000000000000")
    former, used, other = tags = [f"tzrec-pipelines/packages:{name}" for name in names]
    container = f"tzrec-test-{secrets.token_hex(4)}"

    with removed(*tags):
        for tag in tags:
            text = f"FROM {base}\nLABEL test={secrets.token_hex(8)}\n"
            docker("build", "--network=none", f"--tag={tag}", "-", text=text)
        docker("create", f"--name={container}", used)
        try:
            subprocess.run([sys.executable, "images/build.py", "launcher"], check=True)
            format_ = "--format={{.Repository}}:{{.Tag}}"
            found = set(docker("images", format_, "tzrec-pipelines/packages").split())
        finally:
            docker("rm", container)

    assert former not in found
    assert {used, other} <= found


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
