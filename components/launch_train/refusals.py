"""What it means if Kubernetes' API server does not do what it is asked for."""

import json
import re
from http import HTTPStatus
from typing import Any

from kubernetes import client

from components.steps import StepFailedError

_DENIED = re.compile(r'User "(.*)" cannot (\w+) resource "(.*?)"')
_PASSING = {
    0,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,  # of two writers at once, of a quota for example
    HTTPStatus.GONE,  # of a list that was read page by page for too long
    HTTPStatus.TOO_MANY_REQUESTS,
}
_ROLE = "deploy/ has a Role with the rights that it needs"


class UnavailableError(StepFailedError):
    """The API server has not answered for long."""


class ForbiddenError(StepFailedError):
    """Whoever asks has not the right to do it."""

    def __init__(self, message: str, right: str) -> None:
        """Says what happened, and which right is missing: ``list pods``."""
        super().__init__(message)
        self.right = right


def trouble(error: Exception, *, is_known: bool) -> str | None:
    """Returns what keeps a request from being answered; None if the answer is final.

    Args:
        error: Of the request.
        is_known: Whether the server has known who asks; if it does not now, it will again.
    """
    if not isinstance(error, client.ApiException):
        return f"{type(error).__name__}: {error}"
    status = error.status or 0
    is_unknown_now = is_known and status == HTTPStatus.UNAUTHORIZED
    if status >= 500 or status in _PASSING or is_unknown_now:
        return f"{error.status} {message_of(error)}"
    return None


def already_exists(error: client.ApiException) -> bool:
    """Returns whether something is not made because it is there; other conflicts pass."""
    return error.status == HTTPStatus.CONFLICT and _status(error).get("reason") == "AlreadyExists"


def message_of(error: client.ApiException) -> str:
    """Returns what the API server has to say."""
    return str(
        _status(error).get("message") or _body(error) or error.reason or "no message"
    ).strip()


def _status(error: client.ApiException) -> dict[str, Any]:
    """Returns the answer's JSON; {} if it is none."""
    try:
        found = json.loads(_body(error))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _body(error: client.ApiException) -> str:
    body = error.body or ""
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body)


def refusal(error: client.ApiException) -> StepFailedError:
    """Returns the error for an answer that is final."""
    message = message_of(error)
    match error.status:
        case HTTPStatus.FORBIDDEN:
            denied = _DENIED.search(message)
            if denied is None:  # a quota, or an admission rule
                return StepFailedError(f"Kubernetes does not allow it: {message}")
            who, verb, resource = denied.groups()
            return ForbiddenError(
                f"{who} may not {verb} {resource}; {_ROLE}. Kubernetes: {message}",
                f"{verb} {resource}",
            )
        case HTTPStatus.UNAUTHORIZED:
            return StepFailedError(f"Kubernetes does not know who is asking: {message}")
    return StepFailedError(f"Kubernetes refuses ({error.status}): {message}")
