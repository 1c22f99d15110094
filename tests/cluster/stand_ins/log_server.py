"""The part of a kubelet that the API server asks for the logs of containers."""

import contextlib
import datetime
import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import docker.errors

from tests.cluster.stand_ins.node import Node


@contextmanager
def serving(node: Node, *, address: str, certificate: Path, key: Path) -> Iterator[int]:
    """Serves the logs of a node's containers; yields the port."""

    class Handler(_Logs):
        pods = node

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class _Logs(http.server.BaseHTTPRequestHandler):
    pods: Node

    def do_GET(self) -> None:
        """Answers /containerLogs/<namespace>/<pod>/<container>."""
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match url.path.strip("/").split("/"):
            case ["containerLogs", namespace, pod, _]:
                container = self.pods.container_of(
                    namespace, pod, previous=query.get("previous") == "true"
                )
            case _:
                self.send_error(404)
                return
        if container is None:
            self.send_error(400, f"container of pod {pod} is not available")
            return
        with contextlib.suppress(ConnectionError, ssl.SSLError, docker.errors.NotFound):
            chunks = container.logs(stream=True, **_options(query))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            for chunk in chunks:
                self.wfile.write(chunk)
                self.wfile.flush()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing: stderr is the tests'."""


def _options(query: dict[str, str]) -> dict[str, Any]:
    """Returns Docker's words for the options of a request."""
    options: dict[str, Any] = {
        "follow": query.get("follow") == "true",
        "timestamps": query.get("timestamps") == "true",
    }
    if "tailLines" in query:
        options["tail"] = int(query["tailLines"])
    now = datetime.datetime.now(datetime.UTC)
    if "sinceSeconds" in query:
        since = now - datetime.timedelta(seconds=int(query["sinceSeconds"]))
        options["since"] = since.timestamp()
    elif "sinceTime" in query:
        options["since"] = datetime.datetime.fromisoformat(query["sinceTime"]).timestamp()
    return options
