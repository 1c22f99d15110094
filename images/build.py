"""Builds the container images without network in any build: ``python images/build.py --help``.

What has to come from elsewhere comes before: a base, as an image or out of Debian's packages, and
the packages of a lock file, which uv installs into a folder. Base and uv's cache are kept outside
the checkout. The packages of a lock file are an image of their own, made once; on top of it, a
change of the code is built in seconds.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

IMAGES = ("runtime", "launcher", "mlflow")
PUBLIC_BASE = "python:3.11-slim-bookworm"
HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tzrec-pipelines"
PULL_SECONDS = 300
# What a base does without: lists and archives of packages, manuals, and the names of this machine.
_LEFT_OUT = (
    "./dev/*", "./etc/hostname", "./etc/machine-id", "./etc/resolv.conf", "./usr/share/doc/*/*.gz",
    "./usr/share/info/*", "./usr/share/locale/*", "./usr/share/man/*", "./var/cache/apt/*",
    "./var/cache/debconf/*-old", "./var/lib/apt/lists/*", "./var/log/*",
)  # fmt: skip


class BuildError(Exception):
    """Something could not be built; the message says what, in one line."""


@dataclass(frozen=True)
class Docker:
    """A Docker client, and which of its builders is used."""

    path: str
    buildkit: bool

    def __str__(self) -> str:
        return f"{self.path} with {'BuildKit' if self.buildkit else 'the legacy builder'}"

    def build(self, tag: str, dockerfile: str, context: Path, arguments: Mapping[str, str]) -> None:
        """Builds an image from a Dockerfile of this folder, without network."""
        command = [self.path, "build", "--network=none", f"--tag={tag}"]
        command += [f"--file={HERE / dockerfile}"]
        command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        env = {**os.environ, "DOCKER_BUILDKIT": str(int(self.buildkit))}
        _run([*command, str(context)], env=env)
        if not self.buildkit:  # it keeps its stages as images without a name
            unwanted = "label=tzrec-pipelines.intermediate=true"
            _run([self.path, "image", "prune", "--force", f"--filter={unwanted}"])

    def remove_others(self, image: str) -> None:
        """Removes images of the same name up to the last hyphen, as far as nothing uses them."""
        repository, _, tag = image.partition(":")
        name, _, _ = tag.rpartition("-")
        command = [self.path, "images", "--format={{.Tag}}", repository]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        others = {other for other in listed.stdout.split() if other.rpartition("-")[0] == name}
        for other in sorted(others - {tag}):
            command = [self.path, "rmi", f"{repository}:{other}"]
            subprocess.run(command, capture_output=True, check=False)

    def find(self, image: str) -> tuple[str, int] | None:
        """Returns the ID and size of an image in bytes; None if it is not here."""
        command = [self.path, "image", "inspect", image]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            return None
        [description] = json.loads(found.stdout)
        return description["Id"], description["Size"]

    def inspect(self, image: str) -> tuple[str, int]:
        """Returns the ID and size of an image that must be here."""
        found = self.find(image)
        if found is None:
            raise BuildError(f"there is no image {image}")
        return found


def main(argv: Sequence[str] | None = None) -> None:
    """Builds the images that are asked for and prints what they are."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("images", nargs="*", metavar="image", help=f"of {', '.join(IMAGES)}")
    parser.add_argument("--accel", choices=["cpu", "cuda"], default="cpu", help="of runtime")
    parser.add_argument(
        "--base",
        default="",
        help=f"an image with Python 3.11; default: {PUBLIC_BASE}, where it can be had, else one "
        "made of Debian's packages",
    )
    parser.add_argument(
        "--builder",
        choices=["buildkit", "legacy"],
        help="default: buildkit, if any docker on the PATH has it",
    )
    parser.add_argument("--python", type=Path, default=sys.executable, help="with uv and hatchling")
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.images) - set(IMAGES))
    if unknown:
        raise BuildError(f"images are {', '.join(IMAGES)}; got {', '.join(unknown)}")

    docker = _docker(arguments.builder)
    print(f"builder  {docker}", flush=True)
    base = _base(docker, arguments.base)
    _, base_size = docker.inspect(base)
    built = []
    with TemporaryDirectory() as context:
        code = Path(context)
        version = _wheel_of_the_code(arguments.python, code)
        for image in arguments.images or IMAGES:
            started = time.monotonic()
            accel = arguments.accel if image == "runtime" else "cpu"
            name = f"tzrec-pipelines/{image}:{version}" + ("-cuda" if accel == "cuda" else "")
            packages = _packages(docker, image, accel, base, arguments.python)
            facts = {
                "PACKAGES": packages, "BASE": base, "VERSION": version,
                "REVISION": _revision(), "CREATED": _git("log", "-1", "--format=%cI"),
            }  # fmt: skip
            if image == "runtime":
                facts["ACCEL"] = accel
            docker.build(name, f"{image}.Dockerfile", code, facts)
            docker.remove_others(packages)  # of former lock files
            built.append((name, *docker.inspect(name), time.monotonic() - started))
    width = max(len(name) for name, *_ in built)
    print(f"{'image':{width}}  {'digest':71}  {'MB':>6}  {'over base':>9}  {'seconds':>7}")
    for name, digest, size, seconds in built:
        over_base = (size - base_size) / 1e6
        print(f"{name:{width}}  {digest}  {size / 1e6:6.0f}  {over_base:9.0f}  {seconds:7.1f}")


