"""Clients that read slowly or not at all."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.support.raw_client import PATIENCE_S

SMALL_BUFFER_BYTES = 4096


@asynccontextmanager
async def asked(port: int, path: str, key: str) -> AsyncIterator[socket.socket]:
    """Send a request over a connection that takes little, and read nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        client.settimeout(0)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(
            client, f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
        )
        yield client


async def status(client: socket.socket) -> int:
    """Return the status of the response, of which no more is read."""
    async with asyncio.timeout(PATIENCE_S):
        line = await asyncio.get_running_loop().sock_recv(client, len("HTTP/1.1 200"))
    return int(line.split()[1])


@asynccontextmanager
async def slow_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose buffers hold little, so that it is sent what it reads and not much more."""

    def small(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(address[0], address[1])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        return made

    connector = aiohttp.TCPConnector(socket_factory=small)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=1024) as session:
        yield session
