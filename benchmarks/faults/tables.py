"""What goes wrong with the tables and their rows."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

from benchmarks.faults.environment import ROLE, Environment
from benchmarks.faults.fault import SOON_S, fault
from benchmarks.harness.testbed import connected

_REFUSE: Final = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$
"""


@fault(times=6)
async def row_locked(scene: Environment) -> AsyncIterator[None]:
    """For six times as long, somebody's open transaction has locked the row of one device."""
    row = "devices WHERE device_id = $1"
    async with connected(scene.fleet.dsn) as connection, connection.transaction():
        await connection.execute(f"SELECT FROM {row} FOR UPDATE", scene.victim)
        yield


@fault()
async def table_locked(scene: Environment) -> AsyncIterator[None]:
    """Somebody's migration has locked the table of devices."""
    async with connected(scene.fleet.dsn) as connection, connection.transaction():
        await connection.execute("LOCK TABLE devices IN ACCESS EXCLUSIVE MODE")
        yield


@fault()
async def table_renamed(scene: Environment) -> AsyncIterator[None]:
    """The table of devices has another name."""
    await scene.execute("ALTER TABLE devices RENAME TO devices_away")
    try:
        yield
    finally:
        await scene.execute("ALTER TABLE devices_away RENAME TO devices")


@fault()
async def column_type_changed(scene: Environment) -> AsyncIterator[None]:
    """The tracked column of devices becomes text."""
    change = "ALTER TABLE devices ALTER last_seen_at TYPE"
    await scene.execute(f"{change} text")
    try:
        yield
    finally:
        await scene.execute(f"{change} timestamptz USING last_seen_at::timestamptz")


@fault()
async def permission_revoked(scene: Environment) -> AsyncIterator[None]:
    """The service may not use its tables any more."""
    tables = "ON devices, api_keys, locations"
    await scene.execute(f"REVOKE ALL {tables} FROM {ROLE}")
    try:
        yield
    finally:
        await scene.execute(f"GRANT ALL {tables} TO {ROLE}")


@fault()
async def disk_full(scene: Environment) -> AsyncIterator[None]:
    """The server has no room for any row, new or changed."""
    body = "RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';"
    tables = ("devices", "api_keys", "locations")
    await scene.execute(
        _REFUSE.format(body=body),
        *(
            f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
            for table in tables
        ),
    )
    try:
        yield
    finally:
        await scene.execute(
            *(f"DROP TRIGGER refuse ON {table}" for table in tables), "DROP FUNCTION refuse"
        )


@fault()
async def row_refused(scene: Environment) -> AsyncIterator[None]:
    """A trigger refuses the row of one device."""
    await scene.execute(
        _REFUSE.format(
            body=f"IF NEW.device_id = '{scene.victim}' THEN RAISE 'not this one'; END IF;"
        ),
        "CREATE TRIGGER refuse BEFORE UPDATE ON devices FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    try:
        yield
    finally:
        await scene.execute("DROP TRIGGER refuse ON devices", "DROP FUNCTION refuse")
        # What a row itself is to blame for is counted as rejected, and let go.
        scene.load.seen.pop(scene.victim, None)


@fault()
async def device_deleted(scene: Environment) -> AsyncIterator[None]:
    """A device's row is deleted while touches of it are pending."""
    device = str(uuid.uuid4())
    await _register(scene, device)
    missing = await _missing(scene)
    async with asyncio.timeout(SOON_S):
        await scene.load.heartbeat(device)
        await scene.execute(f"DELETE FROM devices WHERE device_id = '{device}'")
        await scene.load.heartbeat(device)
        yield
        while await _missing(scene) == missing:
            await asyncio.sleep(0.05)
    del scene.load.seen[device]


async def _register(scene: Environment, device: str) -> None:
    body = {"device_id": device, "display_name": "short-lived", "group_id": "fleet"}
    headers = {"X-API-Key": scene.fleet.keys[0]}
    status = 503
    while status == 503:  # of the fault before
        async with scene.session.post(
            "/api/v1/devices/register", json=body, headers=headers
        ) as answer:
            status = answer.status
    if status != 200:
        scene.problems.append(f"a registration was answered {status}")


async def _missing(scene: Environment) -> float:
    return (await scene.metrics()).total("activity_flush_keys_total", outcome="missing")
