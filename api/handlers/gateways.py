"""The routes of gateways: one request for many devices, with an outcome for each."""

import asyncio
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Protocol

import msgspec
from aiohttp import web

from api.access.authentication import PRINCIPAL, Access
from api.fleet.locations import (
    END_OF_9999_MS,
    YEAR_2000_MS,
    GatewayReport,
    NoSuchDevice,
    Report,
)
from api.handlers.bodies import expect_later, read_body
from api.handlers.openapi import Operation
from api.http.responses import ApiError, json_response
from tracker import RowRejected, StoreUnavailable
from tracker.keys import uuid_key

_MAX_TOUCHES: Final = 10_000
_MAX_REPORTS: Final = 5_000
_AT_ONCE: Final = 500
"""After so many items, other requests get a turn: each item takes one to three microseconds."""


class GatewayTouch(msgspec.Struct, frozen=True):
    """A touch of a device, now or at a time in milliseconds since the Unix epoch."""

    device_id: Annotated[str, msgspec.Meta(extra_json_schema={"format": "uuid"})]
    # No union with int, which decodes at half the speed: a float holds milliseconds exactly.
    at: Annotated[float, msgspec.Meta(ge=YEAR_2000_MS, le=END_OF_9999_MS)] | None = None


class Touches(msgspec.Struct, frozen=True):
    """Touches of any devices."""

    touches: Annotated[list[GatewayTouch], msgspec.Meta(min_length=1, max_length=_MAX_TOUCHES)]


class Touched(msgspec.Struct, frozen=True):
    """The number of recorded touches, and the devices that do not exist."""

    touched: int
    unknown: list[str]


class BulkReports(msgspec.Struct, frozen=True):
    """Reports of any devices, not decoded: an invalid report does not affect the others."""

    locations: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=_MAX_REPORTS)]


class Refused(msgspec.Struct, frozen=True):
    """A report that was not stored: its index in the request, and the reason."""

    index: int
    error: str
    message: str


class BulkStored(msgspec.Struct, frozen=True):
    """The outcome of all reports: stored, duplicate or rejected."""

    stored: int
    duplicates: int
    refused: list[Refused]


_TOUCHES: Final = msgspec.json.Decoder(Touches)
_RAW: Final = msgspec.json.Decoder(BulkReports)
_decode_report: Final = msgspec.json.Decoder(GatewayReport).decode


class BulkUploads(Protocol):
    """Stores the uploads of many devices."""

    def submit(
        self, device_id: str, reports: Sequence[Report], *, size_bytes: int
    ) -> "asyncio.Future[int]":
        """Do the same as `Uploads.store`, and return its result as a future."""
        ...


