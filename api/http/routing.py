"""Finds the route of a request whose path is spelled as the route is; aiohttp finds the others.

aiohttp's router decodes a path and looks for each of its prefixes. A path of this service needs no
decoding (see `addressing`), so it is compared as it was received: one lookup in a dictionary for a
path without variables, one regular expression for each pattern that has some.
"""

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

from aiohttp import web

T = TypeVar("T")


class RouteTable(Generic[T]):
    """The routes of an application, each with what belongs to it.

    Args:
        routes: what belongs to each route, in the order in which routes are tried.
    """

    def __init__(self, routes: Mapping[web.AbstractRoute, T]) -> None:
        self._plain: dict[str, dict[str, T]] = {}
        patterns: dict[re.Pattern[str], dict[str, T]] = {}
        for route, value in routes.items():
            info = {} if route.resource is None else route.resource.get_info()
            if path := info.get("path"):
                self._plain.setdefault(path, {})[route.method] = value
            elif pattern := info.get("pattern"):
                patterns.setdefault(pattern, {})[route.method] = value
        self._patterns = [(pattern.fullmatch, methods) for pattern, methods in patterns.items()]

    def find(self, method: str, target: str) -> tuple[T, dict[str, str]] | None:
        """Return what belongs to the route of a request, and the variables in its path.

        Args:
            method: of the request.
            target: its target as it was received.

        Returns:
            None if no route has that path and method, or the target is spelled in another way.
        """
        if "%" in target or "#" in target:
            return None
        path = target.partition("?")[0] if "?" in target else target
        methods = self._plain.get(path)
        if methods is not None and method in methods:
            return methods[method], {}
        for matches, methods in self._patterns:
            if method in methods and (found := matches(path)):
                return methods[method], found.groupdict()
        return None
