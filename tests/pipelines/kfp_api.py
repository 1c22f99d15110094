"""A Kubeflow Pipelines server that takes runs but runs nothing: API v2beta1 over HTTP.

As the real one does, it parses what it gets and refuses what does not fit.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType, PipelineSpec, PlatformSpec

JSON_TYPES = {
    ParameterType.STRING: str,
    ParameterType.NUMBER_INTEGER: int,
    ParameterType.NUMBER_DOUBLE: float,
    ParameterType.BOOLEAN: bool,
    ParameterType.LIST: list,
    ParameterType.STRUCT: dict,
}


class KfpApi(ThreadingHTTPServer):
    """The server and what it has got.

    Attributes:
        experiments: By name.
        runs: In the order they came.
        states: What a run is said to be, one request after the other; the last one stays.
        failures: Status codes with which the next requests are refused.
        token: What the header must have; empty: anybody may call.
        requests: Method and path of each.
        cookies: Of each request.
        redirect: Where requests are sent instead; empty: they are answered.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.experiments = {}
        self.runs = []
        self.states = [{"state": "SUCCEEDED"}]
        self.failures = []
        self.token = ""
        self.requests = []
        self.cookies = []
        self.redirect = ""

    @property
    def host(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving():
    """Runs a server in a thread."""
    with KfpApi() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _RefusedError(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def log_message(self, *_):
        pass

    def _answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        server = self.server
        server.requests.append((self.command, url.path))
        server.cookies.append(self.headers.get("Cookie"))
        if server.redirect:
            return self._send(302, {}, Location=server.redirect)
        if server.failures:
            return self._send(server.failures.pop(0), {"message": "not now"})
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            return self._send(401, {"error": "Request header error: there is no user identity"})
        try:
            match self.command, url.path.removeprefix("/apis/v2beta1").split("/")[1:]:
                case "GET", ["healthz"]:
                    return self._send(200, {"multi_user": bool(server.token)})
                case "GET", ["experiments"]:
                    return self._send(200, self._experiments(parse_qs(url.query)))
                case "POST", ["experiments"]:
                    made = {**body, "experiment_id": f"e{len(server.experiments)}"}
                    server.experiments[body["display_name"]] = made
                    return self._send(200, made)
                case "POST", ["runs"]:
                    _check(body)
                    server.runs.append(body)
                    return self._send(200, {**body, **_made(f"r{len(server.runs) - 1}")})
                case "GET", ["runs", run_id]:
                    states = server.states
                    state = states.pop(0) if len(states) > 1 else states[0]
                    return self._send(200, {**_made(run_id), "experiment_id": "e0", **state})
        except (_RefusedError, json_format.ParseError) as error:
            return self._send(400, {"message": f"Invalid input error: {error}"})
        return self._send(404, {"message": "Not Found"})

    def _experiments(self, query):
        (predicate,) = json.loads(query["filter"][0])["predicates"]
        assert predicate["operation"] in ("EQUALS", 1)  # by its name or its number
        assert predicate["key"] == "display_name"
        found = self.server.experiments.get(predicate["stringValue"])
        return {"experiments": [found]} if found else {}

    def _send(self, status, answer, **headers):
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _made(run_id):
    return {"run_id": run_id, "created_at": "2026-01-01T00:00:00Z"}


def _check(run):
    """Refuses a run that the API server would refuse."""
    documents = run["pipeline_spec"]
    pipeline = json_format.ParseDict(documents["pipeline_spec"], PipelineSpec())
    platform = json_format.ParseDict(documents["platform_spec"], PlatformSpec())
    for config in platform.platforms["kubernetes"].deployment_spec.executors.values():
        json_format.ParseDict(json_format.MessageToDict(config), KubernetesExecutorConfig())
    inputs = pipeline.root.input_definitions.parameters
    given = run["runtime_config"]["parameters"]
    for name, spec in inputs.items():
        if name not in given and not spec.is_optional:
            raise _RefusedError(f"parameter {name} is missing")
    for name, value in given.items():
        if name not in inputs:
            raise _RefusedError(f"parameter {name} is not in the pipeline")
        if not isinstance(value, JSON_TYPES[inputs[name].parameter_type]):
            raise _RefusedError(f"parameter {name} is of another type")
