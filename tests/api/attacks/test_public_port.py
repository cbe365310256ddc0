"""What a client without an API key finds on the public port: codes, and one spelling of a path."""

import asyncio
import re

import aiohttp
import asyncpg
import pytest

from api.app import metrics as metrics_of_app
from api.config import SettingsError
from api.handlers.exposition import Exposition
from api.load_settings import load_settings
from tests.support.raw_client import PATIENCE_S, free_port, listening
from tests.support.service import running

ROLE, PASSWORD, DATABASE = "marked_role", "marked_password", "marked_database"
LARGE_BYTES = 16_000_000


async def ready(service, status: int = 503, **options) -> str:
    response = await service.call("GET", "/api/health/ready", **options)
    assert response.status == status
    return await response.text()


async def test_readiness_on_the_public_port_names_nothing(dsn, db):
    """User, database, host and table are for API keys of no group, and for the monitor port."""
    async with running(dsn) as service:
        of_group = await service.make_key("family")
        await service.call("GET", "/api/v1/groups", key=of_group)  # cached, as the other one is
        await service.call("GET", "/api/v1/groups")
        await db.execute("ALTER TABLE activity_schema_version RENAME TO elsewhere")
        expected = '{"status":"not_ready","problems":["migrations"],"degraded":[],"warnings":[]}'
        assert await ready(service, key="") == expected
        assert await ready(service, key="wrong") == expected
        assert await ready(service, key=of_group) == expected
        assert 'relation \\"activity_schema_version\\" does not exist' in await ready(service)


async def test_the_monitor_port_has_the_details(dsn, db):
    """It needs no key, and is for those who operate the service."""
    port = free_port()
    async with listening(dsn, monitor_port=port) as service, aiohttp.ClientSession() as session:
        await db.execute("ALTER TABLE activity_schema_version RENAME TO elsewhere")
        found = []
        for at in (service.port, port):
            async with session.get(f"http://127.0.0.1:{at}/api/health/ready") as response:
                found.append(await response.text())
        assert "activity_schema_version" not in found[0]
        assert "activity_schema_version" in found[1]


async def test_an_error_of_the_database_stays_in_the_log(dsn, db):
    """Nor does an error of the driver when the role may not read anything."""
    await db.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}' NOINHERIT")
    try:
        await db.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC")
        at = re.sub("//[^@/]*@", f"//{ROLE}:{PASSWORD}@", dsn)
        async with running(at, owner_dsn=dsn) as service:
            said = await ready(service, 200, key="")
            said += await (await service.client.get("/metrics")).text()
            said += await (await service.call("GET", "/api/v1/groups")).text()
        names = (ROLE, PASSWORD, "schema_version", "permission denied", "asyncpg", "SQLSTATE")
        assert [name for name in names if name in said] == []
    finally:
        await db.execute(f"DROP ROLE {ROLE}")


METRICS = b"# HELP"
SPELLINGS = (
    *("/%6Detrics", "/metric%73", "/%6d%65%74%72%69%63%73", "/%2e/metrics", "/%2Fmetrics"),
    *("//metrics", "/./metrics", "/../metrics", "/x/../metrics", "/metrics/", "/metrics/."),
    *("/METRICS", "/Metrics", "/metrics%00", "/metrics%20", "/metrics;x", "/metrics#x"),
    *("/metrics%3fx", "/\\metrics", "/metrics\\", "http://x/%6Detrics", "http://x//metrics"),
    *("/%256Detrics", "/api%2Fhealth", "/api/%68ealth", "/api%2Fv1/groups", "/page%2Fapp.js"),
    *("/page/%61pp.js", "/page/..%2f..%2fconfig.toml", "/page/x/../app.js"),
)


@pytest.mark.parametrize("target", SPELLINGS)
async def test_a_path_has_one_spelling(dsn, target):
    """Rules of a proxy go by the path as it is spelled, so another spelling is another path."""
    async with listening(dsn, keepalive_timeout_s=0.1) as service:
        assert await status(service, "/metrics?x=%6D") == 200
        assert await status(service, target) in (400, 401, 404)


async def status(service, target: str, *, host: str = "here", version: str = "1.1") -> int:
    async with service.client() as client:
        await client.send(f"GET {target} HTTP/{version}\r\nHost: {host}\r\n\r\n".encode())
        answer = await client.answer()
        if answer.status >= 400:
            assert answer.error
            assert METRICS not in answer.body
        return answer.status


