"""Faults of the tables and their rows."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

from benchmarks.faults.environment import ROLE, Environment
from benchmarks.faults.fault import SOON_S, fault
from benchmarks.harness.testbed import connected

_REFUSE: Final = """
CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$
"""


@fault(times=6)
async def row_locked(environment: Environment) -> AsyncIterator[None]:
    """An open transaction has locked the row of one device, for six times as long."""
    row = "devices WHERE device_id = $1"
    async with connected(environment.fleet.dsn) as connection, connection.transaction():
        await connection.execute(f"SELECT FROM {row} FOR UPDATE", environment.victim)
        yield


@fault()
async def table_locked(environment: Environment) -> AsyncIterator[None]:
    """A migration has locked the table of devices."""
    async with connected(environment.fleet.dsn) as connection, connection.transaction():
        await connection.execute("LOCK TABLE devices IN ACCESS EXCLUSIVE MODE")
        yield


@fault()
async def table_renamed(environment: Environment) -> AsyncIterator[None]:
    """The table of devices has another name."""
    await environment.execute("ALTER TABLE devices RENAME TO devices_away")
    try:
        yield
    finally:
        await environment.execute("ALTER TABLE devices_away RENAME TO devices")


@fault()
async def column_type_changed(environment: Environment) -> AsyncIterator[None]:
    """The tracked column of API keys becomes text."""
    change = "ALTER TABLE api_keys ALTER last_used_at TYPE"
    await environment.execute(f"{change} text")
    try:
        yield
    finally:
        await environment.execute(f"{change} timestamptz USING last_used_at::timestamptz")


@fault()
async def permission_revoked(environment: Environment) -> AsyncIterator[None]:
    """The service's role has lost its permissions on the tables."""
    tables = "ON devices, api_keys, locations"
    await environment.execute(f"REVOKE ALL {tables} FROM {ROLE}")
    try:
        yield
    finally:
        await environment.execute(f"GRANT ALL {tables} TO {ROLE}")


@fault()
async def disk_full(environment: Environment) -> AsyncIterator[None]:
    """The server's disk is full: it rejects each new or changed row."""
    body = "RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';"
    tables = ("devices", "api_keys", "locations")
    await environment.execute(
        _REFUSE.format(body=body),
        *(
            f"CREATE TRIGGER reject BEFORE INSERT OR UPDATE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION reject()"
            for table in tables
        ),
    )
    try:
        yield
    finally:
        await environment.execute(
            *(f"DROP TRIGGER reject ON {table}" for table in tables), "DROP FUNCTION reject"
        )


@fault()
async def row_rejected(environment: Environment) -> AsyncIterator[None]:
    """A trigger rejects the row of one device."""
    await environment.execute(
        _REFUSE.format(
            body=f"IF NEW.device_id = '{environment.victim}' THEN RAISE 'not this one'; END IF;"
        ),
        "CREATE TRIGGER reject BEFORE UPDATE ON devices FOR EACH ROW EXECUTE FUNCTION reject()",
    )
    try:
        yield
    finally:
        await environment.execute("DROP TRIGGER reject ON devices", "DROP FUNCTION reject")
        # The tracker counts the touch as rejected, and drops it.
        environment.load.seen.pop(environment.victim, None)


@fault()
async def device_deleted(environment: Environment) -> AsyncIterator[None]:
    """A device's row is deleted while touches of it are pending."""
    device = str(uuid.uuid4())
    await _register(environment, device)
    missing = await _missing(environment)
    async with asyncio.timeout(SOON_S):
        await environment.load.heartbeat(device)
        await environment.execute(f"DELETE FROM devices WHERE device_id = '{device}'")
        await environment.load.heartbeat(device)
        yield
        while await _missing(environment) == missing:
            await asyncio.sleep(0.05)
    del environment.load.seen[device]


async def _register(environment: Environment, device: str) -> None:
    body = {"device_id": device, "display_name": "short-lived", "group_id": "fleet"}
    headers = {"X-API-Key": environment.fleet.keys[0]}
    status = 503
    while status == 503:  # as long as the fault before has an effect
        async with environment.session.post(
            "/api/v1/devices/register", json=body, headers=headers
        ) as response:
            status = response.status
    if status != 200:
        environment.problems.append(f"a registration had the response {status}")


async def _missing(environment: Environment) -> float:
    return (await environment.metrics()).total("activity_flush_keys_total", outcome="missing")
