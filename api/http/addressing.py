"""Which requests are for this service: how their target may be spelled, and what host they name.

Proxies authorize requests by the path as it is spelled, and the router decodes it first.
So a path has one spelling here: nothing in the routes needs an escape.
"""

from collections.abc import Iterable
from typing import Final

from aiohttp import web

from api.http.responses import ApiError

_FOR_ANY_HOST: Final = "/api/health"


def is_spelled_oddly(target: str) -> bool:
    """Return whether the path of a request's target has an escape, or a fragment.

    Args:
        target: as it was received; escapes in its query are as good as any.
    """
    return ("%" in target and "%" in target.partition("?")[0]) or "#" in target


def allowed_names(hosts: Iterable[str]) -> frozenset[str]:
    """Return hosts in the form that `is_for_another_host` compares."""
    return frozenset(host.lower() for host in hosts)


def is_for_another_host(request: web.Request, allowed: frozenset[str]) -> bool:
    """Return whether a request names a host that is not served.

    Probes request health by an address that is not known beforehand, and it reveals nothing.

    Args:
        request: with a `Host`, an absolute target, or both: each must be allowed.
        allowed: from `allowed_names`.
    """
    path = request.rel_url.path
    if path == _FOR_ANY_HOST or path.startswith(f"{_FOR_ANY_HOST}/"):
        return False
    named = [request.headers.get("Host", "")]
    if not request.raw_path.startswith("/"):
        named.append(request.host)
    return any(_name(host) not in allowed for host in named)


def _name(host: str) -> str:
    """Return a host without its port and without the dot that ends a full name."""
    name, _, port = host.rpartition(":")
    if not name or not port.isdecimal():
        name = host
    return name.lower().removesuffix(".")


def misdirected() -> ApiError:
    """Return the error for a request that names another host."""
    return ApiError(421, "misdirected_request", "this service does not serve the host you named")
