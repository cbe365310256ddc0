"""Large response bodies, sent in pieces as the client reads them.

aiohttp hands a body to the transport as a whole, where it stays until the client has read it. These
bodies are handed over a piece at a time, the next one when the transport has room again. So a
client that does not read costs a few pieces, however large the body is.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from api.http.shares import Share
from tracker.instrumentation import LogThrottle

PIECE_BYTES: Final = 16_384
"""What is handed to the transport at once; also what it may keep before the next one waits."""
_RESET: Final = struct.pack("ii", 1, 0)
"""Linger for no time: TCP resets the connection when it is closed."""
_LOG_EVERY_S: Final = 10.0
_JSON: Final = "application/json"

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_broken: Final = LogThrottle(_LOG_EVERY_S)


async def write_pieces(writer: AbstractStreamWriter, data: bytes) -> None:
    """Send bytes in pieces, each when the client has read enough of those before.

    Args:
        writer: of the response's body.
        data: what to send.

    Raises:
        ConnectionError: the client has left.
    """
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        await writer.write(view[start : start + PIECE_BYTES])
        await writer.drain()


class _Body(Payload):
    """A body that holds a share of what may be unsent until it is sent."""

    def __init__(self, first: bytes, share: Share | None, content_type: str) -> None:
        super().__init__(None, content_type=content_type)
        self._first = first
        self._share = share

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Refuse: it is only ever sent."""
        del encoding, errors
        raise TypeError("a body in pieces cannot be read as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it; aiohttp calls this.

        Args:
            writer: of the response's body.

        Raises:
            ConnectionError: the client has left.
        """
        await write_pieces(writer, self._first)

    async def close(self) -> None:
        """Give the share back; aiohttp calls this when the body is sent or cannot be."""
        if self._share is not None:
            self._share.give_back()


class KnownBody(_Body):
    """A body that is there as a whole.

    Args:
        data: the body.
        share: what it holds until it is sent; None if it is shared by all who ask for it.
        content_type: its type.
    """

    def __init__(self, data: bytes, share: Share | None, content_type: str = _JSON) -> None:
        if share is not None:
            share.resize(len(data))
        super().__init__(data, share, content_type)
        self._size = len(data)


class GrowingBody(_Body):
    """A body of JSON whose next part is made when the part before is sent.

    Args:
        first: its first part.
        rest: makes the other parts.
        share: what it holds until it is sent.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], share: Share) -> None:
        super().__init__(first, share, _JSON)
        self._rest = rest

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send one part after the other; aiohttp calls this.

        A part that cannot be made breaks off the connection: the status has been sent, and what
        has been sent must not be taken for all.

        Args:
            writer: of the response's body.

        Raises:
            ConnectionError: the client has left, or the connection was broken off.
        """
        try:
            await super().write(writer)
            self._first = b""
            async for part in self._rest:
                await write_pieces(writer, part)
        except ConnectionError:
            raise
        except Exception as error:
            if times := _broken.due():
                log.warning(
                    "response.broken_off", times=times, error=f"{type(error).__name__}: {error}"
                )
            _reset(writer)
            raise ConnectionResetError("a part of the response could not be made") from error
        finally:
            await self._rest.aclose()


def _reset(writer: Any) -> None:
    """End the connection in a way that is no end of a body, not even of one without a length."""
    transport: asyncio.Transport | None = writer.transport
    if transport is None:
        return
    wire = transport.get_extra_info("socket")
    with suppress(OSError):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def body_of(data: bytes, share: Share | None, content_type: str) -> web.Response:
    """Respond with a body that is there as a whole; it holds its share until it is sent if large.

    Args:
        data: the body.
        share: what was taken for it; None if it is shared by all who ask for it.
        content_type: its type, with its parameters.
    """
    if len(data) > PIECE_BYTES:
        return web.Response(body=KnownBody(data, share, content_type))
    if share is not None:
        share.give_back()
    return web.Response(body=data, headers={hdrs.CONTENT_TYPE: content_type})


def json_body(encoded: bytes, share: Share) -> web.Response:
    """Respond with JSON that is there as a whole.

    Args:
        encoded: the body.
        share: what was taken for it.
    """
    return body_of(encoded, share, _JSON)
