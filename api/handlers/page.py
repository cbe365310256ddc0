"""The files of the live page. They are public: the data that they show needs an API key."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from aiohttp import ETag, web

from api.access.authentication import public
from api.handlers.openapi import Operation
from api.http.pieces import body_of
from api.http.responses import ApiError, error_response

FOLDER: Final = Path(__file__).parent.parent / "page"
_INDEX: Final = "index.html"
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # an unchanged file is not sent again
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""Types of files. The list of the system differs between machines."""


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    tag: str


@cache
def _read_files() -> dict[str, _File]:
    """Return all files of the page by their names."""
    files = {}
    for path in FOLDER.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            content = path.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:32]
            content_type = _TYPES.get(path.suffix, "text/plain")
            files[path.relative_to(FOLDER).as_posix()] = _File(content, content_type, tag)
    return files


class PageHandlers:
    """Handlers of / and of the files below /page/.

    All files are read once, so that a request can name no other file.
    """

    def __init__(self) -> None:
        self._files = _read_files()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/", public(self._index)),
            web.get("/page/{file:.*}", public(self._file)),
        ]

    @Operation(responses={200: str, 304: None}, content_type="text/html")
    async def _index(self, request: web.Request) -> web.Response:
        """Show the live page."""
        return self._answer(request, _INDEX)

    @Operation(responses={200: str, 304: None}, content_type="*/*", errors=(404,))
    async def _file(self, request: web.Request) -> web.Response:
        """Show a file of the live page."""
        return self._answer(request, request.match_info["file"])

    def _answer(self, request: web.Request, name: str) -> web.Response:
        if name not in self._files:
            answer = error_response(ApiError(404, "not_found", "the live page has no such file"))
            answer.headers.update(_HEADERS)
            return answer
        file = self._files[name]
        asked = request.if_none_match or ()
        if any(etag.value in (file.tag, "*") for etag in asked):
            answer = web.Response(status=304, headers=_HEADERS)
        else:
            charset = "; charset=utf-8" if file.content_type.startswith("text/") else ""
            answer = body_of(file.content, None, file.content_type + charset)
            answer.headers.update(_HEADERS)
        answer.etag = ETag(file.tag)
        return answer
