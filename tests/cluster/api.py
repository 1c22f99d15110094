"""Requests to a Kubernetes API server, in and out as the JSON that it speaks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3


class ApiError(Exception):
    """The server has refused a request; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """A user of the API server; threads may share it."""

    def __init__(self, url: str, *, ca_file: Path, token: str) -> None:
        self.url = url
        self.ca_file = ca_file
        self._pool = urllib3.PoolManager(ca_certs=str(ca_file), maxsize=8)
        self._headers = {"Authorization": f"Bearer {token}"}

    def as_user(self, token: str) -> "Api":
        """Returns another user of the same server."""
        return Api(self.url, ca_file=self.ca_file, token=token)

    def get(self, path: str, **query: object) -> Any:
        return json.loads(self.text(path, **query))

    def text(self, path: str, **query: object) -> str:
        """Returns an answer that is no JSON, such as a log."""
        return self._request("GET", f"{path}?{urlencode(query)}" if query else path)

    def create(self, path: str, body: Mapping[str, Any]) -> Any:
        return json.loads(self._request("POST", path, body))

    def replace(self, path: str, body: Mapping[str, Any]) -> Any:
        return json.loads(self._request("PUT", path, body))

    def merge(self, path: str, body: Mapping[str, Any]) -> Any:
        """Changes the fields that ``body`` has; lists are replaced as a whole."""
        return json.loads(
            self._request("PATCH", path, body, content_type="application/merge-patch+json")
        )

    def delete(self, path: str, **options: object) -> None:
        """Deletes an object; one that is not there is none to delete."""
        try:
            self._request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiError as error:
            if error.status != 404:
                raise

    def _request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> str:
        answer = self._pool.request(
            method,
            self.url + path,
            body=None if body is None else json.dumps(body),
            headers={**self._headers, "Content-Type": content_type},
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=30),
        )
        content = answer.data.decode(errors="replace")
        if answer.status >= 300:
            try:
                message = json.loads(content)["message"]
            except (ValueError, KeyError):
                message = content
            raise ApiError(answer.status, message)
        return content
