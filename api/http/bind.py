"""Binds a listener to its address; an error names the setting that has to change."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final

from api.http.listener import Listener

BACKLOG: Final = 1024
_UNSENT_BYTES: Final = 65_536
_ALL_ADDRESSES: Final = ("", "::")


async def listen(
    listener: Listener,
    connection: Callable[[], asyncio.Protocol],
    sockets: Sequence[socket.socket] = (),
) -> list[asyncio.Server]:
    """Listen on the address of a listener.

    Args:
        listener: has the address.
        connection: makes the protocol of a connection.
        sockets: listen at the address already; if empty, they are opened.

    Raises:
        OSError: the address cannot be used; the message says what to do.
    """
    loop = asyncio.get_running_loop()
    if sockets:
        return [await loop.create_server(connection, sock=one, backlog=BACKLOG) for one in sockets]
    try:
        if listener.host in _ALL_ADDRESSES:
            # For "::" the event loop would listen on IPv6 only, and for "" on two sockets.
            listening = _on_all_addresses(listener.port)
            server = await loop.create_server(connection, sock=listening, backlog=BACKLOG)
        else:
            server = await loop.create_server(
                connection, listener.host, listener.port, backlog=BACKLOG
            )
    except OSError as error:
        raise OSError(advice(listener, error)) from error
    for listening in server.sockets:
        limit_unsent_bytes(listening)
    return [server]


def _on_all_addresses(port: int) -> socket.socket:
    """Return a socket that listens on all addresses of this machine, IPv6 and IPv4."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)  # noqa: S104 - the setting asks for it


def limit_unsent_bytes(listening: socket.socket) -> None:
    """Limit what the kernel buffers for a client that does not read; the default is megabytes.

    Connections inherit the limit. Data on its way to the client does not count, so the limit does
    not slow down a fast client that is far away.

    Args:
        listening: a socket that listens.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # EADDRNOTAVAIL of Linux and macOS
    if option is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)


def advice(listener: Listener, error: OSError) -> str:
    """Return a message that says what to do about an address that cannot be used.

    Args:
        listener: has the address.
        error: the error of the system.
    """
    own = "server." if listener.name == "api" else f"server.{listener.name}_"
    host, port = f"{own}host is {listener.host!r}", f"{own}port is {listener.port}"
    if isinstance(error, socket.gaierror):
        return (
            f"{host}, which no address is known for ({error.strerror}); 127.0.0.1 is this machine"
        )
    if error.errno == errno.EADDRINUSE:
        return (
            f"{port}, which another process listens on already at {listener.host}; set another "
            f"one, or stop that process: `ss -ltnp sport = :{listener.port}` shows it"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host}, which is no address of this machine; :: stands for all of its addresses"
    if error.errno == errno.EACCES:
        return f"{port}, which this user may not listen on; ports from 1024 are free to all"
    return f"{host} and {port}, where no process can listen: {error.strerror or error}"