async def test_scrapes_share_one_text_a_second(dsn, monkeypatch):
    """However many clients ask, at once or again and again."""
    made = []
    original = metrics_of_app.exposition

    async def counting(registry):
        made.append(registry)
        return await original(registry)

    monkeypatch.setattr(metrics_of_app, "exposition", counting)
    async with running(dsn, server={"metrics_max_age_s": 60}) as service:

        async def scrape() -> str:
            return await (await service.client.get("/metrics")).text()

        first, *others = await asyncio.gather(*(scrape() for _ in range(20)))
        assert {*others, await scrape(), await scrape()} == {first}
    assert len(made) == 1


async def test_the_next_second_has_a_text_of_its_own():
    """The text is not older than it may be."""
    now = [0.0]
    made = iter([b"first", b"second", b"third"])

    async def make():
        return next(made)

    texts = Exposition(make, max_age_s=1.0, monotonic=lambda: now[0])
    found = []
    for now[0] in (0.0, 0.999, 1.0, 1.5, 2.0):
        found.append(await texts.text())
    assert found == [b"first", b"first", b"second", b"second", b"third"]


async def test_metrics_that_are_not_read_have_a_budget(dsn, monkeypatch):
    """A scrape beyond it gets 503; requests with an API key go on, and so do scrapes later."""

    async def large(_registry):
        return bytes(LARGE_BYTES)

    monkeypatch.setattr(metrics_of_app, "exposition", large)
    limits = {"unsent_bytes_per_key": 2 * LARGE_BYTES, "wait_s": 0.1}
    async with running(dsn, limits=limits) as service:
        port = service.client.port
        clients = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(2)]
        for reader, writer in clients:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")  # it is being sent, and is not read
        response = await service.client.get("/metrics")
        assert (response.status, (await response.json())["error"]) == (503, "too_busy")
        assert (await service.call("GET", "/api/v1/groups")).status == 200
        for _, writer in clients:
            writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            while (response := await service.client.get("/metrics")).status == 503:
                pass
        assert await response.read() == bytes(LARGE_BYTES)


async def test_only_allowed_hosts_are_served(dsn):
    """Another `Host`, or none, gets 421; health, which probes ask for by address, is for all."""
    async with listening(
        dsn, allowed_hosts=["Tracker.example", "[::1]"], keepalive_timeout_s=0.1
    ) as service:
        for host in ("tracker.example", "TRACKER.example:8080", "tracker.example.", "[::1]:80"):
            assert await status(service, "/metrics", host=host) == 200, host
        for host in (
            *("evil.example", "127.0.0.1", "tracker.example.evil", "x.tracker.example"),
            *("tracker.example@evil", "evil:tracker.example", "", "tracker.example:x", "[::2]"),
        ):
            assert await status(service, "/metrics", host=host) in (400, 421), host
            assert await status(service, "/api/health/ready", host=host) in (200, 400), host
        assert await status(service, "/metrics", host="127.0.0.1") == 421
        assert await status(service, "/api/healthy", host="127.0.0.1") == 421
        assert await status(service, "http://evil/metrics", host="tracker.example") == 421
        assert await status(service, "http://tracker.example/metrics", host="evil") == 421
        assert await status(service, "http://tracker.example/metrics", host="[::1]") == 200


async def test_the_monitor_port_serves_any_host(dsn):
    """Prometheus asks by address."""
    port = free_port()
    async with (
        listening(dsn, allowed_hosts=["tracker.example"], monitor_port=port),
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        assert response.status == 200


@pytest.mark.parametrize("bad", ["http://a", "a:80", "a/b", "a,,b", "*"])
def test_an_invalid_allowed_host_is_rejected(monkeypatch, bad):
    """A scheme or a port would never be equal to what is compared."""
    monkeypatch.setenv("ACTIVITY__SERVER__ALLOWED_HOSTS", bad)
    with pytest.raises(SettingsError, match=r"server\.allowed_hosts"):
        load_settings()


def test_hosts_come_from_the_environment_too(monkeypatch):
    """Separated by commas; none at all is any."""
    monkeypatch.setenv("ACTIVITY__SERVER__ALLOWED_HOSTS", "a.example, [::1]")
    assert load_settings().server.allowed_hosts == ["a.example", "[::1]"]
    monkeypatch.setenv("ACTIVITY__SERVER__ALLOWED_HOSTS", "")
    assert load_settings().server.allowed_hosts == []


async def test_readiness_has_no_details_while_the_database_is_unavailable(dsn):
    """The key cannot be looked up, so the response has no details."""
    gone = re.sub(r"/[^/?]+(\?|$)", rf"/{DATABASE}\1", dsn, count=1)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(gone)
    async with running(gone, owner_dsn=dsn) as service:
        assert DATABASE not in await ready(service)
        assert DATABASE not in await ready(service, key="")