def _docker(builder: str | None) -> Docker:
    """Returns the first client on the PATH that has the builder.

    Clients before 23 have BuildKit themselves, later ones need the plug-in buildx for it.
    """
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    clients = [found for folder in folders if (found := shutil.which("docker", path=folder))]
    if not clients:
        raise BuildError("there is no docker on the PATH")
    if builder != "legacy":
        for client in clients:
            major = int(_text(client, "version", "--format={{.Client.Version}}").split(".")[0])
            buildx = subprocess.run([client, "buildx", "version"], capture_output=True, check=False)
            if major < 23 or buildx.returncode == 0:
                return Docker(client, buildkit=True)
    if builder == "buildkit":
        raise BuildError(f"none of {', '.join(clients)} has BuildKit")
    return Docker(clients[0], buildkit=False)


def _base(docker: Docker, wanted: str) -> str:
    """Returns the image that all others begin with, and says which it is and why."""
    base, why = wanted, "as asked for"
    if not wanted:
        known = _known_debian_base(docker)
        if docker.find(PUBLIC_BASE):
            base, why = PUBLIC_BASE, "which is here"
        elif known:  # asking a registry that does not answer takes minutes
            base, why = known, "made of Debian's packages before"
        elif _pull(docker, PUBLIC_BASE):
            base, why = PUBLIC_BASE, "from a registry"
        else:
            base, why = _debian_base(docker), f"made of Debian's packages, {PUBLIC_BASE} has no way"
    elif not docker.find(wanted) and not _pull(docker, wanted):
        raise BuildError(f"there is no image {wanted}, and it cannot be pulled")
    digest, size = docker.inspect(base)
    print(f"base     {base}  {digest[:19]}  {size / 1e6:.0f} MB  {why}", flush=True)
    return base


def _pull(docker: Docker, image: str) -> bool:
    """Returns whether an image could be pulled; says why if not."""
    try:
        command = [docker.path, "pull", "--quiet", "--platform=linux/amd64", image]
        pulled = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PULL_SECONDS
        )
    except subprocess.TimeoutExpired:
        print(f"pulling {image} took longer than {PULL_SECONDS} s", flush=True)
        return False
    if pulled.returncode != 0:
        print(f"cannot pull {image}: {pulled.stderr.strip()}", flush=True)
    return pulled.returncode == 0


def _known_debian_base(docker: Docker) -> str:
    """Returns the base of Debian's packages, if it was made before; else nothing."""
    image, archive = _debian_names()
    return _debian_base(docker) if docker.find(image) or archive.exists() else ""


def _debian_base(docker: Docker) -> str:
    """Returns a base of Debian's packages, which is made on this machine or out of the cache."""
    image, archive = _debian_names()
    if docker.find(image):
        return image
    if not archive.exists():
        _debootstrap(archive)
    _run([
        docker.path, "import", "--change=ENV LANG=C.UTF-8", '--change=CMD ["python3"]',
        str(archive), image,
    ])  # fmt: skip
    return image


def _debian_names() -> tuple[str, Path]:
    """Returns what the base of Debian's packages is called, as an image and in the cache."""
    recipe = _digest(" ".join(_LEFT_OUT), "4")
    return f"tzrec-pipelines/base:bookworm-{recipe}", CACHE / f"base-bookworm-{recipe}.tar"


