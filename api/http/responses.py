"""Responses: JSON bodies, and errors as `{"error": code, "message": text}`."""

from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web


class Error(msgspec.Struct, frozen=True):
    """What went wrong: a code for programs, a message for people."""

    error: str
    message: str


_encode = msgspec.json.Encoder().encode
_CODES: Final = {413: "body_too_large"}
"""Where the standard's own phrase would read badly as a code."""
_KEPT_HEADERS: Final = ("Allow", "Retry-After")


def json_response(body: object, status: int = 200) -> web.Response:
    """Answer with JSON.

    Args:
        body: whatever msgspec encodes: structs, dicts, aware datetimes.
        status: HTTP status.
    """
    return web.Response(body=_encode(body), status=status, content_type="application/json")


class ApiError(web.HTTPException):
    """A response with an error; raised by handlers, turned into JSON in one place.

    It is one of aiohttp's own exceptions, so that any middleware on the way knows its status.

    Args:
        status: HTTP status.
        code: what went wrong, for programs.
        message: what went wrong and what to do, for people.
        retry_after_s: when to try again, in whole seconds.
        close: the connection cannot be used for another request.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: int | None = None,
        close: bool = False,
    ) -> None:
        self.status_code = status
        super().__init__(
            headers=None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        )
        self.code = code
        self.message = message
        self.close = close


def error_response(error: web.HTTPException) -> web.Response:
    """Return an exception as a JSON response, aiohttp's own (no such route, ...) included.

    Raises:
        HTTPException: the same, if it is no error.
    """
    if error.status < HTTPStatus.BAD_REQUEST:
        raise error
    if isinstance(error, ApiError):
        code, message = error.code, error.message
    else:
        code = _CODES.get(error.status) or error.reason.lower().replace(" ", "_")
        message = error.reason
    answer = json_response(Error(code, message), error.status)
    for name in _KEPT_HEADERS:
        if name in error.headers:
            answer.headers[name] = error.headers[name]
    if isinstance(error, ApiError) and error.close:
        answer.force_close()
    return answer
