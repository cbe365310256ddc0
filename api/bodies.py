"""Request bodies: JSON of a declared type, or a 4xx that says which field is wrong and how."""

from contextlib import suppress
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from api.answers import ApiError
from api.auth import Access
from tracker import StoreError

T = TypeVar("T")


async def read_body(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Read and validate the body of a request.

    Args:
        request: the request; its body is limited by the application's `client_max_size`.
        decoder: decodes the declared type.

    Raises:
        ApiError: 415 for what is no JSON by its content type, 400 for what is none by its content
            or does not have the declared shape.
        HTTPRequestEntityTooLarge: the body is larger than allowed.
    """
    if request.content_type != "application/json":
        raise ApiError(
            415, "unsupported_media_type", "send the body as Content-Type: application/json"
        )
    body = await request.read()
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_body", str(error).replace("`$.", "`")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"the body is no valid JSON: {error}") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "the body is nested too deeply") from error


class _Named(msgspec.Struct):
    device_id: UUID


_NAMED: Final = msgspec.json.Decoder(_Named)


async def reach_named_device(request: web.Request, access: Access) -> None:
    """Note as active the device that a refused body names, if it names one that can be reached.

    A device whose report is refused is alive all the same.
    """
    with suppress(ApiError, StoreError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        named = _NAMED.decode(await request.read())
        await access.reach(request, str(named.device_id))
