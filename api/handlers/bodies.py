"""Request bodies: JSON of a declared type, or a 4xx that says which field is wrong and how."""

import codecs
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from aiohttp import ClientPayloadError, HttpVersion11, hdrs, web

from api.access.authentication import Access
from api.http.connections import BodyTooSlow
from api.http.responses import ApiError
from tracker import StoreError

T = TypeVar("T")


async def expect_later(request: web.Request) -> None:
    """Send no `100 Continue` before the request is authenticated; `read_body` sends it later.

    Args:
        request: a request with an `Expect` header; a route's `expect_handler` is given it.

    Raises:
        HTTPExpectationFailed: it expects something else.
    """
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        raise web.HTTPExpectationFailed


class _Named(msgspec.Struct):
    device_id: UUID


_NAMED: Final = msgspec.json.Decoder(_Named)
_COMPRESSED: Final = ("gzip", "deflate")
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS


async def read_body(
    request: web.Request,
    decoder: msgspec.json.Decoder[T],
    access: Access,
    turn: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """Read and validate the body of a request.

    A rejected report still shows that its device is active: if the body names a device that the API
    key may access, the device is touched.

    Args:
        request: the request; its body is limited by the application's `client_max_size`.
        decoder: decodes the declared type.
        access: decides which device an API key may access.
        turn: awaited before the body is decoded, if that takes long.

    Raises:
        ApiError: 415 if the content type is not JSON or the encoding is neither gzip nor deflate,
            400 if the content is not JSON or not of the declared type, 408 if the body takes too
            long to arrive.
        HTTPRequestEntityTooLarge: the body is larger than allowed, as sent or as decoded.
    """
    if request.content_type != "application/json":
        raise ApiError(
            415, "unsupported_media_type", "send the body as Content-Type: application/json"
        )
    if (request.content_length or 0) > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size)
    try:
        if _is_awaited(request):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the response has not begun
        body = await request.read()
    except BodyTooSlow as error:
        raise ApiError(
            408, "request_timeout", "the body took too long to come", close=True
        ) from error
    except (web.RequestPayloadError, ClientPayloadError, ConnectionError) as error:
        raise ApiError(
            400, "invalid_body", "the body is incomplete or not encoded as it says", close=True
        ) from error
    if turn is not None:
        await turn()
    body = _decompressed(request, body)
    try:
        return _decode(body, decoder)
    except ApiError:
        with suppress(ApiError, StoreError):
            await access.authorize_device(request, str(_decode(body, _NAMED).device_id))
        raise


def _is_awaited(request: web.Request) -> bool:
    """Return whether the client waits for `100 Continue`; no client of HTTP/1.0 does."""
    expected = hdrs.EXPECT in request.headers and not request.content.is_eof()
    return expected and request.version >= HttpVersion11


def _decompressed(request: web.Request, body: bytes) -> bytes:
    """Inflate a body up to the limit; the server itself does not inflate, see `create_app`."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in _COMPRESSED:
        raise ApiError(
            415, "unsupported_media_type", "send the body as it is, or encoded as gzip or deflate"
        )
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    most_bytes = request.client_max_size
    try:
        inflated = inflater.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise _not_as_it_says() from error
    if len(inflated) > most_bytes:
        raise web.HTTPRequestEntityTooLarge(most_bytes)
    if not inflater.eof or inflater.unused_data:
        raise _not_as_it_says()
    return inflated


def _not_as_it_says() -> ApiError:
    return ApiError(400, "invalid_body", "the body is incomplete or not encoded as it says")


def _decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        body.decode()  # the decoder skips unknown fields, which must be valid text, too
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_body", str(error).replace("`$.", "`")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"the body is no valid JSON: {error}") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "the body is nested too deeply") from error