class GatewayHandlers:
    """Handlers of /api/v1/touches and /api/v1/locations/bulk.

    Args:
        touch: records a touch of a device, by its id in canonical form, at a time in epoch
            seconds, None for now; at last comes the time now.
        now: the time in epoch seconds.
        uploads: stores location reports.
        access: which device an API key may access.
    """

    def __init__(
        self,
        touch: Callable[[str, float | None, float], None],
        now: Callable[[], float],
        uploads: BulkUploads,
        access: Access,
    ) -> None:
        self._touch = touch
        self._now = now
        self._uploads = uploads
        self._access = access
        self._turn = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/api/v1/touches", self._touches, expect_handler=expect_later),
            web.post("/api/v1/locations/bulk", self._bulk, expect_handler=expect_later),
        ]

    async def _next_turn(self) -> None:
        """Let other requests have their turn; of all gateways one goes on in a turn of the loop."""
        async with self._turn:
            await asyncio.sleep(0)

    @Operation(body=_TOUCHES, responses={200: Touched})
    async def _touches(self, request: web.Request) -> web.Response:
        """Record touches of up to 10,000 devices, each at its own time."""
        touches = (await read_body(request, _TOUCHES, self._access, self._next_turn)).touches
        devices, group_id = self._access.devices, request[PRINCIPAL].group_id
        others: dict[int, str] = {}  # what the directory does not have, by place
        for start in range(0, len(touches), _AT_ONCE):
            await self._next_turn()
            for place, one in enumerate(touches[start : start + _AT_ONCE], start):
                if not devices.has(one.device_id, group_id):
                    others[place] = _canonical(one.device_id, place)
        found = await devices.find_many(list(others.values()), group_id)
        unknown = {place: one for place, one in others.items() if one not in found}
        now = self._now()
        for start in range(0, len(touches), _AT_ONCE):
            await self._next_turn()
            for place, one in enumerate(touches[start : start + _AT_ONCE], start):
                if place not in unknown:
                    # A device's clock may be ahead; it was active when its gateway received this.
                    at = None if one.at is None else min(one.at / 1000, now)
                    self._touch(others.get(place, one.device_id), at, now)
        touched = len(touches) - len(unknown)
        return json_response(Touched(touched, list(dict.fromkeys(unknown.values()))))

    @Operation(body=_RAW, responses={200: BulkStored})
    async def _bulk(self, request: web.Request) -> web.Response:
        """Store up to 5,000 reports of any devices; each is stored or rejected for itself."""
        raw = (await read_body(request, _RAW, self._access, self._next_turn)).locations
        reports, refused = await self._decoded(raw)
        by_device = await self._by_device(reports, request[PRINCIPAL].group_id, refused)
        now = self._now()
        for number, device_id in enumerate(by_device, start=1):
            self._touch(device_id, None, now)
            if not number % _AT_ONCE:
                await self._next_turn()
        outcomes = await self._store(by_device, reports, [len(one) for one in raw])
        stored = duplicates = 0
        for places, outcome in outcomes:
            if isinstance(outcome, int):
                stored += len(places) - outcome
                duplicates += outcome
            else:
                refused += [Refused(place, *outcome) for place in places]
        refused.sort(key=lambda one: one.index)
        return json_response(BulkStored(stored, duplicates, refused))

    async def _decoded(
        self, raw: Sequence[msgspec.Raw]
    ) -> tuple[dict[int, GatewayReport], list[Refused]]:
        """Return the valid reports by their places, and the invalid ones."""
        reports: dict[int, GatewayReport] = {}
        refused: list[Refused] = []
        for place, one in enumerate(raw):
            try:
                reports[place] = _decode_report(one)
            except msgspec.ValidationError as error:
                message = str(error).replace("`$.", "`")
                refused.append(Refused(place, "invalid_report", message))
            if not place % _AT_ONCE:
                await self._next_turn()
        return reports, refused

    async def _by_device(
        self, reports: Mapping[int, GatewayReport], group_id: str | None, refused: list[Refused]
    ) -> dict[str, list[int]]:
        """Return the places of the reports of each known device, by its id in canonical form.

        Args:
            reports: by their places.
            group_id: the group of the API key; None for all.
            refused: gets the reports of other devices.
        """
        devices = self._access.devices
        by_device: dict[str, list[int]] = {}
        others: dict[int, str] = {}  # what the directory does not have, by place
        for number, (place, report) in enumerate(reports.items(), start=1):
            if devices.has(report.device_id, group_id):
                by_device.setdefault(report.device_id, []).append(place)
            else:
                try:
                    others[place] = uuid_key(report.device_id)
                except ValueError:
                    message = "Invalid UUID - at `device_id`"
                    refused.append(Refused(place, "invalid_report", message))
            if not number % _AT_ONCE:
                await self._next_turn()
        found = await devices.find_many(list(others.values()), group_id)
        for place, device_id in others.items():
            if device_id in found:
                insort(by_device.setdefault(device_id, []), place)
            else:
                refused.append(_unknown(place))
        return by_device

    async def _store(
        self,
        by_device: dict[str, list[int]],
        reports: dict[int, GatewayReport],
        sizes: Sequence[int],
    ) -> list[tuple[list[int], int | tuple[str, str]]]:
        """Store the reports of each device; return their places and how many were duplicates.

        A rejected report rejects those of its device that come with it, so they are stored one by
        one then. In place of the duplicates comes why nothing was stored.
        """
        outcomes: list[tuple[list[int], int | tuple[str, str]]] = []
        devices = list(by_device.items())
        while devices:
            await self._next_turn()
            now, devices = devices[:_AT_ONCE], devices[_AT_ONCE:]
            submitted, error = self._submit(now, reports, sizes)
            results = await asyncio.gather(*submitted, return_exceptions=True)
            if error is not None:
                raise error
            found = [
                self._outcome(device_id, result)
                for (device_id, _), result in zip(now, results, strict=True)
            ]
            for (device_id, places), outcome in zip(now, found, strict=True):
                if isinstance(outcome, tuple) and outcome[0] == "refused" and len(places) > 1:
                    devices += [(device_id, [place]) for place in places]
                else:
                    outcomes.append((places, outcome))
        return outcomes

    def _submit(
        self,
        by_device: Sequence[tuple[str, list[int]]],
        reports: dict[int, GatewayReport],
        sizes: Sequence[int],
    ) -> tuple[list["asyncio.Future[int]"], StoreUnavailable | None]:
        """Submit the reports of some devices, up to the first that finds no room, and its error."""
        submitted = []
        for device_id, places in by_device:
            given = [reports[place] for place in places]
            size_bytes = sum(sizes[place] for place in places)
            try:
                submitted.append(self._uploads.submit(device_id, given, size_bytes=size_bytes))
            except StoreUnavailable as error:
                return submitted, error
        return submitted, None

    def _outcome(self, device_id: str, result: int | BaseException) -> int | tuple[str, str]:
        if isinstance(result, NoSuchDevice):
            self._access.devices.forget(device_id)
            return "device_not_found", "no such device: register it first"
        if isinstance(result, RowRejected):
            return "refused", "the database rejects this report"
        if isinstance(
            result, BaseException
        ):  # the whole request gets 503, and the client sends it again
            raise result
        return result


def _canonical(device_id: str, place: int) -> str:
    try:
        return uuid_key(device_id)
    except ValueError as error:
        raise ApiError(
            400, "invalid_body", f"Expected a uuid - at `touches[{place}].device_id`"
        ) from error


def _unknown(place: int) -> Refused:
    return Refused(place, "device_not_found", "no such device: register it first")
