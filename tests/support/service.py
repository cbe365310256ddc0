"""The service under test: the real application on a real database, and a client with a key."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from api.access.authentication import Access
from api.access.keys import create_key, hash_key
from api.app import REGISTRY, TRACKER, create_app
from api.config import Settings
from api.postgres.database import open_database
from benchmarks.harness.metrics import Metrics, parse_metrics
from tracker import Tracker

NEVER_S = 3600.0
T0_MS = 946_684_800_000
"""The first capture time that is accepted: the year 2000."""
REPORT = {"timestamp": 1_633_608_001_123, "latitude": 48.5, "longitude": 2.5, "accuracy": 10}


@dataclass
class Service:
    """A running application and what a test wants to do with it."""

    client: TestClient
    dsn: str
    key: str
    settings: Settings

    @property
    def tracker(self) -> Tracker:
        return self.client.app[TRACKER]

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> ClientResponse:
        """Make a request with the key, or another; an empty one sends none."""
        sent = {"X-API-Key": self.key if key is None else key, **(headers or {})}
        if not sent["X-API-Key"]:
            del sent["X-API-Key"]
        return await self.client.request(method, path, headers=sent, **options)

    async def register(self, group_id: str = "family", name: str = "Phone", **options: Any) -> str:
        """Register a new device and return its id."""
        device_id = str(uuid.uuid4())
        body = {"device_id": device_id, "display_name": name, "group_id": group_id}
        response = await self.call("POST", "/api/v1/devices/register", json=body, **options)
        assert response.status == 200, await response.text()
        return device_id

    async def heartbeat(self, device_id: str, **options: Any) -> ClientResponse:
        return await self.call("POST", f"/api/v1/devices/{device_id}/heartbeat", **options)

    async def upload(self, device_id: str, **fields: Any) -> ClientResponse:
        body = {"device_id": device_id, **REPORT, **fields}
        return await self.call("POST", "/api/v1/locations", json=body)

    async def listing(self, group_id: str = "family", **options: Any) -> list[dict[str, Any]]:
        response = await self.call("GET", f"/api/v1/devices?group_id={group_id}", **options)
        assert response.status == 200, await response.text()
        return (await response.json())["devices"]

    async def make_key(
        self, group_id: str | None = None, name: str = "test", *, valid_s: int | None = None
    ) -> str:
        async with open_database(self.dsn, self.settings.database, connections=1) as database:
            return await create_key(database, name, group_id, valid_s=valid_s)

    async def devices_are_known(self) -> None:
        """Return when the service has read all active devices."""
        async with asyncio.timeout(30):
            count = "SELECT count(*) FROM devices WHERE is_active"
            async with open_database(self.dsn, self.settings.database, connections=1) as database:
                ((there,),) = await database.fetch(count)
            while (await self.metrics()).total("auth_known_devices") != there:
                await asyncio.sleep(0.01)

    async def keys_are_known(self) -> None:
        """Return when the API key of the service is in memory, without a request that has it."""
        lookup = self.access._keys
        async with asyncio.timeout(30):
            while (hash_key(self.key) or b"") not in lookup.rows():
                await asyncio.sleep(0.01)

    async def clock_is_known(self) -> None:
        """Return when the service has read the database's clock."""
        async with asyncio.timeout(30):
            while not (await self.metrics()).total("database_clock_offset_seconds"):
                await asyncio.sleep(0.01)

    async def metrics(self) -> Metrics:
        async with self.client.get("/metrics") as response:
            return parse_metrics(await response.text())

    @property
    def registry(self) -> CollectorRegistry:
        """Return the metrics of this process."""
        return self.client.app[REGISTRY]

    @property
    def access(self) -> Access:
        """Authentication and authorization, with their caches."""
        access: Access = self.client.app.layers[-1].__self__
        return access

    def touches(self) -> dict[str, int]:
        """Return how many touches each target has had so far."""
        return {name: buffer.touches for name, buffer in self.tracker.buffers.items()}


@asynccontextmanager
async def running(
    dsn: str,
    *,
    owner_dsn: str | None = None,
    key: str | None = None,
    **sections: dict[str, Any],
) -> AsyncIterator[Service]:
    """Run the application on a database; nothing is flushed unless the test says so.

    Args:
        dsn: the database.
        owner_dsn: the database as its owner, who makes API keys, if the service is another role.
        key: an API key that is there already; one is made by default, which takes a database.
        sections: settings that differ from the defaults, by section.
    """
    # What a test counts is what there is now, not what there was a second ago.
    sections["server"] = {"metrics_max_age_s": 0, **sections.get("server", {})}
    sections["tracker"] = {"flush_interval_s": NEVER_S, **sections.get("tracker", {})}
    settings = Settings(**sections)
    app = await create_app(settings, dsn)
    async with TestClient(TestServer(app)) as client:
        service = Service(client, owner_dsn or dsn, "", settings)
        service.key = key or await service.make_key()
        yield service


def seconds(text: str) -> int:
    """Return the second that an RFC 3339 time stands for."""
    assert text.endswith("Z"), text
    return int(datetime.fromisoformat(text).timestamp())
