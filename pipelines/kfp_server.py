"""Speaks to a Kubeflow Pipelines server: the few calls of its API v2beta1 that a run needs."""

import json
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

_API = "/apis/v2beta1"
_SECONDS = 60
"""What one answer may take."""


class _NoRedirects(HTTPRedirectHandler):
    """Goes nowhere else: credentials are for one server only, and Python would hand them on."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ServerUnavailableError(ConnectionError):
    """The server does not answer, or answers that it cannot; later it may."""


class KfpServer:
    """A server, with the credentials of the one who calls it.

    Certificates are checked against the system's, or those that ``SSL_CERT_FILE`` names.
    """

    def __init__(self, host: str, *, token: str | Path = "", cookie: str = "") -> None:
        """Takes the address that the browser shows, up to the ``#``, and credentials, if any.

        Args:
            host: As http://127.0.0.1:8080 or https://kubeflow.example/pipeline.
            token: For the header ``Authorization: Bearer``; or the file that has it, which is read
                for each request, as a pod's token is replaced before it expires.
            cookie: For the header ``Cookie``, of a session that a browser has opened.

        Raises:
            ValueError: ``host`` is no such address.
        """
        if urlsplit(host).scheme not in ("http", "https") or not urlsplit(host).netloc:
            raise ValueError(f"--host must begin with http:// or https://, got {host!r}")
        self._host = host.partition("#")[0].rstrip("/")
        self._opener = build_opener(_NoRedirects)
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        self._token = token
        if cookie:
            self._headers["Cookie"] = cookie

    def experiment_id(self, name: str, *, namespace: str) -> str:
        """Returns the id of an experiment, which is made if there is none of the name.

        Args:
            name: The experiment's.
            namespace: Of a server for several users; else empty.
        """
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        query = {"filter": json.dumps({"predicates": [predicate]}), "namespace": namespace}
        known = self._call("GET", f"/experiments?{urlencode(query)}").get("experiments")
        if known:
            return str(known[0]["experiment_id"])
        made = self._call("POST", "/experiments", {"display_name": name, "namespace": namespace})
        return str(made["experiment_id"])

    def create_run(self, run: Mapping[str, Any]) -> str:
        """Starts a run, a ``V2beta1Run`` as JSON, and returns its id."""
        return str(self._call("POST", "/runs", run)["run_id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Returns what the server knows of a run."""
        return self._call("GET", f"/runs/{run_id}")

    def page(self, run_id: str) -> str:
        """Returns the address of a run's page."""
        return f"{self._host}/#/runs/details/{run_id}"

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Sends one request.

        Raises:
            ValueError: The server refuses the request or its sender, or is no KFP server, or the
                file has no token.
            ServerUnavailableError: The server does not answer, or answers that it cannot.
        """
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        request = Request(self._host + _API + path, data, self._headers, method=method)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._read_token()}")
        try:
            with self._opener.open(request, timeout=_SECONDS) as response:
                text = response.read()
        except HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServerUnavailableError(f"{self._host} cannot be reached: {reason}") from None
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            raise self._stranger() from None
        return answer

    def _read_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            token = self._token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"KFP's token cannot be read: {error}") from error
        if not token:
            raise ValueError(f"{self._token} has no token in it")
        return token

    def _stranger(self, instead: str = "") -> ValueError:
        return ValueError(
            f"{self._host} does not answer as a KFP server{instead}; if it shows a page to "
            "log in, set KFP_TOKEN or KFP_COOKIE; else add what its address has before the #, "
            "as /pipeline"
        )

    def _refusal(self, error: HTTPError) -> Exception:
        """Returns what the server's refusal means to the one who called."""
        said = _message(error.read()) or error.reason
        match error.code:
            case code if 300 <= code < 400:
                place = urlsplit(error.headers.get("Location", ""))
                return self._stranger(f", but sends to {place.scheme}://{place.netloc}{place.path}")
            case 401 | 403:
                return ValueError(
                    f"{self._host} refuses access ({error.code}): {said}; it needs the token of "
                    "somebody who may do this in KFP_TOKEN or the file KFP_TOKEN_FILE, or a "
                    "session's cookie in KFP_COOKIE"
                )
            case 404:
                return ValueError(
                    f"{self._host} has no {urlsplit(error.url).path} ({said}); "
                    "--host needs what the address has before the #, as /pipeline"
                )
            case code if code >= 500 or code == 429:
                return ServerUnavailableError(f"{self._host} cannot answer ({code}): {said}")
            case code:
                return ValueError(f"{self._host} refuses the request ({code}): {said}")


def _message(body: bytes) -> str:
    """Returns why the server refuses, as far as it says so in JSON."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    return str(answer.get("message") or answer.get("error") or "")
