"""Listening sockets that several workers share a port with.

Each worker has a socket of its own for each address (`SO_REUSEPORT`), and the kernel spreads new
connections over them. The parent keeps them open: what waits in the queue of a worker that is gone
is accepted by the next one.
"""

import contextlib
import socket
from collections.abc import Sequence
from typing import Final

from api.http.bind import BACKLOG, advice, limit_unsent_bytes
from api.http.listener import Listener

_ALL_ADDRESSES: Final = ("", "::")


def open_sockets(listener: Listener, workers: int) -> list[list[socket.socket]]:
    """Return the listening sockets of each worker.

    Args:
        listener: where to listen.
        workers: how many workers there are.

    Raises:
        OSError: its address cannot be listened on; the message says what to do.
    """
    with contextlib.ExitStack() as opened:
        try:
            addresses = _addresses(listener)
            for family, address in addresses:
                # Without SO_REUSEPORT, or it would share the port of any other process of this
                # user that has it set: of a service that is running already.
                _bound(family, address, reuse_port=False).close()
            found = [
                [
                    _bound(family, address, reuse_port=True, opened=opened)
                    for family, address in addresses
                ]
                for _ in range(workers)
            ]
        except OSError as error:
            raise OSError(advice(listener, error)) from error
        opened.pop_all()
        return found


def _addresses(listener: Listener) -> Sequence[tuple[socket.AddressFamily, tuple[object, ...]]]:
    host: str | None = listener.host
    if host in _ALL_ADDRESSES:
        if socket.has_dualstack_ipv6():
            return [(socket.AF_INET6, ("::", listener.port, 0, 0))]
        return [(socket.AF_INET, ("0.0.0.0", listener.port))]  # noqa: S104 - as was asked
    found = socket.getaddrinfo(
        host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, address) for family, *_, address in found))


def _bound(
    family: socket.AddressFamily,
    address: tuple[object, ...],
    *,
    reuse_port: bool,
    opened: contextlib.ExitStack | None = None,
) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        if reuse_port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(address)
        one.listen(BACKLOG)
        one.settimeout(0)
        limit_unsent_bytes(one)
    except OSError:
        one.close()
        raise
    if opened is not None:
        opened.enter_context(one)
    return one
