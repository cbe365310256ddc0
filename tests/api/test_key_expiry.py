"""API keys that expire are denied from that time on, by the database's clock."""

import asyncio

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from api.postgres.clock import DatabaseClock
from api.postgres.migrate import migrate
from api.postgres.upgrade import alembic_config
from tests.support.command_line import run, serving
from tests.support.key_denials import ATTEMPTS, HEARTBEAT, PROMISED_S, refused_after
from tests.support.stores import Clock


async def test_a_key_is_denied_from_its_expiry_on(service, db):
    """By the database's clock, although the key is cached and nothing changes in the table."""
    device_id = await service.register()
    key = await service.make_key()
    await db.execute("UPDATE api_keys SET expires_at = now() + '2 s' WHERE id = 2")
    expires_at = await db.fetchval("SELECT expires_at FROM api_keys WHERE id = 2")
    now = "SELECT clock_timestamp()"
    async with asyncio.timeout(60):
        while True:
            asked_at = await db.fetchval(now)
            response = await service.heartbeat(device_id, key=key)
            answered_at = await db.fetchval(now)
            if response.status == 401:
                break
            assert (asked_at - expires_at).total_seconds() < PROMISED_S
            await asyncio.sleep(0.01)
    assert (expires_at - answered_at).total_seconds() < PROMISED_S
    assert (await response.json())["error"] == "unauthorized"
    assert (await service.heartbeat(device_id)).status == 204


async def test_an_expiry_that_is_changed_by_hand_counts_within_a_second(service, db):
    """An earlier expiry denies the key, a later one authorizes it again."""
    device_id = await service.register()
    for expires_at, status in (("now()", 401), ("NULL", 204), ("'-infinity'", 401)):
        await db.execute(f"UPDATE api_keys SET expires_at = {expires_at}")
        async with asyncio.timeout(10):
            while (await service.heartbeat(device_id)).status != status:
                await asyncio.sleep(0.01)


def test_the_clock_is_the_databases_advanced_by_the_monotonic_clock():
    """It follows the database's time, forwards and backwards, and advances between responses."""
    ours = Clock(1000.0)
    clock = DatabaseClock(ours)
    assert clock.now() == float("-inf")
    asked_at = clock.monotonic()
    ours.now += 0.3  # the answer takes a while: the time in it is that of its beginning or later
    clock.set(5000.0, asked_at=asked_at)
    assert clock.now() == 5000.3
    ours.now += 900
    assert clock.now() == 5900.3
    clock.set(4000.0, asked_at=ours.now)
    assert clock.now() == 4000.0


async def test_every_process_denies_an_expired_key_within_a_second(dsn, db):
    """Without any message between them."""
    async with serving(dsn) as (_, one), serving(dsn) as (_, other), asyncio.timeout(100):
        for _ in range(ATTEMPTS):
            made = run("keys", "create", "--name", "passing", "--expires", "4s", dsn=dsn)
            key = made.stdout.strip()
            for session in (one, other):
                async with session.post(HEARTBEAT, headers={"X-API-Key": key}) as response:
                    assert response.status == 204
            await refused_after((one, other), key)
            late_s = await db.fetchval(
                "SELECT extract(epoch FROM clock_timestamp() - max(expires_at)) FROM api_keys"
            )
            if abs(late_s) < PROMISED_S:
                return
    pytest.fail(f"not once in {ATTEMPTS} times")


async def on_schema(dsn: str, act) -> None:
    """Run Alembic on a database."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, statement_cache_size=0)

    def run_it(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        act(config)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    async with engine.begin() as connection:
        await connection.run_sync(run_it)
    await engine.dispose()


async def test_a_downgrade_to_a_schema_without_expiry_authorizes_no_expired_key(dsn, db):
    """Keys that expire are revoked on the way; forward again, all others go on as before."""
    await db.execute(
        "INSERT INTO api_keys (key_hash, prefix, name, expires_at) VALUES "
        "('1', 'a', 'for good', NULL), ('2', 'b', 'for now', now() + '1 day')"
    )
    await on_schema(dsn, lambda config: command.downgrade(config, "0001"))
    rows = await db.fetch("SELECT name FROM api_keys WHERE revoked_at IS NULL")
    assert [row[0] for row in rows] == ["for good"]
    before = await db.fetchval("SELECT revision FROM key_revision")
    await migrate(dsn, connect_timeout_s=30)
    await db.execute("UPDATE api_keys SET expires_at = now()")
    await db.execute("UPDATE api_keys SET last_used_at = now()")
    assert await db.fetchval("SELECT revision FROM key_revision") == before + 1
