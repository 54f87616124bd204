"""Errors as clients see them, in OpenAI's shape, and the one exception that carries them. It knows
HTTP status codes but no framework; `http.app` registers the handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_MESSAGE_CHARS = 500  # a message never echoes a large input

_DEFAULT_TYPES = {
    401: "invalid_request_error",
    403: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """Ends a request with `status` and OpenAI's error object.

    Before the first byte of an answer it becomes the HTTP response, later an event of the stream.
    `param` names the offending field (`messages[0].content`, or a schema's JSON Pointer).
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[: MAX_MESSAGE_CHARS - 3] + "..."
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.type = type or _DEFAULT_TYPES.get(status, "invalid_request_error")
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param, code)


def model_not_found(model: str) -> ApiError:
    shown = model if len(model) <= 200 else model[:200] + "..."
    return ApiError(404, f"The model `{shown}` does not exist.", "model", "model_not_found")


def invalid_api_key(*, given: bool) -> ApiError:
    message = (
        "Incorrect API key provided."
        if given
        else "You didn't provide an API key. Send it as `Authorization: Bearer KEY`."
    )
    return ApiError(401, message, None, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def body_too_large(limit: int) -> ApiError:
    # The rest of the body may be unread, so the connection cannot be reused.
    return ApiError(
        413,
        f"The request body is larger than the limit of {limit} bytes.",
        None,
        "request_too_large",
        headers={"Connection": "close"},
    )


def malformed_http(reason: str) -> ApiError:
    return ApiError(400, f"Malformed HTTP: {reason}.", None, "malformed_http")


def uri_too_long(limit: int) -> ApiError:
    return ApiError(
        414, f"The request line is longer than the limit of {limit} bytes.", None, "uri_too_long"
    )


def headers_too_large(limit: int) -> ApiError:
    return ApiError(
        431,
        f"The request's headers are larger than the limit of {limit} bytes.",
        None,
        "headers_too_large",
    )


def request_timeout(part: str) -> ApiError:
    """`part`: headers or body."""
    return ApiError(408, f"The request's {part} did not arrive in time.", None, "request_timeout")


def too_many_connections() -> ApiError:
    return ApiError(
        503,
        "The server has reached its limit of connections. Please retry later.",
        None,
        "too_many_connections",
        headers={"Retry-After": "1"},
    )


def answer_timeout(seconds: float) -> ApiError:
    # The official clients would retry at once, and time out again.
    return ApiError(
        504,
        f"The answer was not complete within the limit of {seconds:g} seconds.",
        None,
        "answer_timeout",
        headers={"x-should-retry": "false"},
    )


def queue_timeout() -> ApiError:
    return ApiError(
        503,
        "The request has waited too long in the queue. Please retry later.",
        None,
        "queue_timeout",
        headers={"Retry-After": "1"},
    )


def too_many_bodies() -> ApiError:
    # The rest of the body is unread, as in `body_too_large`.
    return ApiError(
        503,
        "Too many large requests are under way. Please retry later.",
        None,
        "too_many_bodies",
        headers={"Retry-After": "1", "Connection": "close"},
    )


def queue_full(retry_after: int) -> ApiError:
    return ApiError(
        429,
        "Too many requests are waiting. Please retry later.",
        None,
        "rate_limit_exceeded",
        headers={"Retry-After": str(retry_after)},
    )


def compile_queue_full(retry_after: int) -> ApiError:
    return ApiError(
        429,
        "Too many constraints are waiting to be compiled. Please retry later.",
        None,
        "rate_limit_exceeded",
        headers={"Retry-After": str(retry_after)},
    )


def compiler_unavailable() -> ApiError:
    return ApiError(
        503,
        "Constraints cannot be compiled at the moment. Please retry in a few seconds.",
        None,
        "compiler_unavailable",
        headers={"Retry-After": "5"},
    )


def engine_not_ready() -> ApiError:
    return ApiError(
        503,
        "The engine is not ready. Please retry in a few seconds.",
        None,
        "engine_not_ready",
        headers={"Retry-After": "5"},
    )


def engine_died() -> ApiError:
    return ApiError(
        503,
        "The engine stopped while it worked on this request and is restarting. Please retry.",
        None,
        "engine_died",
        headers={"Retry-After": "5"},
    )


def server_stopping() -> ApiError:
    # A new connection may reach another server behind the same name.
    return ApiError(
        503,
        "The server is shutting down.",
        None,
        "server_stopping",
        headers={"Connection": "close", "Retry-After": "1"},
    )


def internal_error(message: str = "The server had an error. It has been logged.") -> ApiError:
    return ApiError(500, message, None, "internal_error")
