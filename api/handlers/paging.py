"""Lists as responses: a short list as a whole, a long one in slices while its client reads."""

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
        """Yield the slices; each is read in a turn of the API key."""
        ...


async def list_in_slices(page: Page, limits: Limits, key_id: int) -> web.Response:
    """Respond with a page of a listing.

    The first slice is read before the response begins, so that an error has a status. A page of one
    slice is sent as a whole. Each further slice is read when the client has read the last one.

    Args:
        page: reads the page.
        limits: limits that API keys share.
        key_id: the API key of the request.

    Raises:
        ApiError: 503 if the requests of the API key, or all requests, exceed a limit.
        StoreError: the database is unavailable.
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
    """Respond with a list that one statement reads.

    Args:
        read: runs the statement.
        limits: limits that API keys share.
        key_id: the API key of the request.

    Raises:
        ApiError: 503 if the requests of the API key, or all requests, exceed a limit; and what
            `read` raises.
        StoreError: the database is unavailable.
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