def _debootstrap(archive: Path) -> None:
    """Makes a minimal Debian with Python and its security updates, from this machine's mirror."""
    if shutil.which("debootstrap") is None:
        raise BuildError(
            f"{PUBLIC_BASE} cannot be pulled and there is no debootstrap to make a base: "
            "apt-get install debootstrap, or give a base"
        )
    listed = _text(
        "apt-get", "indextargets", "--format=$(REPO_URI) $(CODENAME) $(COMPONENT)",
        "Created-By: Packages", "Origin: Debian", "Component: main",
    )  # fmt: skip
    mirrors = [f"deb {line}" for line in listed.splitlines() if " bookworm" in line]
    main = [line.split()[1] for line in mirrors if line.endswith(" bookworm main")]
    if not main:
        raise BuildError("apt of this machine knows no mirror of Debian bookworm; give a base")
    root = [] if os.geteuid() == 0 else ["sudo"]
    archive.parent.mkdir(parents=True, exist_ok=True)
    print(f"making {archive}; this takes minutes, once", flush=True)
    # What a failing debootstrap leaves may be root's.
    with TemporaryDirectory(dir=archive.parent, ignore_cleanup_errors=True) as folder:
        system = Path(folder) / "system"
        _run([
            *root, "debootstrap", "--variant=minbase", "--include=ca-certificates,python3",
            "bookworm", str(system), main[0],
        ], quiet=True)  # fmt: skip
        sources = system / "etc/apt/sources.list"
        tee = [*root, "tee", str(sources)]
        chroot = [*root, "chroot", str(system), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
        _run(tee, text="\n".join(mirrors) + "\n", quiet=True)
        _run([*chroot, "update", "--quiet"], quiet=True)
        _run([*chroot, "dist-upgrade", "--quiet", "--yes"], quiet=True)
        _run(tee, text="", quiet=True)  # this machine's mirrors are no others'
        finished = Path(folder) / archive.name
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        _run([
            *root, "tar", "--create", f"--file={finished}", "--sort=name", f"--directory={system}",
            *left_out, ".",
        ])  # fmt: skip
        finished.replace(archive)
        _run([*root, "rm", "-rf", str(system)])


def _packages(docker: Docker, image: str, accel: str, base: str, python: Path) -> str:
    """Returns the image with the packages of a lock file, which is made if it is not here."""
    lock = CHECKOUT / "requirements" / f"{image}{'-cuda' if accel == 'cuda' else ''}.lock"
    dockerfile = "packages.Dockerfile"
    base_id, _ = docker.inspect(base)
    key = _digest(lock.read_text(), (HERE / dockerfile).read_text(), base_id)
    packages = f"tzrec-pipelines/packages:{lock.stem}-{key}"
    if not docker.find(packages):
        CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=CACHE) as folder:
            _install(lock, accel, python, Path(folder))
            docker.build(packages, dockerfile, Path(folder), {"BASE": base})
    return packages


def _install(lock: Path, accel: str, python: Path, folder: Path) -> None:
    """Installs the packages of a lock file into a folder, for the Python of the base."""
    print(f"installing {lock.relative_to(CHECKOUT)}", flush=True)
    command = [
        str(python), "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
        "--link-mode=copy", "--python-version=3.11", "--python-platform=x86_64-manylinux_2_28",
        f"--target={folder}", f"--requirement={lock}",
    ]  # fmt: skip
    if accel == "cpu":  # the index has a CUDA build
        found = os.environ.get("PIP_FIND_LINKS")
        command += [f"--find-links={found}"] if found else ["--torch-backend=cpu"]
    _run(command)
    # Its scripts name this machine's Python; modules do without: python3 -m mlflow.
    shutil.rmtree(folder / "bin", ignore_errors=True)
    (folder / ".lock").unlink(missing_ok=True)  # uv's own


def _wheel_of_the_code(python: Path, folder: Path) -> str:
    """Builds the wheel of this checkout into a folder and returns its version.

    The environment has what builds it: a change of the code needs no network.
    """
    _run([
        str(python), "-m", "uv", "build", "--quiet", "--wheel", f"--out-dir={folder}",
        "--offline", "--no-build-isolation", f"--python={python}", str(CHECKOUT),
    ])  # fmt: skip
    [wheel] = folder.glob("*.whl")
    return wheel.name.split("-")[1]


def _revision() -> str:
    """Returns the commit of the checkout, marked if something in it is not committed."""
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str:
    """Returns what git says of the checkout; empty if it is none."""
    try:
        return _text("git", "-C", str(CHECKOUT), *arguments)
    except BuildError:
        return ""


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _text(*command: str) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from None
    if ended.returncode != 0:
        raise BuildError(f"{command[0]} failed: {ended.stderr.strip()}")
    return ended.stdout.strip()


def _run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    quiet: bool = False,
) -> None:
    """Runs a command; what a quiet one prints is shown only if it fails."""
    try:
        ended = subprocess.run(
            command,
            env=env,
            input=text,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from None
    if ended.returncode != 0:
        if quiet:
            print(ended.stdout, flush=True)
        raise BuildError(f"{' '.join(command[:3])} ... ended with {ended.returncode}")


if __name__ == "__main__":
    try:
        main()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
