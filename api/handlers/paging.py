"""Lists as responses: a short one as a whole, a long one slice by slice, as its client reads."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, Protocol

import msgspec
from aiohttp import web

from api.fleet.listing import Listed, Slice
from api.http.limits import Limits
from api.http.pieces import GrowingBody, json_body

_encode: Final = msgspec.json.Encoder().encode


class Page(Protocol):
    """Reads a page of a listing."""

    def __call__(
        self, *, turn: Callable[[], AbstractAsyncContextManager[None]]
    ) -> AsyncGenerator[Slice, None]:
        """Yield its slices, each in a turn of its own."""
        ...


async def list_in_slices(page: Page, limits: Limits, key_id: int) -> web.Response:
    """Answer with a page of a listing.

    The first slice is read before the response begins, so that what is wrong by then is an error
    with a status. A page of one slice is sent as a whole. Of a longer one the next slice is read
    when the client has read the last.

    Args:
        page: reads it.
        limits: what API keys share.
        key_id: the API key of the request.

    Raises:
        ApiError: 503 if the API key, or all, have too much under way.
        StoreError: the database is away.
    """
    share = await limits.unsent.take(key_id)
    begun = False

    def turn() -> AbstractAsyncContextManager[None]:
        return limits.reads.turn(key_id, begun=begun)

    slices = page(turn=turn)
    try:
        first = await anext(slices)
    except BaseException:
        share.give_back()
        raise
    if first.is_last:
        await slices.aclose()
        return json_body(_encode(Listed(first.devices, first.next_cursor)), share)
    begun = True
    head = b'{"devices":' + _encode(first.devices)[:-1]
    return web.Response(body=GrowingBody(head, _rest(first, slices), share))


async def list_whole(
    read: Callable[[], Awaitable[object]], limits: Limits, key_id: int
) -> web.Response:
    """Answer with a list that one statement reads.

    Args:
        read: reads it.
        limits: what API keys share.
        key_id: the API key of the request.

    Raises:
        ApiError: 503 if the API key, or all, have too much under way; what `read` raises.
        StoreError: the database is away.
    """
    share = await limits.unsent.take(key_id)
    try:
        async with limits.reads.turn(key_id):
            return json_body(_encode(await read()), share)
    except BaseException:
        share.give_back()
        raise


async def _rest(first: Slice, slices: AsyncGenerator[Slice, None]) -> AsyncGenerator[bytes, None]:
    separator = b"," if first.devices else b""
    async with aclosing(slices):
        async for part in slices:
            encoded = _encode(part.devices)[1:-1]
            if encoded:
                encoded, separator = separator + encoded, b","
            if part.is_last:
                encoded += b'],"next_cursor":' + _encode(part.next_cursor) + b"}"
            yield encoded
