"""What it means if Kubernetes' API server does not do what it is asked for."""

import json
import re
from http import HTTPStatus

from kubernetes import client

from components.steps import StepFailedError

_DENIED = re.compile(r'User "(.*)" cannot (\w+) resource "(.*?)"')
_ROLE = "deploy/ has a Role with the rights that it needs"


class ForbiddenError(StepFailedError):
    """Whoever asks has not the right to do it."""

    def __init__(self, message: str, right: str) -> None:
        """Says what happened, and which right is missing: ``list pods``."""
        super().__init__(message)
        self.right = right


def trouble(error: Exception) -> str | None:
    """Returns what keeps a request from being answered; None if the answer is final."""
    if not isinstance(error, client.ApiException):
        return f"{type(error).__name__}: {error}"
    status = error.status or 0
    if status >= 500 or status in (0, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT):
        return f"{error.status} {message_of(error)}"
    return None


def message_of(error: client.ApiException) -> str:
    """Returns what the API server has to say."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        return str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        return (body or error.reason or "no message").strip()


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
