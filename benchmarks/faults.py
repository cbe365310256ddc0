"""What can go wrong around the service, one by one: each begins, lasts a while, and is mended."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from benchmarks.arena import connected
from benchmarks.scene import ROLE, Scene

_Happening = Callable[[Scene], AsyncIterator[None]]

_STALL_S: Final = 3.0
_SLOW_BYTES_PER_S: Final = 10_000.0
_LATE_S: Final = 2.0
_SLOWLY_S: Final = 0.05
_SOON_S: Final = 60.0
"""For what a fault itself waits for, which is done in a moment unless something is broken."""
_REFUSE: Final = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: what it is called on the command line.
        what: what happens, in a line.
        happen: begins it, and mends it when the block ends.
        requests_suffer: the service itself is stopped or gone, so that requests wait or find
            nobody; without it, no heartbeat may.
        times: how many times as long as others it lasts.
    """

    name: str
    what: str
    happen: Callable[[Scene], AbstractAsyncContextManager[None]]
    requests_suffer: bool
    times: int


FAULTS: Final[dict[str, Fault]] = {}
"""All of them by name."""


def _fault(*, requests_suffer: bool = False, times: int = 1) -> Callable[[_Happening], _Happening]:
    def register(happen: _Happening) -> _Happening:
        name = happen.__name__.replace("_", "-")
        what = (happen.__doc__ or "").rstrip(".")
        FAULTS[name] = Fault(name, what, asynccontextmanager(happen), requests_suffer, times)
        return happen

    return register


# The server.


