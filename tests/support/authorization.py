"""Every route, API key and way to name a device, with the expected response and touch."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.support.service import REPORT, Service

MINE, THEIRS = "mine", "theirs"
LIST, ONE = "/api/v1/devices", "/api/v1/devices/{device_id}"
REGISTER, BATCH = "/api/v1/devices/register", "/api/v1/locations/batch"
TOUCHES, BULK = "/api/v1/touches", "/api/v1/locations/bulk"
TRACK, GROUPS = "/api/v1/locations", "/api/v1/groups"
OTHERS = "of the other group"
KEYS = {
    "none": None,
    "empty": None,
    "garbage": None,
    "unknown": None,
    "revoked": None,
    "expired": None,
    OTHERS: THEIRS,
    "of the own group": MINE,
    "of all groups": "all",
}
"""Which group each may access; None is for a key that is denied."""
DEVICES = {"own": MINE, "other": THEIRS, "deactivated": None, "unknown": None}
"""Which group's keys reach each; a key of all groups reaches the same, None is for none."""


@dataclass(frozen=True)
class Route:
    """What a route takes, and what it answers when all is well.

    Args:
        status: of the answer.
        body: what it is sent, without the device's id.
        broken: fields that make the body a wrong one.
        writes: devices' rows or reports.
        public: whether it needs no API key.
    """

    status: int
    body: Mapping[str, Any] | None = None
    broken: Mapping[str, Any] | None = None
    writes: bool = False
    public: bool = False


LIVE, EVENTS = "/api/v1/live", "/api/v1/events"
ROUTES = {
    ("POST", REGISTER): Route(200, {"display_name": "Phone"}, {"display_name": ""}, writes=True),
    ("GET", LIST): Route(200),
    ("GET", ONE): Route(200),
    ("DELETE", ONE): Route(204, writes=True),
    ("POST", f"{ONE}/heartbeat"): Route(204),
    ("GET", GROUPS): Route(200),
    ("GET", TRACK): Route(200),
    ("POST", "/api/v1/locations"): Route(200, REPORT, {"latitude": 91}, writes=True),
    ("POST", BATCH): Route(200, {"locations": [REPORT]}, {"locations": []}, writes=True),
    ("POST", TOUCHES): Route(200, {"touches": []}),
    ("POST", BULK): Route(200, {"locations": []}, writes=True),
    ("GET", LIVE): Route(200),
    ("GET", EVENTS): Route(200),
    ("GET", f"{EVENTS}/stream"): Route(200),
    ("GET", "/"): Route(200, public=True),
    ("GET", "/page/{file}"): Route(200, public=True),
    ("GET", "/api/health"): Route(200, public=True),
    ("GET", "/api/health/live"): Route(200, public=True),
    ("GET", "/api/health/ready"): Route(200, public=True),
    ("GET", "/api/openapi.json"): Route(200, public=True),
    ("GET", "/metrics"): Route(200, public=True),
}
ROUTES |= {("HEAD", path): route for (method, path), route in ROUTES.items() if method == "GET"}
OF_GROUPS = {("PUT", f"{GROUPS}/{{group_id}}")}
"""Routes that are about no device: `test_presence` has who may use them."""
NOBODY: frozenset[str] = frozenset()


def ways(path: str, route: Route) -> list[str]:
    """Return the ways in which a request may name a device."""
    found = ["header"]
    if path == TRACK and route.body is None:
        found.append("query")
    if "{device_id}" in path:
        found.append("path")
    if route.body is not None:
        found += ["body", "broken body"]
    if path == BATCH:
        found.append("a report of the batch")
    if path == REGISTER:
        found.append("body, into a group that is not the key's")
    return found


@dataclass(frozen=True)
class Outcome:
    """What is to become of a request.

    Args:
        status: of the answer.
        devices: which devices count as active.
        written: whose rows or reports may change.
    """

    status: int
    devices: frozenset[str] = NOBODY
    written: frozenset[str] = NOBODY


def of_a_gateway(route: Route, key: str, device: str, *, broken: bool) -> Outcome:
    """Return the outcome of a list with one device: what is wrong with it is in the response."""
    if broken:
        return Outcome(400)
    reached = DEVICES[device] is not None and KEYS[key] in (DEVICES[device], "all")
    named = frozenset({device}) if reached else NOBODY
    return Outcome(200, named, named if route.writes else NOBODY)


def expected(method: str, path: str, route: Route, key: str, way: str, device: str) -> Outcome:
    """Return what the rules say, from the names in the tables alone."""
    if route.public or KEYS[key] is None:
        return Outcome(route.status if route.public else 401)
    if path in (TOUCHES, BULK) and way != "header":
        return of_a_gateway(route, key, device, broken=way == "broken body")
    return of_one_device(method, path, route, key, way, device)


