"""Serves a local MLflow store while containers run, which so need neither its file nor its user."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psutil

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_USUAL_PORT = 5000
"""Where ``make mlflow-ui`` serves the same store: links to a run's page are then of use later."""
_START_SECONDS = 300
_END_SECONDS = 30

# Without the processes for what nobody asks of it here, and under no other name: what the caller
# may have set is for a server of theirs.
_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*,localhost:*",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# Ends the server when its own standard input ends, so also when this process is killed.
_LEASH = """
exec 3<&0
"$@" & server=$!
(read -r _ <&3; kill "$server") & leash=$!
wait "$server"
kill "$leash"
"""


def artifacts_of(store: str) -> Path:
    """Returns the folder ``mlartifacts`` beside a sqlite store, which runs have their files in."""
    return Path(urlsplit(store).path[1:]).absolute().parent / "mlartifacts"


@contextmanager
def served(store: str) -> Iterator[str]:
    """Serves a sqlite store on this machine and gives the server's address.

    Files of runs stay where the store alone would have them, and clients write them themselves.

    Raises:
        ValueError: The server does not start; the message is what it wrote last.
    """
    while True:
        port = _free_port()
        with _started(store, port) as (process, output):
            if _answers(process, port):
                address = f"http://{_HOST}:{port}"
                log.info("MLflow shows this run, as long as it lasts, at %s", address)
                yield address
                return
            reason = _last_line(output)
        if _is_free(port):  # else somebody has taken it meanwhile, and there are others
            raise ValueError(f"no MLflow server can be started for {store}: {reason}")


@contextmanager
def _started(store: str, port: int) -> Iterator[tuple["subprocess.Popen[bytes]", IO[str]]]:
    """Gives a server that is told to listen on a port, and what it writes; ends it."""
    command = [
        "sh", "-c", _LEASH, "sh", sys.executable, "-m", "mlflow", "server", f"--host={_HOST}",
        f"--port={port}", "--workers=1", f"--backend-store-uri={store}",
        f"--default-artifact-root={artifacts_of(store).as_uri()}",
    ]  # fmt: skip
    with TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **_SETTINGS},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends it after the steps, not with them
        )
        assert process.stdin is not None
        try:
            yield process, output
        finally:
            process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port() -> int:
    """Returns the usual port if it is free, else another."""
    if _is_free(_USUAL_PORT):
        return _USUAL_PORT
    with socket.socket() as tried:
        tried.bind((_HOST, 0))
        return int(tried.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((_HOST, port))
        except OSError:
            return False
        return True


def _answers(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Returns whether the server answers before it ends, or before it is given up."""
    opener = build_opener(ProxyHandler({}))  # a proxy is not for this machine's own addresses
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(f"http://{_HOST}:{port}/health", timeout=5):
                # Whoever else has taken the port answers, too, and has other runs.
                if _listens(process, port):
                    return True
        except (URLError, OSError):
            pass
        time.sleep(0.2)
    return False


def _listens(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Returns whether the server, or a process that it has started, listens on a port."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        sockets = [one for member in family for one in member.net_connections("tcp")]
    except psutil.NoSuchProcess:  # it ends just now
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets)


def _last_line(output: IO[str]) -> str:
    output.seek(0)
    written = [line.strip() for line in output if line.strip()]
    return written[-1] if written else "it wrote nothing"
