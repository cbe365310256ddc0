"""Binds a listener to its address; an error names the setting that has to change."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from api.http.listener import Listener

_BACKLOG: Final = 1024


async def listen(listener: Listener, connection: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Listen on the address of a listener.

    Args:
        listener: where.
        connection: makes what serves a client.

    Raises:
        OSError: its address cannot be listened on; the message says what to do.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(connection, listener.host, listener.port, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(_advice(listener, error)) from error


def _advice(listener: Listener, error: OSError) -> str:
    own = "server." if listener.name == "api" else f"server.{listener.name}_"
    host, port = f"{own}host is {listener.host!r}", f"{own}port is {listener.port}"
    if isinstance(error, socket.gaierror):
        return (
            f"{host}, which no address is known for ({error.strerror}); 127.0.0.1 is this machine"
        )
    if error.errno == errno.EADDRINUSE:
        return (
            f"{port}, which another process listens on already at {listener.host}; set another "
            f"one, or stop that process: `ss -ltnp sport = :{listener.port}` shows who it is"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host}, which is no address of this machine; 0.0.0.0 stands for all that are"
    if error.errno == errno.EACCES:
        return f"{port}, which this user may not listen on; ports from 1024 are free to all"
    return f"{host} and {port}, where nobody can listen: {error.strerror or error}"