def of_one_device(method: str, path: str, route: Route, key: str, way: str, device: str) -> Outcome:
    """Return the outcome of a request that is about one device."""
    reached = DEVICES[device] is not None and KEYS[key] in (DEVICES[device], "all")
    named, base = frozenset({device}), frozenset({"base"})
    if path == REGISTER and way.startswith("body"):
        if way != "body" and KEYS[key] != "all":
            return Outcome(403)
        # A device in no group, or in the key's, may be registered into it.
        reached = reached or device == "unknown" or (device == "deactivated" and key != OTHERS)
    if way in {"broken body", "a report of the batch"}:
        return Outcome(400, base if "batch" in way else named if reached else NOBODY)
    if not reached:
        return Outcome(404)
    if way == "header":
        acts_for_base = method == "POST" and ("{device_id}" in path or route.body is not None)
        named, written = named | base if acts_for_base else named, base
    elif way == "query":
        named = written = NOBODY  # to be looked at is no sign of life
    elif way == "path" and method != "POST":
        named, written = NOBODY, named
    else:
        written = named
    return Outcome(route.status, named, written if route.writes else NOBODY)


class World:
    """A service, a key of each kind, and devices that are new for every request."""

    def __init__(self, service: Service, db: asyncpg.Connection) -> None:
        self.service, self.db = service, db
        self.keys: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.never_seen: list[str] = []

    async def make_keys(self) -> None:
        for key, reach in KEYS.items():
            group = None if reach == "all" else reach
            self.keys[key] = await self.service.make_key(group, name=key)
        self.keys |= {"none": "", "empty": "", "garbage": "x\t{%s}", "unknown": "ak_" + "A" * 43}
        await self.db.execute("UPDATE api_keys SET revoked_at = now() WHERE name = 'revoked'")
        await self.db.execute("UPDATE api_keys SET expires_at = now() WHERE name = 'expired'")

    async def make_devices(self, key: str) -> None:
        """Make one of each kind, and one that the key reaches if it reaches any."""
        self.ids = {kind: str(uuid.uuid4()) for kind in (*DEVICES, "base")}
        base_group = THEIRS if KEYS[key] == THEIRS else MINE
        await self.db.executemany(
            "INSERT INTO devices (device_id, display_name, group_id, platform, is_active) "
            "VALUES ($1, 'Phone', $2, 'android', $3)",
            [
                (self.ids["own"], MINE, True),
                (self.ids["other"], THEIRS, True),
                (self.ids["deactivated"], MINE, False),
                (self.ids["base"], base_group, True),
            ],
        )

    async def rows(self) -> dict[str, tuple[object, int]]:
        """Return what is stored of each device, and how many reports."""
        rows = await self.db.fetch(
            "SELECT d.device_id::text, d::text, "
            "(SELECT count(*) FROM locations l WHERE l.device_id = d.device_id) "
            "FROM devices d WHERE device_id = ANY($1::uuid[])",
            list(self.ids.values()),
        )
        stored = {row[0]: (row[1], row[2]) for row in rows}
        return {kind: stored.get(id_, (None, 0)) for kind, id_ in self.ids.items()}

    def active(self) -> frozenset[str]:
        """Return the devices that were touched, none of which was flushed yet."""
        view = self.service.tracker.pending("devices")
        return frozenset(kind for kind, id_ in self.ids.items() if view.get(id_) is not None)

    async def ask(self, method: str, path: str, route: Route, key: str, way: str, device: str):
        """Make a request and return its status and all by which it differs from another."""
        named, base = self.ids[device], self.ids["base"]
        headers = {} if key == "none" else {"X-API-Key": self.keys[key]}
        if way == "header":
            headers["X-Device-ID"] = named
        own_group = THEIRS if KEYS[key] == THEIRS else MINE
        options: dict[str, Any] = {}
        if route.body is not None:
            body = {"device_id": named if "body" in way else base, **route.body}
            if path == REGISTER:
                foreign = MINE if own_group == THEIRS else THEIRS
                body["group_id"] = foreign if way.endswith("key's") else own_group
            if way == "broken body":
                body |= route.broken or {}
            if path in (TOUCHES, BULK):
                one = {"device_id": body.pop("device_id")}
                if way != "broken body":
                    body = {"touches": [one], "locations": [{**one, **REPORT}]}
            if way == "a report of the batch":
                body["locations"] = [REPORT, {**REPORT, "device_id": named}]
            options["json"] = body
        if path in (LIST, LIVE):
            options["params"] = {"group_id": own_group}
        if path == TRACK and route.body is None:
            options["params"] = {"device_id": named if way == "query" else base}
        url = path.format(device_id=named if way == "path" else base, file="index.html")
        async with self.service.client.request(method, url, headers=headers, **options) as response:
            same = {
                name: value
                for name, value in response.headers.items()
                if name not in {"X-Request-ID", "Date"}
            }
            endless = response.content_type == "text/event-stream"
            text = "" if endless else await response.text()
            return response.status, (response.status, same, text)
