"""Which URLs and addresses webhooks may be sent to: a service must not reach its own network.

The URL is checked when a webhook is made and again before each request. The address is checked when
the socket for it is made, so it is the one that is connected to, whatever a name resolved to before
(DNS rebinding), and addresses that are written into the URL are checked as well.
"""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from yarl import URL

_MAX_LENGTH: Final = 2000
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}").fullmatch
_LOOKS_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.*").fullmatch
"""The last part is a number, so a resolver may read the whole as an IPv4 address."""
_REFUSED: Final = tuple(
    ip_network(network)
    for network in (
        *("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4"),
        "168.63.129.16/32",  # metadata of Azure, in a public range
        # IPv6 addresses that contain an IPv4 address: compatible, NAT64, Teredo and 6to4.
        *("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
        *("fec0::/10", "5f00::/16"),  # site-local; segment routing
    )
)


class AddressNotAllowed(OSError):
    """An address is not public, and only public ones are allowed."""


def check_url(url: str, *, allow_http: bool, allow_private: bool) -> None:
    """Check that a URL is plain, and that an address in it is allowed.

    Args:
        url: where events are to be sent.
        allow_http: whether `http` is allowed, which everybody on the way can read.
        allow_private: whether addresses are allowed that are not public.

    Raises:
        ValueError: it is not; the message quotes nothing of it.
    """
    if len(url) > _MAX_LENGTH or not re.fullmatch(r"[!-\[\]-~]+", url):  # neither space nor \
        raise ValueError(f"a URL of at most {_MAX_LENGTH} printable ASCII characters is needed")
    try:
        parsed = URL(url)
        host, port = parsed.raw_host or "", parsed.port
    except ValueError:
        raise ValueError("this is no URL") from None
    if parsed.scheme not in ({"https", "http"} if allow_http else {"https"}):
        raise ValueError("https:// is needed; webhooks.allow_http allows http")
    authority = url.partition("://")[2].partition("/")[0]
    if "@" in authority or "#" in url:
        raise ValueError("a URL without user, password and fragment is needed")
    if not port:
        raise ValueError("port 0 cannot be connected to")
    try:
        address = ip_address(host)
    except ValueError:
        if not _NAME(host) or _LOOKS_NUMERIC(host):
            raise ValueError("the host must be a name, or an address in its usual form") from None
        return
    if not allow_private and not is_public(address):
        raise ValueError("the address is not public; webhooks.allow_private allows it")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is neither of a private network nor special in any way."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.scope_id:
            return False
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not any(address in network for network in _REFUSED)
    )


def public_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket for an address; for aiohttp's `TCPConnector(socket_factory=...)`.

    Args:
        address: what `getaddrinfo` returns for one address.

    Raises:
        AddressNotAllowed: the address is not public.
    """
    family, kind, protocol, _, place = address
    if not is_public(ip_address(place[0])):
        raise AddressNotAllowed(f"the address {place[0]} is not public")
    return socket.socket(family, kind, protocol)
