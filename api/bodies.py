"""Request bodies: JSON of a declared type, or a 4xx that says which field is wrong and how."""

from contextlib import suppress
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from aiohttp import ClientPayloadError, web

from api.answers import ApiError
from api.auth import Access
from tracker import StoreError

T = TypeVar("T")


class _Named(msgspec.Struct):
    device_id: UUID


_NAMED: Final = msgspec.json.Decoder(_Named)


async def read_body(request: web.Request, decoder: msgspec.json.Decoder[T], access: Access) -> T:
    """Read and validate the body of a request.

    A device whose report is refused is alive all the same: if the body names one that the key may
    reach, it counts as active.

    Args:
        request: the request; its body is limited by the application's `client_max_size`.
        decoder: decodes the declared type.
        access: who may reach which device.

    Raises:
        ApiError: 415 for what is no JSON by its content type, 400 for what is none by its content
            or does not have the declared shape.
        HTTPRequestEntityTooLarge: the body is larger than allowed.
    """
    if request.content_type != "application/json":
        raise ApiError(
            415, "unsupported_media_type", "send the body as Content-Type: application/json"
        )
    try:
        body = await request.read()
    except (web.RequestPayloadError, ClientPayloadError, ConnectionError) as error:
        raise ApiError(
            400, "invalid_body", "the body is incomplete or not encoded as it says", close=True
        ) from error
    try:
        return _decode(body, decoder)
    except ApiError:
        with suppress(ApiError, StoreError):
            await access.reach(request, str(_decode(body, _NAMED).device_id))
        raise


def _decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_body", str(error).replace("`$.", "`")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"the body is no valid JSON: {error}") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "the body is nested too deeply") from error
