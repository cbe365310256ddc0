"""Large response bodies, sent in pieces as the client reads them.

aiohttp passes a body to the transport as a whole, where it stays until the client has read it.
These bodies are passed in pieces, the next one when the transport has room again. So a client that
does not read costs a few pieces, however large the body is.
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
"""The size of a piece, and how much the transport may buffer before the next piece waits."""
_RESET: Final = struct.pack("ii", 1, 0)
"""Linger for no time, so that closing resets the TCP connection."""
_LOG_EVERY_S: Final = 10.0
_JSON: Final = "application/json"

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_broken: Final = LogThrottle(_LOG_EVERY_S)


async def write_pieces(writer: AbstractStreamWriter, data: bytes) -> None:
    """Send bytes in pieces, each when the client has read enough of those before.

    Args:
        writer: writes the response's body.
        data: the bytes.

    Raises:
        ConnectionError: the client has disconnected.
    """
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        await writer.write(view[start : start + PIECE_BYTES])
        await writer.drain()


class _Body(Payload):
    """A body that holds a share of the limit of unsent bytes until it is sent."""

    def __init__(self, first: bytes, share: Share | None, content_type: str) -> None:
        super().__init__(None, content_type=content_type)
        self._first = first
        self._share = share

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise an error: the body can only be sent."""
        del encoding, errors
        raise TypeError("a body in pieces cannot be read as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body; aiohttp calls this.

        Args:
            writer: writes the response's body.

        Raises:
            ConnectionError: the client has disconnected.
        """
        await write_pieces(writer, self._first)

    async def close(self) -> None:
        """Release the share; aiohttp calls this when the body was sent or cannot be sent."""
        if self._share is not None:
            self._share.give_back()


class KnownBody(_Body):
    """A complete body in memory.

    Args:
        data: the body.
        share: is held until the body is sent; None if all requests share the body.
        content_type: its type.
    """

    def __init__(self, data: bytes, share: Share | None, content_type: str = _JSON) -> None:
        if share is not None:
            share.resize(len(data))
        super().__init__(data, share, content_type)
        self._size = len(data)


class GrowingBody(_Body):
    """A JSON body in parts; each part is made when the last one was sent.

    Args:
        first: its first part.
        rest: makes the other parts.
        share: is held until the body is sent.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], share: Share) -> None:
        super().__init__(first, share, _JSON)
        self._rest = rest

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send one part after the other; aiohttp calls this.

        If a part cannot be made, the connection is reset: the status was sent already, and the
        client must not take the body for complete.

        Args:
            writer: writes the response's body.

        Raises:
            ConnectionError: the client has disconnected, or the connection was broken off.
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
    """Reset the connection, so that the client cannot take the body for complete."""
    transport: asyncio.Transport | None = writer.transport
    if transport is None:
        return
    wire = transport.get_extra_info("socket")
    with suppress(OSError):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def body_of(data: bytes, share: Share | None, content_type: str) -> web.Response:
    """Respond with a complete body; a large one holds its share until it is sent.

    Args:
        data: the body.
        share: the share of the body; None if all requests share the body.
        content_type: its type, with parameters.
    """
    if len(data) > PIECE_BYTES:
        return web.Response(body=KnownBody(data, share, content_type))
    if share is not None:
        share.give_back()
    return web.Response(body=data, headers={hdrs.CONTENT_TYPE: content_type})


def json_body(encoded: bytes, share: Share) -> web.Response:
    """Respond with a complete JSON body.

    Args:
        encoded: the body.
        share: the share of the body.
    """
    return body_of(encoded, share, _JSON)
