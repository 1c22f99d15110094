"""What the Docker runner asks of engines that are not here to run it on, and what it reads."""

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from components import child
from pipelines.local.docker_runner import _devices, _no_proxy, _once_reached, _rights
from pipelines.local.folders import User, user_of_steps
from pipelines.local.repairs import with_this_python

USER = User(1234, 1235, (27, 1000))


def engine(*options, runtimes=("runc",)):
    """What Docker says of itself, as far as it is asked."""
    seccomp = "name=seccomp,profile=builtin"
    return {"SecurityOptions": [seccomp, *options], "Runtimes": {name: {} for name in runtimes}}


@pytest.mark.parametrize(
    ("options", "identity"),
    [
        ((), {"user": "1234:1235", "group_add": ["27", "1000"]}),
        (("name=cgroupns",), {"user": "1234:1235", "group_add": ["27", "1000"]}),
        # Root of the caller's own engine is the caller; it has no other groups to give.
        (("name=rootless", "name=cgroupns"), {"user": "0:0"}),
        (
            ("name=userns",),
            {"user": "1234:1235", "group_add": ["27", "1000"], "userns_mode": "host"},
        ),
    ],
)
def test_a_containers_user_is_the_caller_wherever_docker_runs(options, identity):
    settings = _rights(USER, engine(*options))

    names = ("user", "group_add", "userns_mode")
    assert {name: settings[name] for name in names if name in settings} == identity
    assert settings["cap_drop"] == ["ALL"]


def test_an_engine_that_names_no_options_is_an_ordinary_one():
    assert _rights(USER, {"SecurityOptions": None})["user"] == "1234:1235"


@pytest.mark.skipif(os.getuid() == 0, reason="root is not who containers are")
def test_a_rootless_engine_has_no_groups_of_the_callers():
    assert user_of_steps(rootless=True) == User(os.getuid(), os.getgid())


@pytest.mark.parametrize(
    ("runtimes", "visible", "are_asked_for"),
    [
        (["runc"], None, False),
        (["runc", "nvidia"], None, True),
        (["runc", "nvidia"], "1,0", True),
        (["runc", "nvidia"], "", False),
    ],
)
def test_gpus_are_asked_for_where_there_are_some_and_they_are_not_hidden(
    monkeypatch, runtimes, visible, are_asked_for
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert bool(_devices(engine(runtimes=runtimes))) == are_asked_for


@pytest.mark.parametrize(
    ("proxies", "exceptions"),
    [
        ({}, "localhost,127.0.0.1"),
        ({"proxies": {"default": {"httpProxy": "http://proxy:1"}}}, "localhost,127.0.0.1"),
        (
            {"proxies": {"default": {"httpProxy": "http://proxy:1", "noProxy": ".example"}}},
            ".example,localhost,127.0.0.1",
        ),
    ],
)
def test_addresses_of_this_machine_never_go_to_a_proxy(tmp_path, monkeypatch, proxies, exceptions):
    (tmp_path / "config.json").write_text(json.dumps(proxies))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    assert _no_proxy() == {"NO_PROXY": exceptions, "no_proxy": exceptions}


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()


@pytest.fixture
def address():
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def recording(asked):
    """What runs steps as processes here, and keeps what they were."""

    def run_step(image, command, env):
        asked.append((image, command[0]))
        return child.run(with_this_python(command), env={"http_proxy": "http://127.0.0.1:1", **env})

    return run_step


def test_a_server_is_asked_for_once_and_then_steps_run(address):
    asked = []
    run_step = _once_reached(recording(asked), address)

    ended = [run_step(image, ["echo", image], {}) for image in ("one", "two")]

    assert ended == [child.Ended(0, ["one\n"]), child.Ended(0, ["two\n"])]
    assert asked == [("one", "python3"), ("one", "echo"), ("two", "echo")]


def test_a_server_that_containers_do_not_reach_fails_the_first_step_with_what_to_do(capfd):
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        asked = []
        ended = _once_reached(recording(asked), address)("one", ["echo", "one"], {})

    assert asked == [("one", "python3")]
    assert ended.code == 1
    [line] = ended.lines
    assert line.startswith(f"error: containers do not reach MLflow at {address}")
    assert "host networking" in line
    assert "MLFLOW_TRACKING_URI" in line
    assert capfd.readouterr() == ("", "")


def test_a_step_whose_image_has_no_python_is_not_held_up():
    def run_step(image, command, env):
        return child.Ended(127, []) if command[0] == "python3" else child.Ended(0, [image])

    assert _once_reached(run_step, "http://127.0.0.1:1")("one", ["x"], {}) == (0, ["one"])
