"""Listens at a door, and says which setting is to blame if that cannot be done."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from api.http.listener import Listener

_BACKLOG: Final = 1024


async def listen(door: Listener, connection: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Listen on a door's address.

    Args:
        door: where.
        connection: makes what serves a client.

    Raises:
        OSError: its address cannot be listened on; the message says what to do.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(connection, door.host, door.port, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(_advice(door, error)) from error


def _advice(door: Listener, error: OSError) -> str:
    own = "server." if door.name == "api" else f"server.{door.name}_"
    host, port = f"{own}host is {door.host!r}", f"{own}port is {door.port}"
    if isinstance(error, socket.gaierror):
        return (
            f"{host}, which no address is known for ({error.strerror}); 127.0.0.1 is this machine"
        )
    if error.errno == errno.EADDRINUSE:
        return (
            f"{port}, which somebody listens on already at {door.host}; set another one, or stop "
            f"them: `ss -ltnp sport = :{door.port}` shows who it is"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host}, which is no address of this machine; 0.0.0.0 stands for all that are"
    if error.errno == errno.EACCES:
        return f"{port}, which this user may not listen on; ports from 1024 are free to all"
    return f"{host} and {port}, where nobody can listen: {error.strerror or error}"
