"""Answers: JSON bodies, and errors as `{"error": code, "message": text}`."""

from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

_encode = msgspec.json.Encoder().encode
_CODES: Final = {413: "body_too_large", 500: "internal_error"}


def json_answer(body: object, status: int = 200) -> web.Response:
    """Answer with JSON.

    Args:
        body: whatever msgspec encodes: structs, dicts, aware datetimes.
        status: HTTP status.
    """
    return web.Response(body=_encode(body), status=status, content_type="application/json")


class ApiError(Exception):
    """An answer other than the one asked for; raised by handlers, turned into JSON in one place.

    Args:
        status: HTTP status.
        code: what went wrong, for programs.
        message: what went wrong and what to do, for people.
        retry_after_s: when to try again, in whole seconds.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s

    def answer(self) -> web.Response:
        """Return the error as a response."""
        response = json_answer({"error": self.code, "message": str(self)}, self.status)
        if self.retry_after_s is not None:
            response.headers["Retry-After"] = str(self.retry_after_s)
        return response


def from_http_exception(error: web.HTTPException) -> web.Response:
    """Return what aiohttp raised (no such route, body too large, ...) in our own form."""
    if error.status < HTTPStatus.BAD_REQUEST:
        raise error
    code = _CODES.get(error.status) or error.reason.lower().replace(" ", "_")
    response = ApiError(error.status, code, error.reason).answer()
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response
