"""The service gets by with the rights that the page about it has given to its role."""

import re
import secrets

import pytest

from tests.conftest import with_user
from tests.support.markdown import PAGES
from tests.support.service import running


@pytest.fixture
async def little_dsn(dsn, db):
    """The database as a role sees it that may do what the page says, and nothing else."""
    (grant,) = re.findall(r'"(GRANT .*? TO) activity"', PAGES["docs/howto/postgres.md"].text)
    role, password = f"little_{secrets.token_hex(6)}", secrets.token_hex(6)
    await db.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; {grant} {role}")
    yield with_user(dsn, role, password)
    await db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_role_that_owns_nothing_can_serve(little_dsn, db):
    """Keys, devices, reports, touches and readiness; it can't change the schema."""
    async with running(little_dsn) as service:
        device_id = await service.register()
        assert (await service.heartbeat(device_id)).status == 204
        assert (await service.upload(device_id)).status == 200
        assert len(await service.listing()) == 1
        await service.tracker.flush()
        assert await db.fetchval("SELECT last_seen_at FROM devices") is not None
        assert (await service.call("DELETE", f"/api/v1/devices/{device_id}")).status == 204
        async with service.client.get("/api/health/ready") as ready:
            assert (ready.status, await ready.json()) == (
                200,
                {"status": "ready", "problems": {}, "warnings": {}},
            )
