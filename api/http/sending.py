"""Makes the bytes of a response that is there as a whole; aiohttp sends all others.

aiohttp prepares a response in seven steps that leave room for compression, chunks, cookies and
signals. Nearly all responses of this service have none of these, and are sent in one step.
"""

from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_writer import _serialize_headers

_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304


def as_bytes(request: web.BaseRequest, response: web.StreamResponse) -> bytes | None:
    """Return what is to be sent for a response, with the headers that aiohttp would add.

    Args:
        request: the request that it responds to.
        response: as its handler and the middlewares have left it.

    Returns:
        None if it is not there as a whole or needs something else that aiohttp does.

    Raises:
        ValueError: a header has a control character in it.
    """
    if type(response) is not web.Response:
        return None
    status = response.status
    if (
        status == _NOT_MODIFIED
        or request.version != HttpVersion11
        or request.method == hdrs.METH_HEAD
        or response.prepared
        or response.chunked
        or response.compression
        or response._cookies  # noqa: SLF001 - asking for them makes some
    ):
        return None
    headers, body = response.headers, response.body or b""
    if not isinstance(body, bytes):
        return None
    if status == _NO_CONTENT:
        body = b""
    else:
        headers[hdrs.CONTENT_LENGTH] = str(len(body))
        if body and hdrs.CONTENT_TYPE not in headers:
            headers[hdrs.CONTENT_TYPE] = "application/octet-stream"
    headers[hdrs.DATE] = rfc822_formatted_time()
    keeps_alive = response.keep_alive
    if keeps_alive is None:
        keeps_alive = response._keep_alive = request.keep_alive  # noqa: SLF001 - as aiohttp does
    if not keeps_alive:
        headers[hdrs.CONNECTION] = "close"
    return _serialize_headers(f"HTTP/1.1 {status} {response.reason}", headers) + body
