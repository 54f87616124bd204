"""Errors in Anthropic's shape: its own types for HTTP's numbers, and `details` for the code."""

from __future__ import annotations

from typing import Any

from formgate.gateway.errors import ApiError

PATH = "/v1/messages"  # of the endpoints whose errors have this shape

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    414: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    501: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
    505: "invalid_request_error",
}


def is_anthropic(path: str) -> bool:
    return path == PATH or path.startswith(PATH + "/")


def anthropic_error(error: ApiError, request_id: str | None = None) -> dict[str, Any]:
    """The error's body. It has no `param`, so the message names the field."""
    message = error.message
    if error.param is not None and error.param not in message:
        message = f"{error.param}: {message}"
    return {
        "type": "error",
        "error": {
            "type": _TYPES.get(error.status, "api_error"),
            "message": message,
            "details": {"error_code": error.code} if error.code else None,
        },
        "request_id": request_id,
    }
