"""The service gets by with the rights that the page about it has given to its role."""

import re
import secrets

import asyncpg
import pytest

from tests.conftest import with_user
from tests.support.markdown import PAGES
from tests.support.service import running


@pytest.fixture
async def little_dsn(dsn, db):
    """The database as a role sees it that may do what the page says, and nothing else."""
    grants = re.findall(r'"(GRANT .*? TO) fleet_service"', PAGES["docs/howto/postgres.md"].text)
    role, password = f"little_{secrets.token_hex(6)}", secrets.token_hex(6)
    await db.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    for grant in grants:
        await db.execute(f"{grant} {role}")
    yield with_user(dsn, role, password)
    await db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_role_cannot_hide_a_revocation_nor_make_keys(little_dsn):
    """An attacker who controls the service cannot make or restore API keys."""
    connection = await asyncpg.connect(little_dsn)
    try:
        for statement in (
            "UPDATE key_revision SET revision = 0",
            "UPDATE activity_schema_version SET version_num = '9999'",
            "INSERT INTO api_keys (key_hash, prefix, name) VALUES ('x', 'ak_x', 'mine')",
            "DELETE FROM devices",
            "CREATE TABLE mine ()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_role_without_ownership_can_serve(little_dsn, dsn, db):
    """Devices, reports, touches, released ids and readiness; it can't change the schema."""
    limits = {"release_device_id_after_s": 0}
    async with running(little_dsn, owner_dsn=dsn, limits=limits) as service:
        device_id = await service.register()
        assert (await service.heartbeat(device_id)).status == 204
        assert (await service.upload(device_id)).status == 200
        assert len(await service.listing()) == 1
        await service.tracker.flush()
        assert await db.fetchval("SELECT last_seen_at FROM devices") is not None
        assert (await service.call("DELETE", f"/api/v1/devices/{device_id}")).status == 204
        claim = {"device_id": device_id, "display_name": "Van", "group_id": "work"}
        key = await service.make_key("work")
        claimed = await service.call("POST", "/api/v1/devices/register", json=claim, key=key)
        assert claimed.status == 200
        async with service.client.get("/api/health/ready") as ready:
            assert (ready.status, await ready.json()) == (
                200,
                {"status": "ready", "problems": [], "degraded": [], "warnings": []},
            )