@_fault()
async def server_stopped(scene: Scene) -> AsyncIterator[None]:
    """An administrator stops the server, which ends all sessions."""
    await asyncio.to_thread(scene.server.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(scene.server.start)


@_fault()
async def server_killed(scene: Scene) -> AsyncIterator[None]:
    """All of the server's processes are ended with SIGKILL."""
    await asyncio.to_thread(scene.server.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(scene.server.start)


@_fault()
async def server_paused(scene: Scene) -> AsyncIterator[None]:
    """The server takes connections and answers nothing (SIGSTOP)."""
    with scene.server.paused():
        yield


@_fault()
async def too_many_connections(scene: Scene) -> AsyncIterator[None]:
    """Another client takes all of the server's connections."""
    dsn = scene.fleet.dsn.replace("//postgres:@", "//stranger@")
    async with AsyncExitStack() as taken, asyncio.timeout(_SOON_S + scene.seconds):
        exhausted = False
        while not exhausted:
            await scene.disconnect()
            try:
                connection = await asyncpg.connect(dsn)
            except asyncpg.TooManyConnectionsError:
                exhausted = not await _sessions(scene)
            else:
                taken.push_async_callback(connection.close)
        yield


@_fault()
async def role_limit_reached(scene: Scene) -> AsyncIterator[None]:
    """The service's role may have no more connections, and loses those that it has."""
    await scene.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
    await scene.disconnect()
    try:
        yield
    finally:
        await scene.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


@_fault()
async def read_only(scene: Scene) -> AsyncIterator[None]:
    """A fail-over leads to a server that takes no writes, and another one back."""
    await scene.execute(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    await scene.disconnect()
    try:
        yield
    finally:
        await scene.execute(f"ALTER ROLE {ROLE} RESET default_transaction_read_only")
        await scene.disconnect()


async def _sessions(scene: Scene) -> int:
    async with connected(scene.fleet.dsn) as connection:
        sessions: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", ROLE
        )
        return sessions


# The network.


@_fault()
async def connections_cut(scene: Scene) -> AsyncIterator[None]:
    """All connections to the server are cut, ten times a second."""

    async def cut() -> None:
        while True:
            scene.proxy.cut()
            await asyncio.sleep(0.1)

    cutting = asyncio.create_task(cut())
    try:
        yield
    finally:
        cutting.cancel()


@_fault()
async def black_hole(scene: Scene) -> AsyncIterator[None]:
    """Packets to and from the server vanish."""
    scene.proxy.swallow()
    try:
        yield
    finally:
        scene.proxy.restore()


@_fault()
async def latency(scene: Scene) -> AsyncIterator[None]:
    """Each answer of the server is two seconds late."""
    scene.proxy.delay_s = _LATE_S
    try:
        yield
    finally:
        scene.proxy.delay_s = 0.0


@_fault()
async def narrow_network(scene: Scene) -> AsyncIterator[None]:
    """10 kB pass in a second, for all connections together."""
    scene.proxy.bytes_per_s = _SLOW_BYTES_PER_S
    try:
        yield
    finally:
        scene.proxy.bytes_per_s = None


@_fault()
async def half_a_reply(scene: Scene) -> AsyncIterator[None]:
    """Whatever is committed, the connection is cut in the middle of the server saying so."""
    scene.proxy.halving = True
    try:
        yield
    finally:
        scene.proxy.halving = False


# The tables.


@_fault(times=6)
async def row_locked(scene: Scene) -> AsyncIterator[None]:
    """For six times as long, somebody's open transaction has locked the row of one device."""
    row = "devices WHERE device_id = $1"
    async with connected(scene.fleet.dsn) as connection, connection.transaction():
        await connection.execute(f"SELECT FROM {row} FOR UPDATE", scene.victim)
        yield


@_fault()
async def table_locked(scene: Scene) -> AsyncIterator[None]:
    """Somebody's migration has locked the table of devices."""
    async with connected(scene.fleet.dsn) as connection, connection.transaction():
        await connection.execute("LOCK TABLE devices IN ACCESS EXCLUSIVE MODE")
        yield


@_fault()
async def table_renamed(scene: Scene) -> AsyncIterator[None]:
    """The table of devices has another name."""
    await scene.execute("ALTER TABLE devices RENAME TO devices_away")
    try:
        yield
    finally:
        await scene.execute("ALTER TABLE devices_away RENAME TO devices")


@_fault()
async def column_type_changed(scene: Scene) -> AsyncIterator[None]:
    """The tracked column of devices becomes text."""
    change = "ALTER TABLE devices ALTER last_seen_at TYPE"
    await scene.execute(f"{change} text")
    try:
        yield
    finally:
        await scene.execute(f"{change} timestamptz USING last_seen_at::timestamptz")


@_fault()
async def permission_revoked(scene: Scene) -> AsyncIterator[None]:
    """The service may not use its tables any more."""
    tables = "ON devices, api_keys, locations"
    await scene.execute(f"REVOKE ALL {tables} FROM {ROLE}")
    try:
        yield
    finally:
        await scene.execute(f"GRANT ALL {tables} TO {ROLE}")


@_fault()
async def disk_full(scene: Scene) -> AsyncIterator[None]:
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


@_fault()
async def row_refused(scene: Scene) -> AsyncIterator[None]:
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


@_fault()
async def device_deleted(scene: Scene) -> AsyncIterator[None]:
    """A device's row is deleted while touches of it are pending."""
    device = str(uuid.uuid4())
    await _register(scene, device)
    missing = await _missing(scene)
    async with asyncio.timeout(_SOON_S):
        await scene.load.heartbeat(device)
        await scene.execute(f"DELETE FROM devices WHERE device_id = '{device}'")
        await scene.load.heartbeat(device)
        yield
        while await _missing(scene) == missing:
            await asyncio.sleep(0.05)
    del scene.load.seen[device]


async def _register(scene: Scene, device: str) -> None:
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


async def _missing(scene: Scene) -> float:
    return (await scene.metrics()).total("activity_flush_keys_total", outcome="missing")


# The service.


@_fault()
async def clock_ahead(scene: Scene) -> AsyncIterator[None]:
    """The clock of the service's host is an hour ahead."""
    scene.service.process.send_signal(signal.SIGUSR1)
    try:
        yield
    finally:
        scene.service.process.send_signal(signal.SIGUSR2)
        # What is pending is stored as of its flush, by the server's clock: never in the future,
        # but later than it was.
        scene.load.heard_at.update(dict.fromkeys(scene.fleet.devices, float("inf")))


@_fault()
async def clock_back(scene: Scene) -> AsyncIterator[None]:
    """The clock of the service's host is an hour back."""
    # What is acknowledged meanwhile is an hour older by the service's clock: it moves nothing.
    scene.load.trusting = False
    scene.service.process.send_signal(signal.SIGUSR2)
    try:
        yield
    finally:
        scene.service.process.send_signal(signal.SIGUSR1)
        async with scene.session.get("/api/health/live"):  # answered by the right clock
            scene.load.trusting = True


@_fault(requests_suffer=True)
async def event_loop_blocked(scene: Scene) -> AsyncIterator[None]:
    """The service does nothing at all for three seconds (SIGSTOP)."""
    process = scene.service.process
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(_STALL_S)
    finally:
        process.send_signal(signal.SIGCONT)
    yield


@_fault(requests_suffer=True)
async def sigterm(scene: Scene) -> AsyncIterator[None]:
    """The service is told to stop under load, and started again."""
    await _end(scene, signal.SIGTERM)
    scene.problems += await scene.unwritten(scene.load.owed())
    yield
    await _start(scene)


@_fault(requests_suffer=True)
async def sigterm_twice(scene: Scene) -> AsyncIterator[None]:
    """The service is told to stop twice under load, and started again."""
    scene.proxy.delay_s = _SLOWLY_S  # so that it has not ended when it is told again
    await _end(scene, signal.SIGTERM, signal.SIGTERM)
    scene.proxy.delay_s = 0.0
    scene.problems += await scene.unwritten(scene.load.owed())
    yield
    await _start(scene)


@_fault(requests_suffer=True)
async def sigterm_without_database(scene: Scene) -> AsyncIterator[None]:
    """The server is stopped, then the service is told to stop; both are started again."""
    await asyncio.to_thread(scene.server.stop)
    try:
        yield
        await _end(scene, signal.SIGTERM)
    finally:
        await asyncio.to_thread(scene.server.start)
    await _start(scene)


async def _start(scene: Scene) -> None:
    """Start the service, and let it know who is there: of strangers it has to ask the server."""
    await scene.service.start()
    for device in set(scene.fleet.devices) - scene.load.silent:
        await scene.load.heartbeat(device)


async def _end(scene: Scene, *signals: signal.Signals) -> None:
    process = scene.service.process
    for number in signals:
        process.send_signal(number)
        await asyncio.sleep(0.1)
    async with asyncio.timeout(_SOON_S):
        code = await process.wait()
    if code:
        scene.problems.append(f"the service ended with {code}")
    await scene.service.stop()
